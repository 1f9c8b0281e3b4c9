"""RecLab's satiation: what a user consumed tires for a while, and some users tire for longer at some times.

Each item has one topic. A user has a preference p_k ~ U(.5, 5.5) and a satiation s_k, 0 at first, for each topic.

    rating      clip(p_k - factor s_k + Normal(0, .5), 1, 5) for an item of topic k, the reward
    satiation   s <- decay (s + [topic = k]) + Normal(0, .1), for every topic
    switching   a user is sensitised or bored, sensitised at first; before each update, bored with chance P(B|S) or
                sensitised again with chance P(S|B); the decay is that of the new mood

"satiation" is the published `topics-satiation-v1` (factor 3, decay .5, 19 topics, 1,700 items), "satiation-switching"
`topics-sensitization-v1` (decays .1 and .5, chances .05 and .2). In both, greed on the next rating is right: with many
good topics that recover fast, whoever takes the best of the moment rotates by himself.

"satiation-repaired" (and "satiation-repaired-clicks") has few topics, half of which never tire and are liked less:
U(.5, 2). Greed takes a favourite as soon as it has recovered to the level of the second best, and so never has more
than that; it pays to wait longer. This is Pigou's example of a congested road, whose greedy loss is at most a quarter.

Two readings: the published code draws one switch for all topics of a user, so the mood belongs to the user; its table
of true ratings adds the satiation where the ratings subtract it: here both subtract.

Source: Krauth et al. (2020), "Do offline metrics predict online performance in recommender systems?", and the
published code's `topics` (RecLab); the planner follows from Pigou (1920), "The economics of welfare", part II.
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

_USER, _STEPS, _NOISE = 0, 1, 2
"""Streams of a session's key."""
_LEAST, _MOST = 1.0, 5.0
"""Stars."""
_FADE = 0.7
"""Share of what was shown that counts as recent a step later; the platform's own view, no part of the user."""


