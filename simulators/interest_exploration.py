"""RecSim's interest exploration: a platform that does not try cannot know what a user likes.

Two kinds of users, hidden (0 with chance .3, 1 with .7), feel an affinity g_t ~ LogNormal(mu[kind][t], .1) to each of
two topics, mu = ((.1, .7), (.7, .1)). Documents have a topic (0 with chance .2, 1 with .8) and a quality
~ LogNormal(m_t, .1), both visible.

    choice      multinomial logit: g_topic + quality for a document, 5 for none; at most one click, the reward

As published, m = (.8, .2): quality makes topic 0 the better one for *both* kinds of users (expected 3.33 against 3.23,
and 4.24 against 2.32), so that there is nothing to explore. "interest-exploration-repaired" has as many of either kind
and topic, mu = ((.1, 1.1), (1.1, .1)) and m = (.5, .2): each kind prefers its own topic by more than 1.4 (2.75 against
4.23, and 4.65 against 2.33), while quality points to topic 0.

Source: Ie et al. (2019), "RecSim: a configurable simulation platform for recommender systems", section 5.2, and the
published code's `interest_exploration`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from recgym.random import fold, normal, uniform, uniform_at
from recgym.settings import check_numbers
from recgym.types import FeedbackKind, Response, Visible
from recgym.users import history as ring
from simulators.choice import multinomial_logit, pick

_USER, _DOCUMENTS = 0, 1
"""Streams of a session's key beside that of its steps."""
_TOPICS = 2


@dataclass(frozen=True, kw_only=True)
class InterestExplorationConfig:
    """The published world."""

    num_candidates: int = 10
    """Documents that each slate is chosen from, N; new ones every step."""
    share_of_kind_0: float = 0.3
    """Users of kind 0."""
    affinity: tuple[tuple[float, float], tuple[float, float]] = ((0.1, 0.7), (0.7, 0.1))
    """Mean of the log of the affinity of each kind of user to each topic."""
    affinity_spread: float = 0.1
    """Standard deviation of that log between users."""
    share_of_topic_0: float = 0.2
    """Documents of topic 0."""
    quality: tuple[float, float] = (0.8, 0.2)
    """Mean of the log of the quality of each topic's documents."""
    quality_spread: float = 0.1
    """Standard deviation of that log."""
    no_click: float = 5.0
    """Logit of clicking nothing."""

    def __post_init__(self) -> None:
        """Refuse sizes and chances that make no world."""
        check_numbers(self)
        if self.num_candidates < 1:
            raise ValueError(f"InterestExplorationConfig.num_candidates is {self.num_candidates}, expected at least 1")
        for name in ("share_of_kind_0", "share_of_topic_0"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"InterestExplorationConfig.{name} is {getattr(self, name)}, expected 0 to 1")
        for name in ("affinity_spread", "quality_spread"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"InterestExplorationConfig.{name} is {getattr(self, name)}, expected at least 0")


SETTINGS = {
    "interest-exploration": InterestExplorationConfig(),
    "interest-exploration-repaired": InterestExplorationConfig(
        share_of_kind_0=0.5, share_of_topic_0=0.5, affinity=((0.1, 1.1), (1.1, 0.1)), quality=(0.5, 0.2), no_click=5.0
    ),
}
"""The published world, and one in which exploring pays."""


class ExplorationState(NamedTuple):
    """B sessions. `kind` and `affinity` are hidden."""

    keys: Tensor  # (B,) int64 session keys
    depth: Tensor  # (B,) int64 slates met
    kind: Tensor  # (B,) int64, 0 or 1
    affinity: Tensor  # (B, 2) float32
    topic: Tensor  # (B, N) int64 of this step's candidates
    quality: Tensor  # (B, N) float32
    shown: Tensor  # (B, 2) float32: documents of each topic shown so far
    clicks: Tensor  # (B, 2) float32: and clicked


