"""Users who tire of a topic they click too often, and whose taste follows their clicks.

Items and users are directions in a space of topics. A user clicks what points their way; several clicks on one topic
within a few steps bore them, and a bored user clicks nothing (churn and return) or nothing of that topic (loss of
interest) for a while. So the slate of the most relevant items earns most now and little over a session.

Source: Deffayet, Thonet, Hwang, Lehoux, Renders, de Rijke (2024), "SARDINE: a simulator for automated recommendation
in dynamic and interactive environments", section 3, and its release (github.com/naver/sardine), whose eight settings
are `SETTINGS`. There a click moves the user along (1, ..., 1), not towards the item: `influence="scalar"`. The settings
called "repaired" move towards it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recgym.random import bits, fold, session_keys, uniform, uniform_at
from recgym.types import FeedbackKind, Response, Visible
from recgym.users import history as ring
from recgym.users.history import History
from simulators.boredom_config import FEWEST_TOPICS, MOST_TOPICS, SETTINGS, BoredomConfig
from simulators.boredom_plans import capped, filled, members_of_topics

__all__ = ["SETTINGS", "Boredom", "BoredomConfig", "BoredomState"]

_CARES = 0.4
"""Chance that a user cares about a topic, before the number of topics is held to 3, 4 or 5 (4 of 10 on average)."""


class BoredomState(NamedTuple):
    """B sessions. The platform sees `counts`, `shown`, `clicks` and `history`."""

    keys: Tensor  # (B,) int64 session keys
    depth: Tensor  # (B,) int64 slates shown, the one of reset included
    taste: Tensor  # (B, C) float32, length 1
    mood: Tensor  # (B, C) float32: the taste that acts, 0 where bored
    timers: Tensor  # (B, C) int64: steps until the topic interests again, 0 where it does
    recent: Tensor  # (B, memory + 1) int64: ring of clicks, step * C + main topic; the last column holds nothing
    pushes: Tensor  # (B,) int64 clicks so far
    counts: Tensor  # (B, C) float32: remembered clicks by main topic
    shown: Tensor  # (B, C) float32: share of the last slate's items by main topic
    clicks: Tensor  # (B, C) float32: and of those clicked; sums to clicks / K
    history: History  # the last L items shown


class Boredom:
    """The population of users, as `recgym.users.model.UserModel` asks. Nobody leaves: the caller ends sessions."""

    kinds = (FeedbackKind(name="click"),)

    def __init__(self, config: BoredomConfig | None = None, *, device: torch.device | str = "cpu") -> None:
        """Draw the items: U(0, 1) on 2 or 3 topics (even odds), then scaled to length 1.

        Args:
            config: the setting; None: the defaults.
            device: where states live.
        """
        self.config = config or BoredomConfig()
        self.device = torch.device(device)
        size, topics = self.config.num_items, self.config.num_topics
        keys = fold(session_keys(self.config.seed, size, device=self.device), 4)  # 0 to 3 are the users' streams
        width = 2 + (uniform(fold(keys, 0), 1)[:, 0] < 0.5).to(torch.int64)
        self.embedding = _on_some_topics(keys, width, topics)  # (N, C)
        self.topic = self.embedding.argmax(1)  # (N,) main topics
        self.item_categories = [f"topic {topic}" for topic in self.topic.tolist()]
        self._propensity: dict[int, Tensor] = {}  # by slate size
        self._mean = self.embedding.mean(1)  # (N,)
        # Chances of 3, 4 and 5 topics: binomial(C, 0.4), held to that range.
        odds = torch.distributions.Binomial(topics, torch.tensor(_CARES)).log_prob(
            torch.arange(FEWEST_TOPICS, MOST_TOPICS + 1.0)
        )
        self._widths = odds.softmax(0).cumsum(0)[:-1].to(self.device)
        self._members = members_of_topics(self.topic, topics)

    @property
    def num_items(self) -> int:
        """Items of the catalogue, N."""
        return self.config.num_items

    def propensity(self, slots: int) -> Tensor:
        """Chance that slot k of `slots` is seen: examination^k, or the mean of that and its reverse, (K,)."""
        if slots not in self._propensity:
            seen = self.config.examination ** torch.arange(slots, device=self.device)
            self._propensity[slots] = seen if self.config.positions == "top-down" else (seen + seen.flip(0)) / 2
        return self._propensity[slots]

    def reset(self, keys: Tensor) -> BoredomState:
        """Draw one user per key (B,) and show them a first random slate, repeats allowed, as SARDINE does.

        A user's taste is U(0, 1) on 3 to 5 topics, scaled to length 1.
        """
        config, batch = self.config, len(keys)
        keys = keys.to(self.device)
        width = FEWEST_TOPICS + torch.searchsorted(self._widths, uniform(fold(keys, 0), 1)[:, 0])
        taste = _on_some_topics(keys, width, config.num_topics)
        none = torch.zeros(batch, dtype=torch.int64, device=self.device)
        forgotten = -config.window * config.num_topics
        start = BoredomState(
            keys=keys,
            depth=none,
            taste=taste,
            mood=taste,
            timers=torch.zeros(batch, config.num_topics, dtype=torch.int64, device=self.device),
            recent=torch.full((batch, config.memory + 1), forgotten, device=self.device),
            pushes=none,
            counts=torch.zeros(batch, config.num_topics, device=self.device),
            shown=torch.zeros(batch, config.num_topics, device=self.device),
            clicks=torch.zeros(batch, config.num_topics, device=self.device),
            history=ring.empty(batch, config.length, len(self.kinds), device=self.device),
        )
        return self.step(start, bits(fold(keys, 3), config.slate_size) % config.num_items + 1)[0]

    def step(self, state: BoredomState, slates: Tensor) -> tuple[BoredomState, Response]:
        """React to `slates` (B, K): P(click) = sigmoid(slope (mood . item - offset)) propensity_k."""
        config = self.config
        batch, slots = slates.shape
        index = slates - 1  # (B, K)
        items, topics = self.embedding[index], self.topic[index]  # (B, K, C), (B, K)
        chance = self._relevance((items * state.mood.unsqueeze(1)).sum(2)) * self.propensity(slots)  # (B, K)
        shown = torch.zeros_like(state.shown).scatter_add_(1, topics, torch.full_like(chance, 1 / slots))
        if config.diversity_penalty > 1:
            monotonous = (shown * slots).amax(1, keepdim=True) > config.diversity_threshold - 0.5
            chance = torch.where(monotonous, chance / config.diversity_penalty, chance)
        clicked = uniform_at(state.keys, state.depth, slots) < chance  # (B, K)

        rank = clicked.cumsum(1)
        total = rank[:, -1]
        place = (state.pushes.unsqueeze(1) + rank).remainder(config.memory)
        place = torch.where(clicked & (total.unsqueeze(1) - rank < config.memory), place, config.memory)
        code = topics + (state.depth * config.num_topics).unsqueeze(1)
        recent = state.recent.scatter(1, place, code)
        depth = state.depth + 1
        counts = self._counts(recent, depth)
        timers = (state.timers - 1).clamp_(min=0)
        timers.masked_fill_((counts >= config.threshold) & (timers == 0), config.window)
        taste = self._influenced(state.taste, items, index, clicked, total)
        bored = timers > 0
        feedback = clicked.to(torch.float32).unsqueeze(2)  # (B, K, 1)
        history = ring.push_slate(state.history, slates, feedback)
        new = BoredomState(
            keys=state.keys,
            depth=depth,
            taste=taste,
            mood=taste * ~(bored.any(1, keepdim=True) if config.boredom == "churn" else bored),
            timers=timers,
            recent=recent,
            pushes=state.pushes + total,
            counts=counts,
            shown=shown,
            clicks=torch.zeros_like(shown).scatter_add_(1, topics, clicked / slots),
            history=history,
        )
        leaves = torch.zeros(batch, dtype=torch.bool, device=self.device)
        return new, Response(feedback, leaves, torch.full((batch,), torch.nan, device=self.device))

    def visible(self, state: BoredomState) -> Visible:
        """Clicks remembered by topic / threshold, at most 1; the last slate's items and clicks by topic / K: (B, 3 C).

        With `full_view` instead mood, the same clicks, and timers / window (1 where not bored), (B, 3 C).
        """
        tired = (state.counts / self.config.threshold).clamp(max=1)
        if self.config.full_view:
            timers = torch.where(state.timers > 0, state.timers / self.config.window, 1.0)
            return Visible(torch.cat([state.mood, tired, timers], 1))
        return Visible(torch.cat([tired, state.shown, state.clicks], 1))

    def history(self, state: BoredomState) -> tuple[Tensor, Tensor]:
        """Items (B, L) and feedback (B, L, 1), most recent last, 0 pads on the left; the first slate is among them."""
        return ring.ordered(state.history)

    def truth(self, state: BoredomState) -> dict[str, Tensor]:
        """`taste` and `mood` (B, C), `timers` (B, C) in steps, `counts` (B, C) clicks, `click` (B, N) at slot 0."""
        click = self._relevance(state.mood @ self.embedding.T)
        return {
            "taste": state.taste,
            "mood": state.mood,
            "timers": state.timers,
            "counts": state.counts,
            "click": click,
        }

    def bands(self) -> dict[str, Callable[[BoredomState], Tensor]]:
        """Policies that know the hidden state, as scorers of every item, (B, N); show the best K in order.

        "myopic": the most relevant items. "rule": the same, but never so many of a topic that their clicks could bore.
        "best known": slot by slot the item with the best chance of a click less what boredom would cost: `planned`.
        """
        return {
            "myopic": lambda state: state.mood @ self.embedding.T,
            "rule": self._rule,
            "best known": self.planned,
        }

    def planned(self, state: BoredomState, *, cost: float = 20.0, spare: float = 0.05, wear: float = 3.0) -> Tensor:
        """Scores (B, N) of the slates that `boredom_plans.filled` finds.

        Args:
            state: sessions.
            cost: clicks that a period of boredom costs.
            spare: clicks that one more click on a topic costs later, for each that is remembered.
            wear: share of an item's worth that a mean coordinate of 1 takes away where influence is "scalar": there a
                click drives the taste towards (1, ..., 1), where nothing is relevant, by the item's mean coordinate.
        """
        config = self.config
        relevance = self._relevance(state.mood @ self.embedding.T)
        wears, bores = config.influence == "scalar" and config.inertia < 1, config.threshold <= config.memory
        return filled(
            relevance,
            relevance * (1 - wear * self._mean) if wears else relevance,
            self._members,
            self._counts(state.recent, state.depth + 1).to(torch.int64),
            self.propensity(config.slate_size),
            config.threshold,
            cost=cost if bores else 0.0,
            spare=spare if bores else 0.0,
        )

    def _rule(self, state: BoredomState) -> Tensor:
        """Cosine (B, N), less 2 for items that could bore if all of their topic shown up to them were clicked."""
        config = self.config
        room = config.threshold - 1 - self._counts(state.recent, state.depth + 1)  # (B, C)
        return capped(state.mood @ self.embedding.T, self._members, room, config.slate_size)

    def _relevance(self, cosine: Tensor) -> Tensor:
        """Chance of a click in a slot that is surely seen: sigmoid(slope (cosine - offset)), same shape."""
        return torch.sigmoid(self.config.slope * (cosine - self.config.offset))

    def _counts(self, recent: Tensor, depth: Tensor) -> Tensor:
        """Clicks by main topic, (B, C) float32, of the ring's entries from the last `window` steps before `depth`."""
        topics, codes = self.config.num_topics, recent[:, :-1]
        alive = codes >= ((depth - self.config.window) * topics).unsqueeze(1)
        zeros = torch.zeros(len(codes), topics, device=self.device)
        return zeros.scatter_add_(1, codes.remainder(topics), alive.to(torch.float32))

    def _influenced(self, taste: Tensor, items: Tensor, index: Tensor, clicked: Tensor, total: Tensor) -> Tensor:
        """Taste after the clicks: (inertia taste + (1 - inertia) pull) / length, (B, C)."""
        if self.config.inertia == 1:
            return taste
        weight = clicked / total.clamp(min=1).unsqueeze(1)  # (B, K)
        if self.config.influence == "item":
            pull = (items * weight.unsqueeze(2)).sum(1)  # (B, C)
        else:
            pull = (self._mean[index] * weight).sum(1, keepdim=True)  # (B, 1)
        moved = self.config.inertia * taste + (1 - self.config.inertia) * pull
        return torch.where(total.unsqueeze(1) > 0, _scaled(moved), taste)


def _on_some_topics(keys: Tensor, width: Tensor, topics: int) -> Tensor:
    """U(0, 1) on `width` (B,) of the topics, 0 elsewhere, scaled to length 1: (B, C) from streams 1 and 2 of `keys`."""
    rank = uniform(fold(keys, 2), topics).argsort(1).argsort(1)
    return _scaled(uniform(fold(keys, 1), topics) * (rank < width.unsqueeze(1)))


def _scaled(vector: Tensor) -> Tensor:
    """`vector` (B, C) over its Euclidean length."""
    return vector / (vector * vector).sum(1, keepdim=True).sqrt()
