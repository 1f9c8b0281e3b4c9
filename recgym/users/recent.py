"""Short-term memory of a session: what was shown and consumed in the last few turns.

Boredom and satiation live here; a state of the whole history blurs them. The same code runs in the simulator, step by
step, and over logged sessions in training, so the two cannot drift apart.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MEMORY = 10
"""Items remembered, W."""
NUM_FEATURES = 7
"""Features of one item in one session, X: see `features`."""
NUM_HABITS = 3
"""Features of one item in the longer history, H: see `habits`."""
NUM_MET = 3
"""Features of one item that was met before: see `met_before`."""
_FAST = 0.6
"""Decay per item of the faster of the two traces; the slower one is the plain share of the last W."""


class Recent(NamedTuple):
    """The last W items of B sessions, oldest first."""

    depth: Tensor  # (B,) float32: slates met in this session
    topics: Tensor  # (B, W) int64: topic of each item (its category, or itself), 0 = nothing yet
    positive: Tensor  # (B, W) float32: 1 where its first feedback was positive


def fresh(batch: int, *, device: torch.device | str = "cpu") -> Recent:
    """Sessions in which nothing has happened."""
    topics = torch.zeros(batch, MEMORY, dtype=torch.int64, device=device)
    return Recent(torch.zeros(batch, device=device), topics, torch.zeros(batch, MEMORY, device=device))


def trace_weights(*, device: torch.device | str = "cpu") -> Tensor:
    """Weights of the fast and the slow trace over the last W items, (W, 2); each sums to one."""
    age = torch.arange(MEMORY - 1, -1, -1, device=device)
    fast = _FAST**age
    return torch.stack([fast / fast.sum(), torch.full_like(fast, 1 / MEMORY)], 1)


def features(recent: Recent, topics: Tensor, weights: Tensor) -> Tensor:
    """Describe items of `topics` (B, K) as the session sees them now, (B, K, X).

    Fast and slow share of the last items that had this topic, the same of those that had it and were consumed, fast
    and slow share that was consumed at all, and log(1 + depth).
    """
    same = (recent.topics.unsqueeze(1) == topics.unsqueeze(2)).to(torch.float32)  # (B, K, W)
    consumed = recent.positive.unsqueeze(1)  # (B, 1, W)
    traces = torch.stack([same, same * consumed, consumed.expand_as(same)], 2) @ weights  # (B, K, 3, 2)
    return torch.cat([traces.flatten(2), recent.depth.log1p().view(-1, 1, 1).expand(-1, topics.shape[1], 1)], 2)


def met_before(items: Tensor, consumed: Tensor, in_session: Tensor, offered: Tensor) -> Tensor:
    """How the `offered` items (B, K) themselves were met within the last L steps, (B, K, 3).

    Whether consumed at all; log(1 + times met) in this session; whether consumed in this session. `items` (B, L) are in
    any order, `consumed` and `in_session` (B, L) float32 say which steps were.
    """
    same = (items.unsqueeze(1) == offered.unsqueeze(2)).to(consumed.dtype)  # (B, K, L)
    counts = same @ torch.stack([consumed, in_session, consumed * in_session], 2)  # (B, K, 3)
    found = counts.clamp(max=1)
    found[:, :, 1] = counts[:, :, 1].log1p()
    return found


def habits(topics_met: Tensor, consumed: Tensor, topics: Tensor) -> Tensor:
    """What the last L steps, from before this session too, say of `topics` (B, K), (B, K, H).

    Share of steps with this topic; consumed share of those, shrunk towards the share of all; that share itself.

    Args:
        topics_met: (B, L) topic of each step, negative where there is none; in any order.
        consumed: (B, L) float32.
        topics: (B, K).
    """
    same = (topics_met.unsqueeze(1) == topics.unsqueeze(2)).to(torch.float32)  # (B, K, L)
    steps = (topics_met >= 0).to(torch.float32).sum(1, keepdim=True) + 3  # (B, 1)
    rate = (consumed.sum(1, keepdim=True) + 0.5) / steps  # (B, 1)
    number = same.sum(2)  # (B, K)
    shrunk = torch.add((same * consumed.unsqueeze(1)).sum(2), rate, alpha=3) / (number + 3)
    rates = torch.stack([shrunk, rate.expand_as(shrunk)], 2).logit()
    return torch.cat([(number / steps).unsqueeze(2), rates], 2)


def remember(recent: Recent, topics: Tensor, positive: Tensor, met: Tensor | None = None) -> Recent:
    """Append one slate: `topics` (B, K), `positive` (B, K) float32; where `met` (B, K) is False nothing happened."""
    depth, old_topics, old_positive = recent
    if met is None:
        slots = topics.shape[1]
        last = (torch.cat([old[:, slots:], new], 1) for old, new in ((old_topics, topics), (old_positive, positive)))
        return Recent(depth + 1, *(part[:, -MEMORY:] for part in last))
    for slot in range(topics.shape[1]):
        here = met[:, slot : slot + 1]
        new_topics = torch.cat([old_topics[:, 1:], topics[:, slot : slot + 1]], 1)
        new_positive = torch.cat([old_positive[:, 1:], positive[:, slot : slot + 1]], 1)
        old_topics = torch.where(here, new_topics, old_topics)
        old_positive = torch.where(here, new_positive, old_positive)
    return Recent(depth + met.any(1), old_topics, old_positive)
