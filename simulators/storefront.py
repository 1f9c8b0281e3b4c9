"""The storefront: a known world in which the next click and the long session pull apart.

A user u is shown items j. What happens, with s the user's satisfaction and b the boredom per category:

    P(click)   = sigmoid(appeal[u, j] - w_b b[category j] - w_r [j consumed before] - w_k log(1 + slot))
    P(like)    = sigmoid(1.2 quality_j + 0.6 match[u, j] - 1.5 clickbait_j - 0.9), given a click
    dwell      = exp(3.2 + 0.5 quality_j + 0.2 match[u, j] - 0.8 clickbait_j + 0.6 noise) seconds, given a click
    s'         = decay_s s + sum of gain_j over clicked items;  gain_j = g quality_j - l (clickbait_j - 0.2)
    b'         = decay_b (b + share of the slate in each category)
    P(leave)   = sigmoid(h_0 - patience_u - h_s s' + h_m min(misses in a row, limit))
    days away ~ Exponential(mean d exp(-d_s s'))

So clickbait earns a click now and shortens the session and the next absence grows; the favourite category, shown again
and again, bores; and a user who clicks nothing for a while goes.

Source: boredom as a per-category penalty of recent shows, Deffayet et al. (2023), "SARDINE: simulator for automated
recommendation in dynamic and interactive environments", section 3; clickbait against slow-moving satisfaction, Ie et
al. (2019), "RecSim: a configurable simulation platform for recommender systems", section 5 (long-term satisfaction).
The formulas are this project's own; those worlds are where their ideas come from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from recgym.random import bits, fold, uniform
from recgym.types import FeedbackKind, Response, Visible
from recgym.users import history as ring
from recgym.users.history import History
from simulators.catalogue import SETTINGS as SETTINGS
from simulators.catalogue import StorefrontConfig, make_catalogue, make_population, to_double

CLICK, DWELL, LIKE = 0, 1, 2
"""Columns of the feedback."""
_SESSION_DRAWS, _SLOT_DRAWS = 2, 3
"""Draws of one step: leaving and the gap, then click, like and dwell of each slot."""


class StartRows(Protocol):
    """Where sessions may start: `recgym.logs.sequences.Starts`."""

    @property
    def user(self) -> Tensor:
        """Index of the user, (P,) int64."""
        ...

    @property
    def items(self) -> Tensor:
        """History before the session, (P, L) int64, most recent last, 0 pads on the left."""
        ...

    @property
    def feedback(self) -> Tensor:
        """Its feedback, (P, L, F) float32."""
        ...


class StorefrontState(NamedTuple):
    """B sessions. Only `history`, `last` and `depth` are visible to the platform."""

    keys: Tensor  # (B,) int64 session keys
    depth: Tensor  # (B,) int64 steps taken
    user: Tensor  # (B,) int64, 0..U-1
    satisfaction: Tensor  # (B,) float64
    boredom: Tensor  # (B, C) float64: decayed count of recent shows
    misses: Tensor  # (B,) int64: steps since the last click
    consumed: Tensor  # (B, N) bool: clicked in this session
    last: Tensor  # (B, F) float32: feedback of the last slate, averaged over its slots
    history: History  # the last L items shown, from before this session too


class Storefront:
    """The population of users, as `recgym.users.model.UserModel` asks."""

    kinds = (
        FeedbackKind(name="click"),
        FeedbackKind(name="dwell", type="real", given="click", unit="seconds"),
        FeedbackKind(name="like", given="click"),
    )

    def __init__(
        self,
        config: StorefrontConfig | None = None,
        *,
        starts: StartRows | None = None,
        items: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Draw the world.

        Args:
            config: sizes and coefficients; None: the defaults, which made the sample log.
            starts: logged users and histories to start from; None: any user, with an empty history.
            items: (N',) int64 places (from 0) of the items that the platform knows, such as those of a log that met
                only some; None: all.
            device: where states live.

        Raises:
            ValueError: `starts` is empty, or names users or items that this world does not have.
        """
        self.config = config or StorefrontConfig()
        self.device = torch.device(device)
        catalogue = make_catalogue(self.config)
        population = make_population(self.config, catalogue)
        if items is not None:
            catalogue = type(catalogue)(*(part[items] for part in catalogue))
            population = population._replace(match=population.match[:, items], appeal=population.appeal[:, items])
        self.catalogue = type(catalogue)(*(part.to(self.device) for part in catalogue))
        self.population = type(population)(*(part.to(self.device) for part in population))
        self._like_log_odds = (  # (U, N)
            1.2 * self.catalogue.quality + 0.6 * self.population.match - 1.5 * self.catalogue.clickbait - 0.9
        )
        self._dwell_log_mean = (  # (U, N)
            3.2 + 0.5 * self.catalogue.quality + 0.2 * self.population.match - 0.8 * self.catalogue.clickbait
        )
        self._starts = None if starts is None else self._checked(starts)

    @property
    def num_items(self) -> int:
        """Items of the catalogue, N."""
        return len(self.catalogue.category)

    def reset(self, keys: Tensor) -> StorefrontState:
        """Start one session per key (B,): a logged start where there are starts, else any user without a history."""
        keys = keys.to(self.device)
        draw = bits(fold(keys, 0), 1)[:, 0]
        if self._starts is None:
            user = draw % self.config.num_users
            return self.begin(
                keys, user, ring.empty(len(keys), self.config.length, len(self.kinds), device=self.device)
            )
        user, items, feedback = self._starts
        row = draw % len(user)
        return self.begin(keys, user[row], ring.of_padded(items[row], feedback[row]))

    def begin(self, keys: Tensor, user: Tensor, history: History) -> StorefrontState:
        """Start sessions of the given users (B,) with the given visible histories; the rings are taken over."""
        batch = len(keys)
        return StorefrontState(
            keys=keys,
            depth=torch.zeros(batch, dtype=torch.int64, device=self.device),
            user=user,
            satisfaction=torch.zeros(batch, dtype=torch.float64, device=self.device),
            boredom=torch.zeros(batch, self.config.num_categories, dtype=torch.float64, device=self.device),
            misses=torch.zeros(batch, dtype=torch.int64, device=self.device),
            consumed=torch.zeros(batch, self.num_items, dtype=torch.bool, device=self.device),
            last=torch.zeros(batch, len(self.kinds), device=self.device),
            history=history,
        )

    def step(self, state: StorefrontState, slates: Tensor) -> tuple[StorefrontState, Response]:
        """React to `slates` (B, K) of item ids 1..N."""
        batch, slots = slates.shape
        index = slates - 1  # (B, K)
        key = fold(state.keys, state.depth + 1)  # 0 belongs to reset
        draws = to_double(uniform(key, _SESSION_DRAWS + _SLOT_DRAWS * slots))
        luck = draws[:, _SESSION_DRAWS:].view(batch, slots, _SLOT_DRAWS)

        chosen = (state.user.unsqueeze(1), index)
        clicked = luck[..., CLICK] < torch.sigmoid(self._click_log_odds(state, index))  # (B, K)
        liked = clicked & (luck[..., LIKE] < torch.sigmoid(self._like_log_odds[chosen]))
        seconds = torch.exp(self._dwell_log_mean[chosen] + 0.6 * torch.special.ndtri(luck[..., DWELL]))
        dwell = clicked * seconds.round().clamp(1, 3600)
        feedback = torch.stack([clicked.to(torch.float32), dwell.to(torch.float32), liked.to(torch.float32)], 2)

        config = self.config
        satisfaction = config.satisfaction_decay * state.satisfaction + (clicked * self.catalogue.gain[index]).sum(1)
        shown = torch.full_like(index, 1, dtype=torch.float64) / slots
        boredom = state.boredom.scatter_add(1, self.catalogue.category[index], shown) * config.boredom_decay
        misses = torch.where(clicked.any(1), 0, state.misses + 1)
        leaves = draws[:, 0] < torch.sigmoid(self._leave_log_odds(state.user, satisfaction, misses))
        gap = torch.where(leaves, self._days(draws[:, 1], satisfaction), torch.nan).to(torch.float32)

        history, consumed = state.history, state.consumed
        for slot in range(slots):
            history = ring.push(history, slates[:, slot], feedback[:, slot])
            here = index[:, slot : slot + 1]
            consumed.scatter_(1, here, consumed.gather(1, here) | clicked[:, slot : slot + 1])
        new = StorefrontState(
            keys=state.keys,
            depth=state.depth + 1,
            user=state.user,
            satisfaction=satisfaction,
            boredom=boredom,
            misses=misses,
            consumed=consumed,
            last=feedback.mean(1),
            history=history,
        )
        return new, Response(feedback, leaves, gap)

    def away(self, state: StorefrontState) -> Tensor:
        """Days until each user is back if the session ends now, (B,) float32."""
        draw = to_double(uniform(fold(fold(state.keys, 0), 1), 1))[:, 0]
        return self._days(draw, state.satisfaction).to(torch.float32)

    def revisit(self, state: StorefrontState, days: Tensor) -> StorefrontState:  # noqa: ARG002
        """Begin the next session of every user: the history stays, satisfaction and boredom are forgotten."""
        return self.begin(fold(fold(state.keys, 0), 2), state.user, ring.of_padded(*ring.ordered(state.history)))

    def visible(self, state: StorefrontState) -> Visible:
        """Last feedback (dwell in log(1 + seconds)) and depth in hundreds of steps, (B, F + 1)."""
        last = state.last.clone()
        last[:, DWELL] = last[:, DWELL].log1p()
        return Visible(torch.cat([last, state.depth.unsqueeze(1).to(torch.float32) / 100], 1))

    def history(self, state: StorefrontState) -> tuple[Tensor, Tensor]:
        """Items (B, L) and feedback (B, L, F), most recent last, 0 pads on the left."""
        return ring.ordered(state.history)

    def truth(self, state: StorefrontState) -> dict[str, Tensor]:
        """`user` (B,), `satisfaction` (B,), `boredom` (B, C), `click` (B, N) at slot 0, `like` (B, N) given a click."""
        every = torch.arange(self.num_items, device=self.device).expand(len(state.user), -1)
        return {
            "user": state.user,
            "satisfaction": state.satisfaction,
            "boredom": state.boredom,
            "click": torch.sigmoid(self._click_log_odds(state, every, slotted=False)),
            "like": torch.sigmoid(self._like_log_odds[state.user]),
        }

    def oracle(self, state: StorefrontState, *, foresight: float = 3.0, restraint: float = 0.02) -> Tensor:
        """Score every item by the truth, (B, N): P(click) (1 + foresight gain) - restraint (affinity of its category).

        Args:
            state: sessions.
            foresight: clicks that one unit of satisfaction is worth later in the session; 0 is the myopic ranker.
            restraint: what showing the favourite category costs later; 0 for none.
        """
        click = self.truth(state)["click"]
        loved = self.population.affinity[state.user][:, self.catalogue.category]  # (B, N)
        return click * (1 + foresight * self.catalogue.gain) - restraint * loved

    def bands(self) -> dict[str, Callable[[StorefrontState], Tensor]]:
        """Scorers of every item, (B, N): the chance of a click; what most like and is good, never twice; the oracle."""
        liked = self.population.appeal.mean(0) + 2 * self.catalogue.gain  # (N,)

        def unseen(state: StorefrontState) -> Tensor:
            shown = torch.zeros(len(state.user), self.num_items + 1, device=self.device)
            return liked - 99 * shown.scatter_(1, state.history.items, 1.0)[:, 1:]

        return {
            "myopic": lambda state: self.truth(state)["click"],
            "rule": unseen,
            "best known": lambda state: self.oracle(state, foresight=3.0),
        }

    def _click_log_odds(self, state: StorefrontState, index: Tensor, *, slotted: bool = True) -> Tensor:
        """Log-odds of a click on items `index` (B, K), 0..N-1; slot k is place k of the slate, or 0 if not slotted."""
        config = self.config
        log_odds = (
            self.population.appeal[state.user.unsqueeze(1), index]
            - config.boredom_weight * state.boredom.gather(1, self.catalogue.category[index])
            - config.repeat_penalty * state.consumed.gather(1, index)
        )
        if slotted and index.shape[1] > 1:
            place = torch.arange(index.shape[1], dtype=torch.float64, device=self.device)
            log_odds = log_odds - config.slot_penalty * place.log1p()
        return log_odds

    def _days(self, draw: Tensor, satisfaction: Tensor) -> Tensor:
        """Days away from a uniform draw, (B,)."""
        config = self.config
        return -torch.log(draw) * config.gap_days * torch.exp(-config.gap_satisfaction * satisfaction)

    def _leave_log_odds(self, user: Tensor, satisfaction: Tensor, misses: Tensor) -> Tensor:
        """Log-odds of leaving, (B,), after the step that led to `satisfaction` and `misses`."""
        config = self.config
        return (
            config.leave_base
            - self.population.patience[user]
            - config.leave_satisfaction * satisfaction
            + config.leave_miss * misses.clamp(max=config.miss_limit)
        )

    def _checked(self, starts: StartRows) -> tuple[Tensor, Tensor, Tensor]:
        """Users, items and feedback of `starts` on this device, or ValueError."""
        if len(starts.user) == 0:
            raise ValueError("starts hold no session; expected at least one (user, history) pair")
        for name, values, limit in (
            ("user", starts.user, self.config.num_users - 1),
            ("items", starts.items, self.num_items),
        ):
            if int(values.min()) < 0 or int(values.max()) > limit:
                raise ValueError(
                    f"starts.{name} reaches from {int(values.min())} to {int(values.max())}, expected 0..{limit};"
                    " use starts of a log that this world made"
                )
        if starts.feedback.shape[2] != len(self.kinds):
            raise ValueError(
                f"starts.feedback has {starts.feedback.shape[2]} kinds, expected {len(self.kinds)}:"
                f" {', '.join(kind.name for kind in self.kinds)}"
            )
        return starts.user.to(self.device), starts.items.to(self.device), starts.feedback.to(self.device)
