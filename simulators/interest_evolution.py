"""RecSim's interest evolution: what a user clicks today decides what the user likes tomorrow.

A user has an interest u_k in [-1, 1] in each of 20 topics, all visible, and a budget of minutes. Documents have one
topic, visible, and a quality that is not: 14 topics are poor on average (-3 to 0), 6 are good (0 to 3).

    choice      weight of document i: u_topic(i) + 1; of none: 2; proportional, at most one click
    watch       w = min(budget, 4) minutes: the reward
    interest    a = 0.3 (1 - |u_k|);  u_k moves by a (1 - u_k), up with chance (u_k + 1) / 2, else down; clipped
    budget      - w + (0.9 / 3.4) w quality after a click, - 0.5 without; the user leaves at 0

So good documents almost pay for themselves: a session of good topics is twice as long. What a user likes on the first
day says nothing of quality, so the greedy ranker wastes the budget on poor topics.

Source: Ie et al. (2019), "RecSim: a configurable simulation platform for recommender systems", and the published code's
`interest_evolution`; Ie et al. (2019), "SlateQ", section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from recgym.random import fold, normal, session_keys, uniform, uniform_at
from recgym.settings import check_numbers
from recgym.types import FeedbackKind, Response, Visible
from recgym.users import history as ring

CLICK, WATCH = 0, 1
"""Columns of the feedback."""
_NO_CLICK = 2.0
"""Weight of clicking nothing."""
_CLICK_DRAWS = 2
"""Draws of one step: what is clicked, and whether interest goes up."""
_USER, _DOCUMENTS = 0, 1
"""Streams of a session's key beside that of its steps."""


@dataclass(frozen=True, kw_only=True)
class InterestEvolutionConfig:
    """The published world; minutes are its unit of budget and reward."""

    num_candidates: int = 10
    """Documents that each slate is chosen from, N."""
    resample: bool = True
    """New documents every step, as published; False: one fixed catalogue, drawn from `seed`."""
    seed: int = 0
    """Seed of the fixed catalogue."""
    num_topics: int = 20
    """Topics."""
    num_poor_topics: int = 14
    """Topics whose mean quality runs from -3 to 0; that of the others runs from 0 to 3."""
    quality_spread: float = 0.1
    """Standard deviation of quality within a topic."""
    budget: float = 200.0
    """Minutes a session starts with."""
    video_minutes: float = 4.0
    """Length of every document."""
    no_click_cost: float = 0.5
    """Minutes lost by a slate without a click."""
    quality_return: float = 0.9 / 3.4
    """Share of the minutes watched that a unit of quality gives back."""
    interest_step: float = 0.3
    """How far a click moves a neutral interest."""

    def __post_init__(self) -> None:
        """Refuse sizes and amounts that make no world."""
        check_numbers(self)
        for name in ("num_candidates", "num_topics"):
            if getattr(self, name) < 1:
                raise ValueError(f"InterestEvolutionConfig.{name} is {getattr(self, name)}, expected at least 1")
        if not 0 <= self.num_poor_topics <= self.num_topics:
            raise ValueError(
                f"InterestEvolutionConfig.num_poor_topics is {self.num_poor_topics}, expected 0..{self.num_topics}"
            )
        for name in ("budget", "video_minutes", "no_click_cost"):
            if not getattr(self, name) > 0:
                raise ValueError(f"InterestEvolutionConfig.{name} is {getattr(self, name)}, expected more than 0")
        for name in ("quality_spread", "quality_return"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"InterestEvolutionConfig.{name} is {getattr(self, name)}, expected at least 0")
        if not 0 <= self.interest_step <= 1:
            raise ValueError(f"InterestEvolutionConfig.interest_step is {self.interest_step}, expected 0 to 1")


SETTINGS = {
    "interest-evolution": InterestEvolutionConfig(),
    "interest-evolution-fixed": InterestEvolutionConfig(num_candidates=100, resample=False),
}
"""The published world, and one whose documents stay, so that they can be logged and learned about."""


class InterestState(NamedTuple):
    """B sessions. `budget` and `quality` are hidden."""

    keys: Tensor  # (B,) int64 session keys
    depth: Tensor  # (B,) int64 slates met
    interest: Tensor  # (B, topics) float32 in [-1, 1]
    budget: Tensor  # (B,) float32 minutes left
    topic: Tensor | None  # (B, N) int64 of this step's candidates; None where the catalogue is fixed
    quality: Tensor | None  # (B, N) float32


