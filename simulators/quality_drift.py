"""RecSim NG's interest evolution: documents of low quality hold users longer now and drive their interests away.

A document has a topic k, features d ~ Normal(e_k, .7) and a quality q ~ Normal(m_k, .1), all fixed; m rises in even
steps from -1 to 0 over the first 70% of the topics (trash) and from 0 to 1 over the rest. A user has interests
u ~ Normal(0, 1) in the same space, hidden.

    choice      multinomial logit: 2 - |u - d| for a document, 0 for none
    watch       2 sigmoid(-q) minutes of the chosen one, the reward
    interest    u <- u + .1 q (d - u) after a choice: to what was good, away from what was bad
    squashing   u <- 4 M (sigmoid(u / M) - .5), M = 10, at every step

The published number of topics is 2: then m = (-1, 0), and there is nothing good to show (quality above 0 is noise), so
that interests only ever flee. "quality-drift-repaired" has 10 topics, seven of trash and three of substance.

Source: Mladenov et al. (2021), "RecSim NG: toward principled uncertainty modeling for recommender ecosystems",
and the published code's `recsys_partially_observable_rl`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recgym.random import fold, normal, session_keys, uniform, uniform_at
from recgym.settings import check_numbers
from recgym.types import FeedbackKind, Response, Visible
from recgym.users import history as ring
from recgym.users.history import History
from simulators.choice import multinomial_logit

_USER, _STEPS = 0, 1
"""Streams of a session's key."""