@dataclass(frozen=True, kw_only=True)
class SatiationConfig:
    """The published world without switching."""

    num_items: int = 1700
    """Items, N."""
    num_topics: int = 19
    """Topics; each item has one, drawn evenly."""
    factor: float = 3.0
    """Stars that a satiation of 1 costs."""
    decay: tuple[float, float] = (0.5, 0.5)
    """Share of satiation that survives a step, of a sensitised and of a bored user."""
    switching: tuple[float, float] = (0.0, 0.0)
    """P(bored | sensitised) and P(sensitised | bored), a step."""
    satiation_spread: float = 0.1
    """Standard deviation of a step of satiation."""
    rating_spread: float = 0.5
    """Standard deviation of a rating."""
    num_tireless: int = 0
    """Topics, the last ones, that never tire."""
    tireless_most: float = 2.0
    """Upper end of the preference for those."""
    clicks: bool = False
    """Feedback is a click with chance (rating - 1) / 4 instead of a rating."""
    length: int = 20
    """Items consumed that `history` keeps, L; 0: none."""
    seed: int = 0
    """Seed of the items' topics."""

    def __post_init__(self) -> None:
        """Refuse sizes and chances that make no world."""
        check_numbers(self)
        for name, least in (("num_items", 1), ("num_topics", 1), ("length", 0), ("num_tireless", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"SatiationConfig.{name} is {getattr(self, name)}, expected at least {least}")
        if self.num_tireless > self.num_topics:
            raise ValueError(f"SatiationConfig.num_tireless is {self.num_tireless}, expected at most num_topics")
        for name in ("factor", "satiation_spread", "rating_spread"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"SatiationConfig.{name} is {getattr(self, name)}, expected at least 0")
        if not all(0 <= decay < 1 for decay in self.decay):
            raise ValueError(f"SatiationConfig.decay is {self.decay}, expected two shares, 0 <= share < 1")
        if not all(0 <= chance <= 1 for chance in self.switching):
            raise ValueError(f"SatiationConfig.switching is {self.switching}, expected two chances, 0 to 1")
        if not 0.5 <= self.tireless_most <= 5.5:
            raise ValueError(f"SatiationConfig.tireless_most is {self.tireless_most}, expected 0.5 to 5.5")


SETTINGS = {
    "satiation": SatiationConfig(),
    "satiation-switching": SatiationConfig(decay=(0.1, 0.5), switching=(0.05, 0.2)),
    "satiation-repaired": SatiationConfig(num_items=80, num_topics=8, num_tireless=4, decay=(0.8, 0.8)),
    "satiation-repaired-clicks": SatiationConfig(
        num_items=80, num_topics=8, num_tireless=4, decay=(0.8, 0.8), clicks=True
    ),
}
"""Two published worlds, in which greed is right, and one, with ratings or clicks, in which it pays to wait."""


class SatiationState(NamedTuple):
    """B sessions. `preference`, `satiation` and `bored` are hidden."""

    keys: Tensor  # (B,) int64 session keys
    depth: Tensor  # (B,) int64 items consumed
    preference: Tensor  # (B, T) float32 stars, T topics
    satiation: Tensor  # (B, T) float32
    bored: Tensor  # (B,) bool
    total: Tensor  # (B, T) float32: feedback of each topic so far
    shown: Tensor  # (B, T) float32: items of each topic consumed so far
    recent: Tensor  # (B, T) float32: the same, fading
    history: History


class Satiation:
    """The population of users, as `recgym.users.model.UserModel` asks; only slot 0 of a slate is consumed.

    Nobody leaves: the horizon is the caller's.
    """

    def __init__(self, config: SatiationConfig | None = None, *, device: torch.device | str = "cpu") -> None:
        """Draw the items' topics."""
        self.config = config or SatiationConfig()
        self.device, self.num_items = torch.device(device), self.config.num_items
        rating = FeedbackKind(name="rating", type="real", unit="stars")
        self.kinds = (FeedbackKind(name="click") if self.config.clicks else rating,)
        count, topics = self.config.num_items, self.config.num_topics
        key = session_keys(self.config.seed, 1, device=self.device)
        self.topic = (uniform(fold(key, 0), count)[0] * topics).to(torch.int64)  # (N,)
        self.item_categories = [f"topic {int(topic)}" for topic in self.topic]
        self._one_hot = torch.eye(topics, device=self.device)
        self._tires = (torch.arange(topics, device=self.device) < topics - self.config.num_tireless).to(torch.float32)
        self._decay = torch.tensor(self.config.decay, device=self.device)

    def reset(self, keys: Tensor) -> SatiationState:
        """Start one session per key (B,)."""
        keys = keys.to(self.device)
        batch, topics = len(keys), self.config.num_topics
        span = torch.where(self._tires > 0, 5.0, self.config.tireless_most - 0.5)  # (T,)
        preference = 0.5 + span * uniform(fold(keys, _USER), topics)
        nothing = torch.zeros(batch, topics, device=self.device)
        bored = torch.zeros(batch, dtype=torch.bool, device=self.device)
        history = ring.empty(batch, self.config.length, 1, device=self.device)
        counts = nothing.clone(), nothing.clone(), nothing.clone()
        return SatiationState(keys, torch.zeros_like(keys), preference, nothing, bored, *counts, history)

    def step(self, state: SatiationState, slates: Tensor) -> tuple[SatiationState, Response]:
        """Consume the first of `slates` (B, K) of items 1..N."""
        config, topic = self.config, self.topic[slates[:, :1] - 1]  # (B, 1)
        noise = normal(fold(fold(state.keys, _NOISE), state.depth), config.num_topics + 1)  # (B, T + 1)
        draws = uniform_at(fold(state.keys, _STEPS), state.depth, 2)
        rating = state.preference.gather(1, topic) - config.factor * state.satiation.gather(1, topic)
        rating = (rating + config.rating_spread * noise[:, :1]).clamp(_LEAST, _MOST)  # (B, 1)
        amount = rating
        if config.clicks:
            amount = (draws[:, :1] < (rating - _LEAST) / (_MOST - _LEAST)).to(torch.float32)
        to_bored, to_sensitised = config.switching
        bored = draws[:, 1] < torch.where(state.bored, 1 - to_sensitised, to_bored)
        decay = self._decay[bored.to(torch.int64)].unsqueeze(1)  # (B, 1)
        shown = self._one_hot[topic[:, 0]]  # (B, T)
        satiation = decay * (state.satiation + shown) + config.satiation_spread * noise[:, 1:]
        satiation = satiation * self._tires
        feedback = torch.zeros(*slates.shape, 1, device=self.device)
        feedback[:, 0] = amount
        ring.push(state.history, slates[:, 0], feedback[:, 0], gaps=False)
        counts = state.total + shown * amount, state.shown + shown, _FADE * (state.recent + shown)
        nobody = torch.zeros(len(slates), dtype=torch.bool, device=self.device)
        gap = torch.full((len(slates),), torch.nan, device=self.device)
        new = SatiationState(state.keys, state.depth + 1, state.preference, satiation, bored, *counts, state.history)
        return new, Response(feedback, nobody, gap)

    def visible(self, state: SatiationState) -> Visible:
        """Mean feedback, log(1 + number consumed) and recent share of each topic, (B, 3 T)."""
        mean = state.total / state.shown.clamp(min=1)
        return Visible(torch.cat([mean, state.shown.log1p(), state.recent], 1))

    def history(self, state: SatiationState) -> tuple[Tensor, Tensor]:
        """Items consumed (B, L) and feedback (B, L, 1), most recent last, 0 pads on the left."""
        return ring.ordered(state.history)

    def truth(self, state: SatiationState) -> dict[str, Tensor]:
        """`preference`, `satiation` (B, T), `bored` (B,); `rating` (B, N) before noise and clipping."""
        rating = state.preference - self.config.factor * state.satiation
        return {
            "preference": state.preference,
            "satiation": state.satiation,
            "bored": state.bored,
            "rating": rating[:, self.topic],
        }

    def bands(self) -> dict[str, Callable[[SatiationState], Tensor]]:
        """Scorers of every item, (B, N): the true rating now, the mean so far with a pause, and the planner.

        Where every topic tires, nothing better than greed is known.
        """
        top = 1.0 if self.config.clicks else _MOST

        def paused(state: SatiationState) -> Tensor:
            """The topic with the best mean, from a hopeful first guess, less what was shown of it lately."""
            mean = (state.total + 0.75 * top) / (state.shown + 1)
            return (mean - top * state.recent)[:, self.topic]

        def greedy(state: SatiationState) -> Tensor:
            return self.truth(state)["rating"]

        best = self._planned if self.config.num_tireless else greedy
        return {"myopic": greedy, "rule": paused, "best known": best}

    def _planned(self, state: SatiationState) -> Tensor:
        """Score every item, (B, N), by rating - (p - l)+ / 2: wait until a favourite has recovered to the half.

        Shown a share x of the time, a topic is rated p - c x on average, c = factor decay / (1 - decay). The best
        shares are x = (p - l)+ / 2 c, with the level l at which they sum to one, or that of the best tireless topic;
        greed fills up to p - c x = l.
        """
        bored, sensitised = self.config.switching
        share = bored / (bored + sensitised) if bored else 0.0
        decay = (1 - share) * self.config.decay[0] + share * self.config.decay[1]
        cost = 2 * max(self.config.factor * decay / (1 - decay), 1e-6)
        tiring = self._tires > 0
        low = torch.where(tiring, 0.0, state.preference).amax(1, keepdim=True)  # (B, 1)
        high = torch.full_like(low, 5.5)
        for _ in range(20):
            level = (low + high) / 2
            wanted = ((state.preference - level).clamp(min=0) * self._tires).sum(1, keepdim=True) / cost
            low, high = torch.where(wanted > 1, level, low), torch.where(wanted > 1, high, level)
        reserve = (state.preference - low).clamp(min=0) / 2 * self._tires
        return (state.preference - self.config.factor * state.satiation - reserve)[:, self.topic]