class InterestEvolution:
    """The population of users, as `recgym.users.model.UserModel` asks."""

    kinds = (FeedbackKind(name="click"), FeedbackKind(name="watch", type="real", given="click", unit="minutes"))

    def __init__(self, config: InterestEvolutionConfig | None = None, *, device: torch.device | str = "cpu") -> None:
        """Draw the catalogue, where it is fixed."""
        self.config = config or InterestEvolutionConfig()
        self.device, self.num_items = torch.device(device), self.config.num_candidates
        poor, good = self.config.num_poor_topics, self.config.num_topics - self.config.num_poor_topics
        means = torch.cat([torch.linspace(-3, 0, poor), torch.linspace(0, 3, good)])
        self.mean_quality = means.to(self.device)  # (topics,)
        self._no_gap = torch.tensor(torch.nan, device=self.device)
        self._one_hot = torch.eye(self.config.num_topics, device=self.device)
        topic, quality = self._documents(session_keys(self.config.seed, 1, device=self.device))
        self.topic, self.quality = topic[0], quality[0]  # (N,) of the fixed catalogue

    @property
    def item_categories(self) -> tuple[str, ...] | None:
        """Topic of each document of a fixed catalogue."""
        return None if self.config.resample else tuple(f"topic {int(topic)}" for topic in self.topic)

    def reset(self, keys: Tensor) -> InterestState:
        """Start one session per key (B,): interests uniform on [-1, 1]."""
        keys = keys.to(self.device)
        interest = 2 * uniform(fold(keys, _USER), self.config.num_topics) - 1
        topic, quality = self._documents(fold(keys, _DOCUMENTS)) if self.config.resample else (None, None)
        budget = torch.full((len(keys),), self.config.budget, device=self.device)
        return InterestState(keys, torch.zeros_like(keys), interest, budget, topic, quality)

    def step(self, state: InterestState, slates: Tensor) -> tuple[InterestState, Response]:
        """React to `slates` (B, K) of candidates 1..N."""
        batch, slots = slates.shape
        config, index = self.config, slates - 1
        topics = self.topic[index] if state.topic is None else state.topic.gather(1, index)  # (B, K)
        depth = state.depth + 1
        draws = uniform_at(state.keys, depth, _CLICK_DRAWS)
        reach = state.interest.gather(1, topics).add_(1).cumsum(1)  # (B, K): up to where each document's weight reaches
        point = draws[:, 0] * (reach[:, -1] + _NO_CLICK)
        slot = (point.unsqueeze(1) >= reach).sum(
            1, keepdim=True
        )  # (B, 1), K for none: as `choice.proportional`, `pick`
        clicked = slot < slots  # (B, 1)
        slot.clamp_(max=slots - 1)

        chosen = index.gather(1, slot)  # (B, 1)
        quality = (self.quality[chosen] if state.quality is None else state.quality.gather(1, chosen)).squeeze(1)
        topic = topics.gather(1, slot)
        level = state.interest.gather(1, topic)  # (B, 1)
        change = config.interest_step * (level.abs() - 1) * (level - 1)  # a (1 - u): both signs turned, which is faster
        rises = draws[:, 1:] * 2 < level + 1
        moved = (level + torch.where(rises, change, -change)).clamp_(-1, 1)
        interest = state.interest.scatter_(1, topic, torch.where(clicked, moved, level))

        took = clicked.squeeze(1)
        watch = state.budget.clamp(0, config.video_minutes) * took  # (B,)
        gain = watch * (quality * config.quality_return - 1)
        budget = state.budget + torch.where(took, gain, -config.no_click_cost)
        feedback = torch.zeros(batch, slots, len(self.kinds), device=self.device)
        rows = torch.stack([took.to(torch.float32), watch], 1).unsqueeze(1)  # (B, 1, F)
        feedback.scatter_(1, slot.unsqueeze(2).expand(-1, -1, len(self.kinds)), rows)

        documents = self._documents(fold(fold(state.keys, _DOCUMENTS), depth)) if config.resample else (None, None)
        response = Response(feedback, budget <= 0, self._no_gap.expand(batch))
        return InterestState(state.keys, depth, interest, budget, *documents), response

    def visible(self, state: InterestState) -> Visible:
        """Interests (B, topics), and the topic of each candidate as (B, N, topics) zeros and ones."""
        if state.topic is None:
            return Visible(state.interest)
        return Visible(state.interest, embedding(state.topic, self._one_hot))

    def history(self, state: InterestState) -> tuple[Tensor, Tensor]:
        """Nothing, (B, 0) and (B, 0, F): interests are visible themselves."""
        return ring.ordered(ring.empty(len(state.keys), 0, len(self.kinds), device=self.device))

    def truth(self, state: InterestState) -> dict[str, Tensor]:
        """`budget` (B,) minutes; `topic` and `quality` (B, N) of the candidates; `interest` (B, N) in each."""
        batch = len(state.keys)
        topic = self.topic.expand(batch, -1) if state.topic is None else state.topic
        quality = self.quality.expand(batch, -1) if state.quality is None else state.quality
        return {
            "budget": state.budget,
            "topic": topic,
            "quality": quality,
            "interest": state.interest.gather(1, topic),
        }

    def bands(self) -> dict[str, Callable[[InterestState], Tensor]]:
        """Scorers of every candidate, (B, N): by interest, by the topic's mean quality, and by the truth.

        The best known ranks by (u + 1) (4 - rate * cost of a click), where `rate` is the reward that a minute of budget
        earns: the ratio of rewards to costs is largest where reward less rate times cost is (Dinkelbach 1967).
        """
        config = self.config

        def by_rate(state: InterestState, rate: float = 1.5) -> Tensor:
            seen = self.truth(state)
            cost = config.video_minutes * (1 - config.quality_return * seen["quality"]) - config.no_click_cost
            return (seen["interest"] + 1) * (config.video_minutes - rate * cost)

        return {
            "myopic": lambda state: self.truth(state)["interest"],
            "rule": lambda state: self.mean_quality[self.truth(state)["topic"]],
            "best known": by_rate,
        }

    def _documents(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Topic (B, N) and quality (B, N) of fresh documents."""
        count = self.config.num_candidates
        draws = uniform(fold(keys, 0), count)
        topic = (draws * self.config.num_topics).to(torch.int64)
        quality = self.mean_quality[topic] + self.config.quality_spread * normal(fold(keys, 1), count)
        return topic, quality
