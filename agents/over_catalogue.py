"""A policy trained on C candidates a step, over the whole catalogue: its network scores all N items by their features.

A retriever shows a policy the features [v_j, b_j, s . v_j + b_j] of C items (`recgym.users.retrieved`). The network
scores each by itself, so it ranks any number of them: for HR/NDCG, and where there is no retriever.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.choice import greedy_probabilities, top_items
from agents.networks import ItemScorer
from agents.scoring import ScoringPolicy
from recgym.backbones.backbone import Backbone
from recgym.types import Observation, Reads
from recgym.users.retrieved import features_of

_UNITS = 1 << 24
"""Hidden units computed at a time, 64 MB: B n H."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OverCatalogue:
    """Shows the best of all N items by a network of candidates; the state of its observations holds no candidates."""

    scorer: ItemScorer
    items: Tensor  # (N, D + 1) item vectors and biases of the backbone that retrieved, and whose states it reads
    slate_size: int = 1

    name: ClassVar[str] = "over-catalogue"
    reads: ClassVar[Reads] = "state"

    def __post_init__(self) -> None:
        """Check the widths."""
        expected, found = self.scorer.layout.candidate_width, self.items.shape[1] + 1
        if found != expected:
            raise ValueError(f"items have {found} features with their score, the network reads {expected}")
        if self.scorer.outputs != 1:
            raise ValueError(f"the network has {self.scorer.outputs} outputs an item, expected one score")

    @classmethod
    def of(cls, policy: ScoringPolicy, backbone: Backbone) -> OverCatalogue:
        """What `policy` learned among candidates that `backbone` retrieved, over all of its items."""
        with torch.no_grad():
            bias = backbone.item_bias().detach().clone()
            items = torch.cat([backbone.item_vectors().detach(), bias.unsqueeze(1)], 1)
        return cls(scorer=policy.scorer, items=items, slate_size=policy.slate_size)

    @property
    def sizes(self) -> dict[str, int]:
        """What it reads; see `recgym.policy.check_fits`."""
        return {"items": self.num_items, "state": self.scorer.layout.state_width}

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return len(self.items)

    @torch.no_grad()
    def scores(self, observation: Observation) -> Tensor:
        """Scores (B, N) of a state (B, D), a chunk of items at a time."""
        state = observation.state
        assert state is not None
        scorer = copy.copy(self.scorer)  # shares its weights
        scorer.dueling = False  # advantages are centred over all items below, not within a chunk
        chunk = max(1, _UNITS // (max(len(state), 1) * scorer.hidden))
        parts = []
        for items in self.items.to(state.device).split(chunk):
            features = features_of(state, items.expand(len(state), -1, -1))  # (B, n, X)
            parts.append(scorer(observation._replace(candidates=features, mask=None)))
        scores = torch.cat(parts, 1)
        if self.scorer.dueling:
            value = self.scorer.value(self.scorer.encoder(observation, None)[0])  # (B, 1): in every score of `parts`
            scores = scores - (scores - value).mean(1, keepdim=True)
        return scores

    def probabilities(self, observation: Observation) -> Tensor:
        """One-hot, (B, N)."""
        return greedy_probabilities(self.scores(observation), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:  # noqa: ARG002
        """The K best allowed items, (B, K)."""
        return top_items(self.scores(observation), observation.mask, self.slate_size)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {"slate_size": self.slate_size, "scorer": self.scorer.config()}

    def tensors(self) -> dict[str, Tensor]:
        """The network's weights, and the items."""
        return {"items": self.items, **{f"scorer.{name}": part for name, part in self.scorer.state_dict().items()}}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> OverCatalogue:
        """The policy whose `config` and `tensors` these are."""
        weights = {name.removeprefix("scorer."): part for name, part in tensors.items() if name.startswith("scorer.")}
        scorer = ItemScorer.restore(config["scorer"], weights)
        return cls(scorer=scorer, items=tensors["items"], slate_size=config["slate_size"])


@dataclass(frozen=True, kw_only=True, eq=False)
class AmongOffered:
    """Any policy of the whole catalogue behind a retriever: its scores of the C items on offer, best first."""

    policy: Any
    """Reads the state or the history, and scores (B, N)."""
    state_width: int
    """Width of the state without the candidates' features, D."""
    slate_size: int = 1
    name: str = "among-offered"

    @property
    def reads(self) -> Reads:
        """The offered ids come with the state."""
        return "state" if self.policy.reads == "state" else "all"

    def scores(self, observation: Observation) -> Tensor:
        """Scores of the offered, (B, C)."""
        assert observation.offered is not None and observation.state is not None
        plain = observation._replace(
            state=observation.state[:, : self.state_width], candidates=None, offered=None, mask=None
        )
        found: Tensor = self.policy.scores(plain)
        return found.gather(1, observation.offered - 1)

    def probabilities(self, observation: Observation) -> Tensor:
        """One-hot, (B, C)."""
        return greedy_probabilities(self.scores(observation), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:  # noqa: ARG002
        """The K best places, (B, K)."""
        return top_items(self.scores(observation), observation.mask, self.slate_size)
