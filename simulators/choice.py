"""Choice models: from how much a user is drawn to each item of a slate to what the user takes. Pure functions.

Models in which at most one item is taken give chances (B, K + 1) whose last column is "none"; `pick` draws from them.
In the position-based model every item is taken or not by itself, (B, K).
"""

from __future__ import annotations

import torch
from torch import Tensor


def proportional(weight: Tensor, no_choice: float) -> Tensor:
    """P(k) = w_k / (sum of w + no_choice), and the rest for none: (B, K) -> (B, K + 1).

    Args:
        weight: at least 0.
        no_choice: weight of taking nothing, more than 0.

    Raises:
        ValueError: a negative weight, or a `no_choice` that is not positive.

    Source: Luce (1959), "Individual choice behavior", the choice axiom.
    """
    if no_choice <= 0:
        raise ValueError(f"no_choice is {no_choice}, expected more than 0")
    if bool((weight < 0).any()):
        raise ValueError(f"a weight is {float(weight.min()):.3g}, expected at least 0")
    return _normalised(torch.cat([weight, torch.full_like(weight[:, :1], no_choice)], 1))


def multinomial_logit(logit: Tensor, no_choice: float) -> Tensor:
    """P(k) = exp(v_k) / (sum of exp(v) + exp(no_choice)), and the rest for none: (B, K) -> (B, K + 1).

    Source: McFadden (1974), "Conditional logit analysis of qualitative choice behavior".
    """
    return torch.cat([logit, torch.full_like(logit[:, :1], no_choice)], 1).softmax(1)


def cascade(attraction: Tensor, attention: float = 1.0) -> Tensor:
    """The user reads from the top, looks at each item with chance `attention`, and stops at the first one taken.

    P(k) = a c_k prod_{j<k} (1 - a c_j): (B, K) chances c of an item when looked at -> (B, K + 1).

    Raises:
        ValueError: a chance outside of [0, 1].

    Source: Craswell et al. (2008), "An experimental comparison of click position-bias models", section 3.4.
    """
    _refuse_chances(attraction)
    if not 0 <= attention <= 1:
        raise ValueError(f"attention is {attention}, expected a chance between 0 and 1")
    taken = attention * attraction  # (B, K)
    still = torch.cat([torch.ones_like(taken[:, :1]), (1 - taken).cumprod(1)], 1)  # (B, K + 1) nothing taken before k
    return torch.cat([taken * still[:, :-1], still[:, -1:]], 1)


def position_based(relevance: Tensor, examination: Tensor) -> Tensor:
    """P(k taken) = e_k r_k, each item by itself: (B, K), (K,) -> (B, K).

    Raises:
        ValueError: a chance outside of [0, 1].

    Source: Richardson, Dominowska, Ragno (2007), "Predicting clicks", section 4.
    """
    _refuse_chances(relevance)
    _refuse_chances(examination)
    return relevance * examination


def mixture(models: list[Tensor], share: list[float]) -> Tensor:
    """Users of whom `share[m]` choose as `models[m]` says: chances of equal shape -> the same shape.

    Raises:
        ValueError: shares that are negative or do not sum to one, or not one for each model.
    """
    if len(models) != len(share) or min(share, default=-1.0) < 0 or abs(sum(share) - 1) > 1e-6:
        raise ValueError(f"shares {share} of {len(models)} models: expected one each, at least 0, with sum 1")
    return torch.stack([weight * model for weight, model in zip(share, models, strict=True)]).sum(0)


def pick(chance: Tensor, draw: Tensor) -> Tensor:
    """The column that a uniform draw falls on: chances (B, K + 1), draws (B,) in [0, 1) -> (B,) 0..K, K for none."""
    return (draw.unsqueeze(1) >= chance[:, :-1].cumsum(1)).sum(1)


def _normalised(weight: Tensor) -> Tensor:
    return weight / weight.sum(1, keepdim=True)


def _refuse_chances(chance: Tensor) -> None:
    if bool(((chance < 0) | (chance > 1)).any()):
        raise ValueError(f"chances reach from {float(chance.min()):.3g} to {float(chance.max()):.3g}, expected 0 to 1")