class InterestExploration:
    """The population of users, as `recgym.users.model.UserModel` asks; nobody leaves: the horizon is the caller's."""

    kinds = (FeedbackKind(name="click"),)

    def __init__(self, config: InterestExplorationConfig | None = None, *, device: torch.device | str = "cpu") -> None:
        """Prepare the constants."""
        self.config = config or InterestExplorationConfig()
        self.device, self.num_items = torch.device(device), self.config.num_candidates
        self._affinity = torch.tensor(self.config.affinity, device=self.device)  # (kinds, topics)
        self._quality = torch.tensor(self.config.quality, device=self.device)
        self._one_hot = torch.eye(_TOPICS, device=self.device)

    def reset(self, keys: Tensor) -> ExplorationState:
        """Start one session per key (B,)."""
        keys = keys.to(self.device)
        key = fold(keys, _USER)
        kind = (uniform(key, 1)[:, 0] >= self.config.share_of_kind_0).to(torch.int64)
        noise = normal(fold(key, 1), _TOPICS)
        affinity = torch.exp(self._affinity[kind] + self.config.affinity_spread * noise)
        nothing = torch.zeros(len(keys), _TOPICS, device=self.device)
        documents = self._documents(fold(keys, _DOCUMENTS))
        return ExplorationState(keys, torch.zeros_like(keys), kind, affinity, *documents, nothing, nothing.clone())

    def step(self, state: ExplorationState, slates: Tensor) -> tuple[ExplorationState, Response]:
        """React to `slates` (B, K) of candidates 1..N."""
        batch, slots = slates.shape
        index = slates - 1
        topic = state.topic.gather(1, index)  # (B, K)
        logit = state.affinity.gather(1, topic) + state.quality.gather(1, index)
        depth = state.depth + 1
        slot = pick(multinomial_logit(logit, self.config.no_click), uniform_at(state.keys, depth, 1)[:, 0])
        clicked = (slot.unsqueeze(1) == torch.arange(slots, device=self.device)).to(torch.float32)  # (B, K)
        shown = state.shown.scatter_add(1, topic, torch.ones_like(clicked))
        clicks = state.clicks.scatter_add(1, topic, clicked)
        documents = self._documents(fold(fold(state.keys, _DOCUMENTS), depth))
        new = ExplorationState(state.keys, depth, state.kind, state.affinity, *documents, shown, clicks)
        nobody = torch.zeros(batch, dtype=torch.bool, device=self.device)
        return new, Response(clicked.unsqueeze(2), nobody, torch.full((batch,), torch.nan, device=self.device))

    def visible(self, state: ExplorationState) -> Visible:
        """Share of shown documents of each topic that were clicked, and the numbers shown in hundreds (B, 4).

        Candidates (B, N, 3): topic as zeros and ones, and quality.
        """
        rate = state.clicks / state.shown.clamp(min=1)
        features = torch.cat([embedding(state.topic, self._one_hot), state.quality.unsqueeze(2)], 2)
        return Visible(torch.cat([rate, state.shown / 100], 1), features)

    def history(self, state: ExplorationState) -> tuple[Tensor, Tensor]:
        """Nothing, (B, 0) and (B, 0, F): the counts are visible themselves."""
        return ring.ordered(ring.empty(len(state.keys), 0, len(self.kinds), device=self.device))

    def truth(self, state: ExplorationState) -> dict[str, Tensor]:
        """`kind` (B,), `affinity` (B, 2), and the `logit` (B, N) of each candidate."""
        logit = state.affinity.gather(1, state.topic) + state.quality
        return {"kind": state.kind, "affinity": state.affinity, "logit": logit}

    def bands(self) -> dict[str, Callable[[ExplorationState], Tensor]]:
        """Scorers of every candidate, (B, N): quality alone, explore both topics then commit, and the true logit."""

        def commit(state: ExplorationState, explore: float = 12.0) -> Tensor:
            """Show the topic less shown until both have been shown `explore` times; then the one clicked more."""
            rate = (state.clicks + 0.5) / (state.shown + 1)
            exploring = (state.shown < explore).any(1, keepdim=True)
            worth = torch.where(exploring, -state.shown, rate).gather(1, state.topic)  # (B, N)
            return 100 * worth + state.quality

        return {
            "myopic": lambda state: state.quality,
            "rule": commit,
            "best known": lambda state: self.truth(state)["logit"],
        }

    def _documents(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Topic (B, N) and quality (B, N) of fresh documents."""
        count = self.config.num_candidates
        topic = (uniform(fold(keys, 0), count) >= self.config.share_of_topic_0).to(torch.int64)
        noise = normal(fold(keys, 1), count)
        return topic, torch.exp(self._quality[topic] + self.config.quality_spread * noise)
