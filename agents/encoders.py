"""What networks read of an observation: state, context, bags of the history's items, and a memory if there is one."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from agents.layout import Layout
from recgym.types import Observation

RECENT = 0.7
"""Weight of a slate in the history's recent bags against the one after it."""


class History(nn.Module):
    """Sums of item vectors over the history, weighted by 1, by recency, by feedback, and by both: (B, 2 (1 + F) E)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        ages = torch.arange(layout.history).flip(0) // layout.slate_size  # (L,) slates ago
        self.weight: Tensor
        self.register_buffer("weight", torch.stack([torch.full((len(ages),), 0.2), RECENT**ages]), persistent=False)
        self.views = 2 * (1 + layout.num_feedback)

    def forward(self, observation: Observation, vectors: Tensor) -> Tensor:
        """Bags (B, views, E) of item `vectors` (N, E)."""
        items, weights = self.weigh(observation)
        bags: Tensor = torch.bmm(weights, vectors[(items - 1).clamp_min(0)])  # of rows (B, L, E)
        return bags

    def weigh(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """The history's item ids (B, L), and their weights (B, views, L)."""
        items, feedback = recent(observation, self.weight.shape[1])
        there = (items > 0).to(feedback.dtype).unsqueeze(2)  # (B, L, 1)
        amounts = torch.cat([there, feedback.sign() * feedback.abs().log1p() * there], 2)  # (B, L, 1 + F)
        weights = self.weight.unsqueeze(2) * amounts.unsqueeze(1)  # (B, 2, L, 1 + F)
        return items, weights.transpose(2, 3).flatten(1, 2)


def recent(observation: Observation, length: int) -> tuple[Tensor, Tensor]:
    """The last items (B, `length`) of the history, padded on the left, and their feedback (B, `length`, F)."""
    items, feedback = observation.items, observation.feedback
    assert items is not None and feedback is not None
    items, feedback = items[:, -length:], feedback[:, -length:]
    if items.shape[1] < length:  # a log's prefix may be shorter than what is read
        missing = length - items.shape[1]
        items = nn.functional.pad(items, (missing, 0))
        feedback = nn.functional.pad(feedback, (0, 0, missing, 0))
    return items, feedback


class Encoder(nn.Module):
    """h = MLP(state, context, bags of the history, memory): (B, H); one layer on a backbone's states, else two."""

    def __init__(self, layout: Layout, *, hidden: int, item_width: int, layers: int, memory: int = 0) -> None:
        """Build it; `item_width` E is that of the vectors that the history is read with, `memory` units are read."""
        super().__init__()
        self.memory = memory
        self.state_width, width = layout.state_width, layout.state_width + 1 + memory
        self.history = History(layout) if layout.history else None
        self.bags_width = self.history.views * item_width if self.history else 0
        sizes = [width + self.bags_width, *[hidden] * layers]
        self.layers = nn.ModuleList(nn.Linear(one, other) for one, other in itertools.pairwise(sizes))

    def forward(self, observation: Observation, vectors: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Hidden units (B, H), the state (B, D), and the bags (B, views E) where the history is read.

        Args:
            observation: of B sessions.
            vectors: (N, E), what the history is read with.

        Raises:
            ValueError: the observation has no state.
        """
        if observation.state is None:
            raise ValueError("the observation has no state; ask the environment for observation='state'")
        state = observation.state[:, : self.state_width]
        parts, bags = [state, observation.context], None
        if self.history is not None:
            assert vectors is not None
            bags = self.history(observation, vectors).flatten(1)
            parts.append(bags)
        if self.memory:
            parts.append(observation.memory.hidden)
        hidden = torch.cat(parts, 1)
        for layer in self.layers:
            hidden = gelu(layer(hidden))
        return hidden, state, bags
