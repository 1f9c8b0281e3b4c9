"""From scores to choices: masks, top-K slates, exact probabilities. Pure functions, shared by every policy.

Ties go to the item with the smallest id, everywhere, so that an action and its probability always agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recgym.random import fold, gumbel, uniform


def allow(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores (B, N) with -inf where the mask (B, N) forbids the item."""
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


def best_value(values: Tensor, scores: Tensor, mask: Tensor | None) -> Tensor:
    """Values (B, N) of the allowed items that `scores` (B, N) hold best, (B,); 0 where none is left."""
    best = allow(scores, mask).argmax(1, keepdim=True)  # (B, 1)
    found = values.gather(1, best)[:, 0]
    return found if mask is None else torch.where(mask.any(1), found, torch.zeros_like(found))


def top_items(scores: Tensor, mask: Tensor | None, slate_size: int) -> Tensor:
    """The `slate_size` best allowed items, best first: (B, N) -> item ids (B, K), no duplicates.

    Raises:
        ValueError: a row allows fewer than `slate_size` items.
    """
    check_enough(scores, mask, slate_size)
    left = allow(scores, mask)
    if slate_size == 1:
        return left.argmax(1, keepdim=True) + 1
    left = left.clone()
    slate = torch.empty(len(scores), slate_size, dtype=torch.int64, device=scores.device)
    for slot in range(slate_size):
        best = left.argmax(1, keepdim=True)  # (B, 1)
        slate[:, slot : slot + 1] = best + 1
        left.scatter_(1, best, -torch.inf)
    return slate


def greedy_probabilities(scores: Tensor, mask: Tensor | None) -> Tensor:
    """One-hot rows (B, N) at the best allowed item."""
    best = top_items(scores, mask, 1) - 1
    return torch.zeros_like(scores).scatter_(1, best, 1.0)


def softmax_probabilities(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the allowed items, (B, N)."""
    check_enough(scores, mask, 1)
    return torch.softmax(allow(scores, mask), 1)


def uniform_probabilities(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Equal chances for the allowed items, (B, N)."""
    return softmax_probabilities(torch.zeros_like(scores), mask)


def sample_items(logits: Tensor, mask: Tensor | None, slate_size: int, keys: Tensor) -> Tensor:
    """K items without replacement, slot 0 ~ softmax of the allowed logits: (B, K) ids.

    Gumbel top-K. Source: Kool, van Hoof, Welling (2019), "Stochastic beams and where to find them", section 2.
    """
    return top_items(logits + gumbel(keys, logits.shape[1]), mask, slate_size)


def explore(slate: Tensor, other: Tensor, epsilon: float, keys: Tensor) -> Tensor:
    """Rows of `other` with chance epsilon, rows of `slate` else: (B, K)."""
    return torch.where(uniform(fold(keys, 1), 1) < epsilon, other, slate)


def check_enough(scores: Tensor, mask: Tensor | None, slate_size: int) -> None:
    """Refuse rows of scores (B, N) that allow fewer than `slate_size` items."""
    fewest = scores.shape[1] if mask is None else int(mask.sum(1).min()) if len(mask) else slate_size
    if fewest < slate_size:
        raise ValueError(
            f"a slate of {slate_size} items was asked for where only {fewest} may be shown; "
            "make slates smaller, sessions shorter, or allow repeats"
        )
