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
from recgym.logs.sequences import Sequences
from recgym.logs.splits import TRAIN, Roles
from recgym.types import FloatArray, IntArray, Observation, Reads


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


def nearest_items(
    group: IntArray, item: IntArray, num_items: int, *, neighbours: int, shrinkage: float
) -> tuple[IntArray, FloatArray]:
    """The most similar items of each: ids (N, M) with 0 for none, cosine (N, M).

    similarity(i, j) = c(i, j) / (sqrt(c(i) c(j)) + shrinkage), c counting groups (users or sessions); 0 with itself.
    Rows of the co-occurrence are counted in blocks of at most 8 million cells, so that no N x N array is held.
    """
    pairs = np.unique(np.stack([group, item]), axis=1)  # (2, P): each group counts an item once
    group, item = pairs[0], pairs[1]  # sorted by group
    group_start = np.searchsorted(group, group, "left")  # (P,)
    group_size = np.searchsorted(group, group, "right") - group_start
    by_item = np.argsort(item, kind="stable")
    item_bounds = np.searchsorted(item[by_item], np.arange(1, num_items + 2))  # (N + 1,)
    frequency = np.diff(item_bounds).astype(np.float64)  # (N,)
    ids, values = np.zeros((num_items, neighbours), np.int64), np.zeros((num_items, neighbours), np.float32)
    block = max(1, 8_000_000 // (num_items + 1))
    for first in range(0, num_items, block):
        last = min(first + block, num_items)
        rows = by_item[item_bounds[first] : item_bounds[last]]  # pairs of this block's items
        size = group_size[rows]
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        other = item[np.repeat(group_start[rows], size) + within]  # items of the same groups
        cell = np.repeat(item[rows] - 1 - first, size) * (num_items + 1) + other
        together = np.bincount(cell, minlength=(last - first) * (num_items + 1)).reshape(last - first, -1)[:, 1:]
        cosine = together / (np.sqrt(np.outer(frequency[first:last], frequency)) + shrinkage + 1e-12)
        cosine[np.arange(last - first), np.arange(first, last)] = 0
        best = np.argsort(-cosine, axis=1, kind="stable")[:, :neighbours]
        values[first:last] = np.take_along_axis(cosine, best, 1)
        ids[first:last] = np.where(values[first:last] > 0, best + 1, 0)
    return ids, values
