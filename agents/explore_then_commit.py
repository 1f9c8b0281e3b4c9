"""Explore a few items, then commit to the best: the simple heuristic that most published agents fail to beat.

Source: the explore-then-commit row of bandits (Robbins 1952; Lattimore and Szepesvari 2020, chapter 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from agents.baselines import history_of
from agents.choice import greedy_probabilities, top_items
from recgym.backbones.backbone import Backbone
from recgym.logs.sequences import Sequences
from recgym.logs.splits import TRAIN, Roles
from recgym.types import Observation, Reads


@dataclass(frozen=True, kw_only=True, eq=False)
class ExploreThenCommit:
    """Shows `explore` items of different kinds, then what this user's feedback says is best.

    The first `explore` items of a session come from a fixed list: popular items that are far from each other. After
    them an item of the history is worth its mean positive feedback, shrunk as if `prior` more observations had the
    item's rate in the training log. Then it shows, in this order: the observed items that did better than their rate,
    best first (again and again where repeats are allowed); items never observed, by their rate plus their likeness
    (cosine of item vectors) to what did better, less that to what did worse; observed items that did worse. So under
    masked repeats it moves from the best observed items to their nearest neighbours.
    """

    order: Tensor  # (explore,) int64: items of the exploration, first shown first
    rate: Tensor  # (N,) float32: positive feedback per training step of each item, shrunk
    unit_vectors: Tensor  # (N, D) float32: item vectors of length 1
    prior: float = 1.0
    slate_size: int = 1

    name: ClassVar[str] = "explore-then-commit"
    reads: ClassVar[Reads] = "history"

    @classmethod
    def fit(
        cls, sequences: Sequences, roles: Roles, backbone: Backbone, *, explore: int = 8, slate_size: int = 1
    ) -> ExploreThenCommit:
        """Choose what to explore from the training steps and the backbone's item vectors; `roles` (M,)."""
        train = roles == TRAIN
        shown = np.bincount(sequences.item[train], minlength=sequences.num_items + 1)[1:]  # (N,)
        positive = np.bincount(sequences.item[train & sequences.targets], minlength=sequences.num_items + 1)[1:]
        mean = positive.sum() / max(shown.sum(), 1)
        rate = (positive + 10 * mean) / (shown + 10)
        with torch.no_grad():
            unit = torch.nn.functional.normalize(backbone.item_vectors().detach().cpu().float(), dim=1)
        order = different_items(torch.from_numpy(positive.astype(np.float32)), unit, min(explore, len(rate)))
        rates = torch.from_numpy(rate.astype(np.float32))
        return cls(order=order, rate=rates, unit_vectors=unit, slate_size=slate_size)

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return len(self.rate)

    def scores(self, observation: Observation) -> Tensor:
        """Exploration, then good observed items (2 to 3), new ones (-1 to 1), bad ones (-2 to -1), (B, N)."""
        items, positive = history_of(observation)  # (B, L)
        batch, columns = len(items), self.num_items + 1
        good = torch.zeros(batch, columns).scatter_add_(1, items, positive)[:, 1:]  # (B, N)
        seen = torch.zeros(batch, columns).scatter_add_(1, items, torch.ones_like(positive))[:, 1:]
        value = (good + self.prior * self.rate) / (seen + self.prior)
        surprise = (value - self.rate) * (seen > 0)  # (B, N): better or worse than this item's rate
        near = torch.tanh(self.rate + surprise @ self.unit_vectors @ self.unit_vectors.T)  # (B, N) in (-1, 1)
        scores = torch.where(seen > 0, value + surprise.sign() * 2, near)
        shown = (observation.context[:, :1] * 100).round().to(torch.int64) * self.slate_size  # (B, 1)
        place = torch.arange(len(self.order)) - shown  # (B, explore): 0 is next
        bonus = torch.where((shown < len(self.order)) & (place >= 0), 1e3 - place, torch.zeros(()))
        return scores.scatter_add(1, (self.order - 1).expand(batch, -1), bonus)

    def probabilities(self, observation: Observation) -> Tensor:
        """One-hot, (B, N)."""
        return greedy_probabilities(self.scores(observation), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:  # noqa: ARG002
        """The K best allowed items, (B, K)."""
        return top_items(self.scores(observation), observation.mask, self.slate_size)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"prior": self.prior, "slate_size": self.slate_size}

    def tensors(self) -> dict[str, Tensor]:
        """Order of the exploration, rates and item vectors."""
        return {"order": self.order, "rate": self.rate, "unit_vectors": self.unit_vectors}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> ExploreThenCommit:
        """The policy whose `config` and `tensors` these are."""
        return cls(**{**config, **tensors})


def different_items(counts: Tensor, unit_vectors: Tensor, number: int) -> Tensor:
    """Popular items that differ, (number,) ids: greedily the largest log(1 + count) * (1 - cosine to the chosen)."""
    weight = torch.log1p(counts) + 1e-3
    distance = torch.ones_like(weight)
    chosen: list[int] = []
    for _ in range(number):
        gain = weight * distance
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        distance = torch.minimum(distance, (1 - unit_vectors @ unit_vectors[best]).clamp_min(0))
    return torch.tensor(chosen) + 1