@dataclass(frozen=True, kw_only=True)
class QualityDriftConfig:
    """The published world."""

    num_items: int = 100
    """Documents, N."""
    num_topics: int = 2
    """Topics, and width of features and interests, D."""
    trash_share: float = 0.7
    """Share of topics whose quality is below 0, rounded down."""
    quality_spread: float = 0.1
    """Standard deviation of quality within a topic."""
    feature_spread: float = 0.7
    """Standard deviation of features within a topic."""
    minutes: float = 2.0
    """Length of a document."""
    affinity: float = 2.0
    """Logit of a document that meets the user's interests exactly; none has logit 0."""
    interest_step: float = 0.1
    """How far a document of quality 1 draws interests towards itself."""
    interest_limit: float = 10.0
    """M of the squashing; interests stay within 2 M."""
    length: int = 15
    """Documents shown that `history` keeps, L; 0: none."""
    seed: int = 0
    """Seed of the documents."""

    def __post_init__(self) -> None:
        """Refuse sizes and shares that make no world."""
        check_numbers(self)
        for name, least in (("num_items", 1), ("num_topics", 2), ("length", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"QualityDriftConfig.{name} is {getattr(self, name)}, expected at least {least}")
        for name in ("quality_spread", "feature_spread", "interest_step"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"QualityDriftConfig.{name} is {getattr(self, name)}, expected at least 0")
        for name in ("minutes", "interest_limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"QualityDriftConfig.{name} is {getattr(self, name)}, expected more than 0")
        if not 0 <= self.trash_share <= 1:
            raise ValueError(f"QualityDriftConfig.trash_share is {self.trash_share}, expected 0 to 1")


SETTINGS = {
    "quality-drift": QualityDriftConfig(),
    "quality-drift-repaired": QualityDriftConfig(num_topics=10),
}
"""The published world, which has nothing good to show, and one that has."""


class DriftState(NamedTuple):
    """B sessions. `interest` is hidden."""

    keys: Tensor  # (B,) int64 session keys
    depth: Tensor  # (B,) int64 slates met
    interest: Tensor  # (B, D) float32
    last: Tensor  # (B, D + 3) float32: clicked, minutes, and quality and features of the last document chosen
    history: History


class QualityDrift:
    """The population of users, as `recgym.users.model.UserModel` asks; nobody leaves: the horizon is the caller's."""

    kinds = (FeedbackKind(name="click"), FeedbackKind(name="watch", type="real", given="click", unit="minutes"))

    def __init__(self, config: QualityDriftConfig | None = None, *, device: torch.device | str = "cpu") -> None:
        """Draw the documents."""
        self.config = config or QualityDriftConfig()
        self.device, self.num_items = torch.device(device), self.config.num_items
        count, topics = self.num_items, self.config.num_topics
        key = session_keys(self.config.seed, 1, device=self.device)
        self.topic = (uniform(fold(key, 0), count)[0] * topics).to(torch.int64)  # (N,)
        trash = int(topics * self.config.trash_share)
        mean = torch.cat([torch.linspace(-1, 0, trash), torch.linspace(0, 1, topics - trash)]).to(self.device)
        self.best_topic = float(mean.max())
        self.quality = mean[self.topic] + self.config.quality_spread * normal(fold(key, 1), count)[0]  # (N,)
        noise = normal(fold(key, 2), count * topics).view(count, topics)
        self.features = torch.eye(topics, device=self.device)[self.topic] + self.config.feature_spread * noise  # (N, D)
        self.watch = self.config.minutes * torch.sigmoid(-self.quality)  # (N,) minutes if chosen
        self.item_categories = [f"topic {int(topic)}" for topic in self.topic]

    def reset(self, keys: Tensor) -> DriftState:
        """Start one session per key (B,)."""
        keys = keys.to(self.device)
        batch, topics = len(keys), self.config.num_topics
        interest = normal(fold(keys, _USER), topics)
        last = torch.zeros(batch, topics + 3, device=self.device)
        history = ring.empty(batch, self.config.length, len(self.kinds), device=self.device)
        return DriftState(keys, torch.zeros_like(keys), interest, last, history)

    def step(self, state: DriftState, slates: Tensor) -> tuple[DriftState, Response]:
        """React to `slates` (B, K) of documents 1..N."""
        config, (batch, slots) = self.config, slates.shape
        index = slates - 1
        features = self.features[index]  # (B, K, D)
        logit = config.affinity - (features - state.interest.unsqueeze(1)).square().sum(2).sqrt()
        chance = multinomial_logit(logit, 0.0)[:, :slots].cumsum(1)
        draw = uniform_at(fold(state.keys, _STEPS), state.depth, 1)  # (B, 1)
        slot = (draw >= chance).sum(1, keepdim=True)  # (B, 1), K for none
        took = slot == torch.arange(slots, device=self.device)  # (B, K)
        clicked = took.to(torch.float32)
        watch = clicked * self.watch[index]
        chosen = slot.clamp(max=slots - 1)
        document = self.features[index.gather(1, chosen)[:, 0]]  # (B, D)
        quality = (clicked * self.quality[index]).sum(1, keepdim=True)  # (B, 1), 0 where nothing was chosen
        moved = state.interest + config.interest_step * quality * (document - state.interest)
        limit = 2 * config.interest_limit
        interest = limit * torch.tanh(moved / limit)  # 4 M (sigmoid(x / M) - .5) = 2 M tanh(x / 2 M)
        feedback = torch.stack([clicked, watch], 2)
        ring.push_slate(state.history, slates, feedback)
        some = clicked.sum(1, keepdim=True)
        last = torch.cat([some, watch.sum(1, keepdim=True), quality, some * document], 1)
        nobody = torch.zeros(batch, dtype=torch.bool, device=self.device)
        gap = torch.full((batch,), torch.nan, device=self.device)
        return DriftState(state.keys, state.depth + 1, interest, last, state.history), Response(feedback, nobody, gap)

    def visible(self, state: DriftState) -> Visible:
        """Clicked, minutes, and quality and features of the document last chosen (0 for none), (B, D + 3)."""
        return Visible(state.last)

    def history(self, state: DriftState) -> tuple[Tensor, Tensor]:
        """Documents (B, L) and feedback (B, L, F), most recent last, 0 pads on the left."""
        return ring.ordered(state.history)

    def truth(self, state: DriftState) -> dict[str, Tensor]:
        """`interest` (B, D), and the `logit` (B, N) of each document."""
        logit = self.config.affinity - torch.cdist(state.interest, self.features)
        return {"interest": state.interest, "logit": logit}

    def bands(self) -> dict[str, Callable[[DriftState], Tensor]]:
        """Scorers of every document, (B, N): minutes now, the nearest that is no trash, and minutes less the harm.

        The last takes a choice of quality -1 to cost three minutes later, as far as there are good topics to stay
        for: where the best one has quality 0, as with two topics, it is the myopic one.
        """

        def planned(cost: float) -> Callable[[DriftState], Tensor]:
            """exp(logit) (minutes - cost (-quality)+): a choice is worth its minutes less what it drives away."""
            value = self.watch + cost * self.quality.clamp(max=0)
            return lambda state: torch.exp(self.truth(state)["logit"]) * value

        trash = 100.0 * (self.quality < 0)  # (N,)

        return {
            "myopic": planned(0.0),
            "rule": lambda state: self.truth(state)["logit"] - trash,
            "best known": planned(3.0 * self.best_topic),
        }
