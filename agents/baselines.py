"""The trivial policies that every report prints beside the trained ones: what any agent has to beat.

All are greedy on their scores except `Random`; `slate_size` K > 1 shows the K best. Those that are fitted see the
training steps alone. Source of the protocol: docs/design.md, section 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from agents.choice import greedy_probabilities, sample_items, top_items, uniform_probabilities
from recgym.backbones.backbone import Backbone
from recgym.logs.sequences import Sequences
from recgym.logs.splits import TRAIN, Roles
from recgym.types import Observation, Reads

_TIE = 1e-3
"""Weight of popularity (below 1) where it only breaks ties; above float32's resolution of the scores it is added to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Random:
    """Every allowed item with the same chance."""

    num_items: int
    slate_size: int = 1

    name: ClassVar[str] = "random"
    reads: ClassVar[Reads] = "history"

    def scores(self, observation: Observation) -> Tensor:
        """Zero for every item, (B, N): it prefers none."""
        return torch.zeros(len(observation.context), self.num_items)

    def probabilities(self, observation: Observation) -> Tensor:
        """Uniform over the allowed items, (B, N)."""
        return uniform_probabilities(self.scores(observation), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        """K different items, (B, K)."""
        return sample_items(self.scores(observation), observation.mask, self.slate_size, keys)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"num_items": self.num_items, "slate_size": self.slate_size}

    def tensors(self) -> dict[str, Tensor]:
        """Nothing is learned; safetensors wants one array, so the size stands here too."""
        return {"num_items": torch.tensor([self.num_items])}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Random:  # noqa: ARG003
        """The policy whose `config` this is."""
        return cls(**config)


@dataclass(frozen=True, kw_only=True, eq=False)
class Popularity:
    """The items that were clicked (consumed) most often in the training log, for everybody."""

    counts: Tensor  # (N,) float32
    slate_size: int = 1

    name: ClassVar[str] = "popularity"
    reads: ClassVar[Reads] = "history"

    @classmethod
    def fit(cls, sequences: Sequences, roles: Roles, *, slate_size: int = 1) -> Popularity:
        """Count the training targets of `sequences`; `roles` (M,)."""
        return cls(counts=target_counts(sequences, roles), slate_size=slate_size)

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return len(self.counts)

    def scores(self, observation: Observation) -> Tensor:
        """Counts, (B, N)."""
        return self.counts.expand(len(observation.context), -1)

    def probabilities(self, observation: Observation) -> Tensor:
        """One-hot, (B, N)."""
        return greedy_probabilities(self.scores(observation), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:  # noqa: ARG002
        """The K most popular allowed items, (B, K)."""
        return top_items(self.scores(observation), observation.mask, self.slate_size)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"slate_size": self.slate_size}

    def tensors(self) -> dict[str, Tensor]:
        """The counts."""
        return {"counts": self.counts}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Popularity:
        """The policy whose `config` and `tensors` these are."""
        return cls(**{**config, **tensors})


@dataclass(frozen=True, kw_only=True, eq=False)
class RepeatHistory:
    """What the user liked before, again: sum of decay^age over an item's positive steps; popularity breaks ties."""

    counts: Tensor  # (N,) float32
    decay: float = 0.9
    """Weight of a step against the one after it."""
    slate_size: int = 1

    name: ClassVar[str] = "repeat-history"
    reads: ClassVar[Reads] = "history"

    @classmethod
    def fit(cls, sequences: Sequences, roles: Roles, *, slate_size: int = 1) -> RepeatHistory:
        """Count the training targets of `sequences`, for the ties; `roles` (M,)."""
        return cls(counts=target_counts(sequences, roles), slate_size=slate_size)

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return len(self.counts)

    def scores(self, observation: Observation) -> Tensor:
        """Decayed positive steps of each item, plus at most the tie-breaker, (B, N)."""
        items, positive = history_of(observation)  # (B, L)
        ages = positive.flip(1).cumsum(1).flip(1) - 1  # (B, L): positive steps since, 0 for the latest
        weight = positive * self.decay**ages
        seen = torch.zeros(len(items), self.num_items + 1).scatter_add_(1, items, weight)[:, 1:]
        oldest = self.decay ** items.shape[1]
        return seen + oldest * tie_breaker(self.counts)

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
        """The counts."""
        return {"counts": self.counts}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> RepeatHistory:
        """The policy whose `config` and `tensors` these are."""
        return cls(**{**config, **tensors})


@dataclass(frozen=True, kw_only=True, eq=False)
class BackboneGreedy:
    """The ranker that stands today: the items the backbone holds most likely to come next."""

    item_vectors: Tensor  # (N, D)
    item_bias: Tensor  # (N,)
    slate_size: int = 1

    name: ClassVar[str] = "backbone-greedy"
    reads: ClassVar[Reads] = "state"

    @classmethod
    def of(cls, backbone: Backbone, *, slate_size: int = 1) -> BackboneGreedy:
        """The greedy policy of `backbone`."""
        with torch.no_grad():
            vectors, bias = backbone.item_vectors().clone().cpu(), backbone.item_bias().clone().cpu()
        return cls(item_vectors=vectors, item_bias=bias, slate_size=slate_size)

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return len(self.item_bias)

    def scores(self, observation: Observation) -> Tensor:
        """The backbone's scores, (B, N)."""
        if observation.state is None:
            raise ValueError("backbone-greedy reads the state, but the observation has none")
        return torch.addmm(self.item_bias, observation.state, self.item_vectors.T)

    def probabilities(self, observation: Observation) -> Tensor:
        """One-hot, (B, N)."""
        return greedy_probabilities(self.scores(observation), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:  # noqa: ARG002
        """The K best allowed items, (B, K)."""
        return top_items(self.scores(observation), observation.mask, self.slate_size)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"slate_size": self.slate_size}

    def tensors(self) -> dict[str, Tensor]:
        """Item vectors and biases."""
        return {"item_vectors": self.item_vectors, "item_bias": self.item_bias}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> BackboneGreedy:
        """The policy whose `config` and `tensors` these are."""
        return cls(**{**config, **tensors})


def target_counts(sequences: Sequences, roles: Roles) -> Tensor:
    """Training targets of each item, (N,) float32; `roles` (M,)."""
    chosen = sequences.item[sequences.targets & (roles == TRAIN)]
    return torch.from_numpy(np.bincount(chosen, minlength=sequences.num_items + 1)[1:].astype(np.float32))


def tie_breaker(counts: Tensor) -> Tensor:
    """Popularity in [0, 0.001), (N,), to be added to scores whose steps are wider."""
    return counts * (_TIE / (counts.max() + 1))


def history_of(observation: Observation) -> tuple[Tensor, Tensor]:
    """Items (B, L) and whether each was clicked (consumed), (B, L) float32; padding was not.

    Raises:
        ValueError: the observation has no history.
    """
    if observation.items is None or observation.feedback is None:
        raise ValueError("the policy reads the history, but the observation has none; ask for reads='history'")
    positive = (observation.feedback[:, :, 0] > 0) & (observation.items > 0)
    return observation.items, positive.to(torch.float32)
