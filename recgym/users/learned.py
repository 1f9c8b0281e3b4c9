"""Users learned from logs: a backbone's state, heads for feedback and leaving, and a short-term memory.

One step of a slate (B, K): the heads judge it from the state before; feedback is drawn slot by slot, a kind that
depends on another only where that one happened; the user may leave; then state, history and memory take the slate in.
Where the log has no exposures, an item that is not consumed leaves no trace but the chance to leave.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone, module_of
from recgym.logs.sequences import Starts
from recgym.random import fold, normal, uniform, uniform_at
from recgym.trees import take
from recgym.types import FeedbackKind, Response, Visible
from recgym.users import history as ring
from recgym.users import recent as memory
from recgym.users.context import context_of
from recgym.users.ensemble import Member, Reactions, Situation, dependencies, opinions
from recgym.users.heads import Heads, Shown, draw_amounts
from recgym.users.history import History
from recgym.users.recent import Recent
from recgym.users.returning import Returning
from recgym.users.starting import RESET, Begun, EncodedStarts
from recgym.users.taking_in import take_in

_MOOD, _AWAY, _NEXT = 1, 2, 3
"""Streams under a key's stream of all that is not a step: intercepts, days away, the next session's key."""
_SECONDS_A_DAY = 86_400.0


class LearnedState(NamedTuple):
    """B sessions. `cache` and `history` are what the platform could know too; the rest is the user's own."""

    keys: Tensor  # (B,) int64 session keys
    depth: Tensor  # (B,) int64 slates met
    visit: Tensor  # (B,) int64 sessions before this one, since `reset`
    start: Tensor  # (B,) int64: row of `starts`
    user: Tensor  # (B,) int64: whose logged session this started from
    clock: Tensor  # (B,) float64 seconds since the epoch when this session began
    cache: Any  # the backbone's, with `state` (B, D)
    history: History  # the last L steps
    recent: Recent
    effects: Tensor  # (B, F + 1) the session's intercepts, calibrated plus its own: feedback, then leaving


