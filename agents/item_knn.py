"""Item-kNN: items that the same users chose, by cosine of their co-occurrence, around the user's latest choices.

Source: Sarwar, Karypis, Konstan, Riedl (2001), "Item-based collaborative filtering recommendation algorithms"; the
shrinkage of Bell and Koren (2007), "Scalable collaborative filtering with jointly derived neighborhood weights".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from agents.baselines import history_of, target_counts, tie_breaker
from agents.choice import greedy_probabilities, top_items
from recgym.backbones.knn import nearest_items
from recgym.logs.sequences import Sequences
from recgym.logs.splits import TRAIN, Roles
from recgym.types import Observation, Reads


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemKNN:
    """Score j: sum over the last positive steps i of decay^age(i) * similarity(i, j); popularity breaks ties."""

    neighbours: Tensor  # (N, M) int64: item ids of the most similar items, 0 where there are fewer
    similarity: Tensor  # (N, M) float32: their cosine
    counts: Tensor  # (N,) float32
    decay: float = 0.8
    """Weight of a positive step against the one after it."""
    slate_size: int = 1

    name: ClassVar[str] = "item-knn"
    reads: ClassVar[Reads] = "history"

    @classmethod
    def fit(
        cls,
        sequences: Sequences,
        roles: Roles,
        *,
        within: Literal["user", "session"] = "user",
        neighbours: int = 100,
        shrinkage: float = 10.0,
        slate_size: int = 1,
    ) -> ItemKNN:
        """Compare items by who chose them in the training steps.

        Args:
            sequences: the log; `roles` (M,) says which steps train.
            roles: (M,).
            within: items co-occur where one user, or one session, chose both.
            neighbours: similar items kept for each item.
            shrinkage: added to the denominator of the cosine, so that rare pairs count less.
            slate_size: K.
        """
        chosen = sequences.targets & (roles == TRAIN)  # (M,)
        group = (sequences.user_of_step if within == "user" else sequences.session)[chosen]
        ids, values = nearest_items(
            np.asarray(group, np.int64), np.asarray(sequences.item[chosen], np.int64), sequences.num_items,
            neighbours=min(neighbours, sequences.num_items), shrinkage=shrinkage,
        )  # fmt: skip
        counts = target_counts(sequences, roles)
        return cls(
            neighbours=torch.from_numpy(ids), similarity=torch.from_numpy(values), counts=counts, slate_size=slate_size
        )

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return len(self.counts)

    def scores(self, observation: Observation) -> Tensor:
        """Decayed similarity to the history, (B, N)."""
        items, positive = history_of(observation)  # (B, L)
        ages = positive.flip(1).cumsum(1).flip(1) - 1
        weight = positive * self.decay**ages  # (B, L)
        row = (items - 1).clamp_min(0)
        near, similar = self.neighbours[row].flatten(1), self.similarity[row]  # (B, L * M), (B, L, M)
        gains = (similar * weight.unsqueeze(2)).flatten(1)
        scores = torch.zeros(len(items), self.num_items + 1).scatter_add_(1, near, gains)[:, 1:]
        return scores + 1e-3 * tie_breaker(self.counts)

    def probabilities(self, observation: Observation) -> Tensor:
        """One-hot, (B, N)."""
        return greedy_probabilities(self.scores(observation), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:  # noqa: ARG002
        """The K best allowed items, (B, K)."""
        return top_items(self.scores(observation), observation.mask, self.slate_size)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"decay": self.decay, "slate_size": self.slate_size}

    def tensors(self) -> dict[str, Tensor]:
        """Neighbours, their similarity, and the counts."""
        return {"neighbours": self.neighbours, "similarity": self.similarity, "counts": self.counts}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> ItemKNN:
        """The policy whose `config` and `tensors` these are."""
        return cls(**{**config, **tensors})
