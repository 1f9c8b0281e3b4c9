"""Slates of users who take at most one item: chances under a conditional logit, and slates of the highest value.

    P(i | s, A) = w_i / (1 + sum over j in A of w_j),   w_i = exp(u(s, i)),   and 1 / (1 + sum) for taking nothing
    Q(s, A)     = sum over i in A of P(i | s, A) Q(s, i) + P(none | s, A) Q(s, none)

The best slate is a linear-fractional program over 0 <= x_i <= 1, sum of x = K, whose relaxation is exact (Chen and
Hausman 2000). Charnes and Cooper make one linear program of it; here it is solved by Dinkelbach's iteration, which
needs no solver: with L the best value, the best slate has the K largest w_i (Q(s, i) - L), and L is its value.

Source: Ie et al. (2019), "SlateQ: a tractable decomposition for reinforcement learning with recommendation sets",
sections 4.2 and 5.1 (exact, top-k and greedy); Dinkelbach (1967), "On nonlinear fractional programming".
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from agents.choice import allow

Selection = Literal["exact", "top-k", "greedy"]
SELECTIONS: tuple[Selection, ...] = ("exact", "top-k", "greedy")
_ROUNDS = 30
"""Dinkelbach's iterations at most; it ends by itself after a handful, since each makes the value strictly better."""
_MOST = 30.0
"""Logits are held to this size, so that no weight overflows."""


class Items(NamedTuple):
    """What is known of the items of B sessions."""

    logit: Tensor  # (B, N) u(s, i), of taking an item against taking nothing
    value: Tensor  # (B, N) Q(s, i), of what follows if the item is taken
    nothing: Tensor  # (B,) Q(s, none)


def choice_chances(logit: Tensor) -> Tensor:
    """P(k | s, A) for slates' logits (B, K), with the chance of taking nothing in the last column: (B, K + 1)."""
    return torch.cat([logit, torch.zeros_like(logit[:, :1])], 1).softmax(1)


def slate_values(items: Items, slates: Tensor) -> Tensor:
    """Q(s, A) of slates (B, K) of item numbers from 0: (B,)."""
    chances = choice_chances(_held(items.logit).gather(1, slates))
    return (chances * torch.cat([items.value.gather(1, slates), items.nothing.unsqueeze(1)], 1)).sum(1)


def slate_scores(items: Items, mask: Tensor | None, slate_size: int, selection: Selection) -> Tensor:
    """Scores (B, N) whose K largest among the allowed items are the chosen slate, best first.

    Args:
        items: of B sessions.
        mask: True where an item may be shown, (B, N), or None.
        slate_size: items a slate, K.
        selection: "exact": the slate of the highest value. "top-k": the K largest w_i Q(s, i). "greedy": slot by slot
            the item that makes the slate so far most valuable.
    """
    weight = _held(items.logit).exp()
    if selection == "top-k":
        return weight * items.value
    if selection == "greedy":
        return _greedy(weight, items, mask, slate_size)
    return _exact(weight, items, mask, slate_size)


def _exact(weight: Tensor, items: Items, mask: Tensor | None, slate_size: int) -> Tensor:
    """w_i (Q(s, i) - L) at the L that the K largest of them have as their slate's value."""
    value = items.nothing  # (B,), a lower bound or not: one iteration makes a slate's value of it
    scores = weight * (items.value - value.unsqueeze(1))
    last: Tensor | None = None
    for _ in range(_ROUNDS):
        slates = allow(scores, mask).topk(slate_size, 1).indices
        if last is not None and torch.equal(slates, last):
            break
        value, last = slate_values(items, slates), slates
        scores = weight * (items.value - value.unsqueeze(1))
    return scores


def _greedy(weight: Tensor, items: Items, mask: Tensor | None, slate_size: int) -> Tensor:
    """The value of a slate of each item alone; for the chosen ones more than any, in order."""
    mass, worth = torch.ones_like(items.nothing), items.nothing  # (B,) sums of w and of w Q so far
    scores, left = torch.empty(0), weight * items.value
    chosen: list[Tensor] = []
    for _ in range(slate_size):
        total = (worth.unsqueeze(1) + left) / (mass.unsqueeze(1) + weight)  # (B, N)
        if not chosen:
            scores = total.clone()
        total = allow(total, mask)
        for earlier in chosen:
            total = total.scatter(1, earlier, -torch.inf)
        best = total.argmax(1, keepdim=True)  # (B, 1)
        chosen.append(best)
        mass = mass + weight.gather(1, best)[:, 0]
        worth = worth + left.gather(1, best)[:, 0]
    above = scores.amax(1, keepdim=True)
    for slot, best in enumerate(chosen):
        scores.scatter_(1, best, above + above.abs() * 1e-3 + (slate_size - slot))
    return scores


def _held(logit: Tensor) -> Tensor:
    return logit.clamp(-_MOST, _MOST)