class LearnedUsers:
    """The population of users, as `recgym.users.model.UserModel` asks."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        heads: Heads,
        topics: Tensor,
        kinds: tuple[FeedbackKind, ...],
        exposures: bool,
        repeats: bool,
        ignored_hazard: float,
        starts: Starts,
        start_megabytes: int = 128,
        new_user_share: float | None = None,
        members: tuple[Heads, ...] = (),
        returning: Returning | None = None,
        name: str = "log",
        item_titles: tuple[str, ...] | None = None,
        item_categories: tuple[str, ...] | None = None,
    ) -> None:
        """Put the parts together; see `recgym.users.fitting.fit_users` and `recgym.users.storage.load_users`.

        Args:
            backbone: encodes the history; shared and frozen, not copied.
            heads: fitted and calibrated; frozen.
            topics: (N + 1,) int64 topic of each item id.
            kinds: of feedback, those that others depend on first.
            exposures: whether items that were ignored enter the history.
            repeats: whether users consume an item again; if not, they never do.
            ignored_hazard: hazard after an ignored item, over that after a consumed one (logs without exposures).
            starts: where sessions start.
            start_megabytes: memory for encoded starts; if they need more, the first that fit are kept.
            new_user_share: share of `reset`'s sessions whose users are new; None: as among `starts`.
            members: more heads fitted to resampled sessions, for `disagreement`.
            returning: when users come back; None: the log does not say.
            name: of the log.
            item_titles: of each item, for people.
            item_categories: of each item, for people.
        """
        module_of(backbone).requires_grad_(False)  # so that a step needs no guard against gradients
        self.backbone, self.heads, self.kinds = backbone, heads.requires_grad_(False).eval(), kinds
        self.exposures, self.repeats, self.ignored_hazard = exposures, repeats, ignored_hazard
        self.name, self.item_titles, self.item_categories = name, item_titles, item_categories
        self.start_megabytes, self.new_user_share = start_megabytes, new_user_share
        self.members, self.returning = members, returning
        self._given, self._first_is_binary = dependencies(kinds), kinds[0].type == "binary"
        weights = next(module_of(backbone).parameters())
        self.device = weights.device
        self.topics = topics.to(self.device)
        for part in (self.heads, *members, *(() if returning is None else (returning,))):
            part.requires_grad_(False).eval().to(self.device)
        self._slots = torch.arange(backbone.config.length, device=self.device)
        self._traces = memory.trace_weights(device=self.device)
        self.num_items, count = backbone.num_items, len(kinds)
        self._slope, self._leave_slope = heads.slope[:count], heads.slope[count]  # views, as are the amounts
        self._residual, self._not_modelled = heads.residual, torch.tensor(torch.nan, device=self.device)
        self._amounts = [heads.amount[:, column].unbind() for column in range(count)]
        self._on_grid = [float(heads.amount[4, column]) > 0 for column in range(count)]
        with torch.no_grad():
            vectors = torch.cat([weights.new_zeros(1, backbone.width), backbone.item_vectors()])
            bias = torch.cat([weights.new_zeros(1), backbone.item_bias()])
            everything = torch.arange(self.num_items + 1, device=self.device)
            self._rows, self._weights = self.heads.rows(everything, vectors, bias), self.heads.weights()  # (N + 1, R)
            self._everyone = [Member(self.heads, self._rows, self._weights)]
            self._everyone += [Member(one, one.rows(everything, vectors, bias), one.weights()) for one in members]
            self._beginnings = EncodedStarts(
                backbone, starts, self.device, megabytes=start_megabytes, new_user_share=new_user_share
            )
            self.starts = self._beginnings.starts
            never = torch.zeros(len(self.starts.user), device=self.device)
            self._times = (never if self.starts.time is None else self.starts.time).to(torch.float64)

    def reset(self, keys: Tensor) -> LearnedState:
        """Start one session per key (B,), each at a logged start, or as a new user where a share of those is stated."""
        keys = keys.to(self.device)
        return self._begin(keys, self._beginnings.draw(keys))

    def newcomers(self, keys: Tensor) -> LearnedState:
        """Start one session per key (B,), each of a new user: as `reset` on the same keys, with empty histories.

        `user` and `start` say whose clock and profile were taken; a share of new users set for `reset` plays no part.
        """
        keys = keys.to(self.device)
        return self._begin(keys, self._beginnings.newcomers(keys))

    def begin_at(self, keys: Tensor, rows: Tensor) -> LearnedState:
        """Start one session per key (B,), each at the given row (B,) of `starts`."""
        return self._begin(keys.to(self.device), self._beginnings.at(rows.to(self.device)))

    def away(self, state: LearnedState) -> Tensor:
        """Days until each user is back if the session ends now, (B,) float32; inf: never; nan: not modelled."""
        if self.returning is None:
            return torch.full((len(state.keys),), torch.nan, device=self.device)
        met = state.history.pushes.to(torch.float32)  # (B,) as a log counts: items that entered the history
        log_odds = self.returning.log_odds(state.cache.state, met, ring.total_since(state.history))
        return self.returning.draw(log_odds, uniform(fold(fold(state.keys, RESET), _AWAY), 2))

    def revisit(self, state: LearnedState, days: Tensor) -> LearnedState:
        """Begin the next session of every user after `days` (B,): history and taste stay, mood and memory are new."""
        keys = fold(fold(state.keys, RESET), _NEXT)
        clock = state.clock + days.to(torch.float64) * _SECONDS_A_DAY
        return state._replace(
            keys=keys,
            depth=torch.zeros_like(state.depth),
            visit=state.visit + 1,
            clock=clock,
            history=ring.of_padded(*ring.ordered(state.history)),
            recent=memory.fresh(len(keys), device=self.device),
            effects=self._mood(keys, state.start, clock),
        )

    def disagreement(self, state: LearnedState, slates: Tensor) -> Tensor:
        """Standard deviation over the ensemble of what each item is expected to bring, (B, K, F), before `step`.

        Raises:
            ValueError: there is no ensemble.
        """
        if not self.members:
            raise ValueError("these users have no ensemble: fit them with `users.ensemble` of at least 1")
        return self.opinions(state, slates).std(0)

    def opinions(self, state: LearnedState, slates: Tensor, *, given: bool = False) -> Tensor:
        """What each of the ensemble expects each item to bring, (1 + members, B, K, F); the simulated heads come first.

        With `given`, a kind counts as if the one that it depends on happened: stars if rated, not stars if shown.
        """
        features, seen = self._situation(state, slates, self.topics[slates])
        situation = Situation(state.cache.state, features, seen, self._context(state.start, state.clock))
        depends = (None,) * len(self.kinds) if given else self._given
        return opinions(self._everyone, situation, slates, Reactions(self.kinds, depends, self.repeats))

    def step(self, state: LearnedState, slates: Tensor) -> tuple[LearnedState, Response]:
        """React to `slates` (B, K) of item ids 1..N."""
        batch, slots = slates.shape
        kinds = len(self.kinds)
        topics = self.topics[slates]
        features, seen = self._situation(state, slates, topics)
        shown = self._weights.show(state.cache.state, self._rows[slates], features)
        draws = uniform_at(state.keys, state.depth + 1, 1 + slots * kinds)  # 0 belongs to reset
        logits = torch.addcmul(state.effects[:, None, :kinds], shown.logits, self._slope)
        feedback = self._react(logits, draws[:, 1:].view(batch, slots, kinds), seen)  # (B, K, F)
        positive = feedback[:, :, 0] if self._first_is_binary else (feedback[:, :, 0] > 0).to(torch.float32)  # (B, K)
        leaves = draws[:, 0] < self._hazard(shown, feedback, positive, state.effects[:, kinds])

        new = take_in(self, state, slates, feedback, positive)
        gap = self._not_modelled.expand(batch)
        if self.returning is not None and bool(leaves.any()):
            gone = leaves.nonzero()[:, 0]
            gap = gap.clone()
            gap[gone] = self.away(take(new, gone))
        return new, Response(feedback, leaves, gap)

    def visible(self, state: LearnedState) -> Visible:
        """The backbone's state, (B, D)."""
        return Visible(state.cache.state)

    def history(self, state: LearnedState) -> tuple[Tensor, Tensor]:
        """Items (B, L) and feedback (B, L, F), most recent last, 0 pads on the left."""
        return ring.ordered(state.history)

    def truth(self, state: LearnedState) -> dict[str, Tensor]:
        """`start` (B,): row of `starts`; one entry a binary kind, (B, N): its chance at slot 0 given what it needs."""
        every = torch.arange(1, self.num_items + 1, device=self.device).expand(len(state.keys), -1)
        features, seen = self._situation(state, every, self.topics[every])
        rows = self._rows[1:].expand(len(state.keys), -1, -1)
        logits = self._weights.show(state.cache.state, rows, features, torch.zeros_like(every)).logits
        logits = torch.addcmul(state.effects[:, None, : len(self.kinds)], logits, self._slope)
        found = {"start": state.start}
        for column, kind in enumerate(self.kinds):
            if kind.type == "binary":
                chance = torch.sigmoid(logits[:, :, column])
                found[kind.name] = chance if self.repeats or column else chance * (1 - seen)
        return found

    def _react(self, logits: Tensor, draws: Tensor, seen: Tensor) -> Tensor:
        """Draw feedback (B, K, F) from calibrated log-odds (B, K, F) and uniform draws (B, K, F)."""
        columns: list[Tensor] = []
        happens = (draws < torch.sigmoid(logits)).to(torch.float32)  # (B, K, F); only binary kinds are read
        for column, (kind, amount) in enumerate(zip(self.kinds, happens.unbind(2), strict=True)):
            if kind.type == "real":
                law = (*self._amounts[column], self._residual[column])
                amount = draw_amounts(logits[:, :, column], draws[:, :, column], law, on_grid=self._on_grid[column])
            if column == 0 and not self.repeats:
                amount = amount * (1 - seen)
            if (given := self._given[column]) is not None:
                needed = columns[given]
                amount = amount * (needed if self.kinds[given].type == "binary" else needed > 0)
            columns.append(amount)
        return torch.stack(columns, 2)

    def _begin(self, keys: Tensor, begun: Begun) -> LearnedState:
        """The state in which sessions begin."""
        row, clock = begun.row, self._times[begun.row]
        return LearnedState(
            keys=keys,
            depth=torch.zeros_like(keys),
            visit=torch.zeros_like(keys),
            start=row,
            user=self.starts.user[row],
            clock=clock,
            cache=begun.cache,
            history=ring.of_padded(begun.items, begun.feedback),
            recent=memory.fresh(len(keys), device=self.device),
            effects=self._mood(keys, row, clock),
        )

    def _mood(self, keys: Tensor, start: Tensor, clock: Tensor) -> Tensor:
        """A session's intercepts, (B, F + 1): calibration, what the clock and the profile say, and its own."""
        luck = normal(fold(fold(keys, RESET), _MOOD), len(self.kinds) + 1)
        own = torch.addcmul(self.heads.intercept, luck, self.heads.effect_scale)
        if not self.heads.shape.context_width:
            return own
        return torch.addcmul(own, self.heads.offsets(self._context(start, clock)), self.heads.slope)

    def _context(self, start: Tensor, clock: Tensor) -> Tensor:
        """Clock and profile, as wide as the heads read, (B, C)."""
        if not self.heads.shape.context_width:
            return torch.zeros(len(start), 0, device=self.device)
        return context_of(clock, None if self.starts.profile is None else self.starts.profile[start])

    def _hazard(self, shown: Shown, feedback: Tensor, positive: Tensor, effect: Tensor) -> Tensor:
        """Chance of leaving now, (B,)."""
        if self.exposures:
            return torch.sigmoid(torch.addcmul(effect, self._weights.leave(shown, feedback), self._leave_slope))
        typical = self.backbone.table.scale.expand_as(feedback)  # what a consumed item's feedback would have been
        consumed = positive.unsqueeze(2) > 0
        filled = torch.where(consumed, feedback, typical)
        hazard = torch.sigmoid(torch.addcmul(effect, self._weights.leave(shown, filled), self._leave_slope))
        return torch.where(positive.any(1), hazard, (hazard * self.ignored_hazard).clamp_max(1))

    def _situation(self, state: LearnedState, slates: Tensor, topics: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, K, X) and whether each item was consumed within the last L steps, (B, K) float32."""
        met = state.history.items  # (B, L), in the ring's order: no feature depends on it
        consumed = state.history.feedback[:, :, 0]  # (B, L)
        if not self._first_is_binary:
            consumed = (consumed > 0).to(torch.float32)
        lately = memory.features(state.recent, topics, self._traces)
        usually = memory.habits(self.topics[met], consumed, topics)
        here = (self._slots < state.history.pushes.unsqueeze(1)).to(torch.float32)  # (B, L) met in this session
        itself = memory.met_before(met, consumed, here, slates)
        return torch.cat([lately, usually, itself], 2), itself[:, :, 0]
