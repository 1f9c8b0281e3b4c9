"""KuaiSim: users with a temper, at three levels: one request, a whole session, and return after days.

`simulators.responses` says what a user does with each item of a slate; y_b below is the mean of behaviour b over the
slate. A user starts a session with temper T0 and leaves when the temper falls below 1:

    request level     nobody leaves: T0 is infinite, and the horizon is the caller's
    whole session     T <- T - clip(cost - sum_b w_b y_b, least, most)
    cross session     after the last request of a session the user stays away for 1..10 days,
                      P(i + 1 days) ~ p (1 - p)^i, where with r = sum_b v_b y_b
                          "last slate"      p = clip(bias + personal + k r of the last slate, .001, .999)
                          "whole session"   p = sigmoid(logit(bias) + personal + k mean of r over the session)
                      and personal ~ N(0, spread) a trait of the user (published: an untrained random layer on the
                      state at the end, which adds the same unknown constant for everybody)

The days are `Response.gap`; `promptness` = 1 - days / 10 is a kind of feedback besides (on the first slot), so that it
can be earned: the published reward, -days / 10, is less by 1 a session. The state that ends a session is the start of
the user's next one: history and interest carry over, temper is full again. `leaves` is true when the user ends session
number `num_sessions`; whoever goes on stepping has the user back. The published action of this level, seven weights
that rank all items by sum_b a_b P(b), is a policy here: `fused`.

What is degenerate as published. "kuaisim-session": 2 - y_click lies in [1, 2] whatever is shown, so from T0 = 20 a
session has 10 to 20 requests; with the double squash a click has chance .5 to .731 and the mean depth is 13.23 to 15.55
(13.18 to 15.48 where a temper of 1 may be rounded down, as shipped), an increasing function of the click rate: the
myopic ranker is the best one. "kuaisim-return": a slate moves p by at most .1, and only the fifth one does. Repaired:
opening what is not worth it (a click without a long view) costs temper and what is worth it spares it, and the return
depends on all requests of the session.

Source: Zhao et al. (2023), "KuaiSim: a comprehensive simulator for recommender systems", sections 3.2 to 3.4, and the
published code's `KREnvironment_SlateRec`, `_WholeSession_GPU` and `KRCrossSessionEnvironment_GPU`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recgym.random import bits, fold, normal, session_keys, uniform
from recgym.types import FeedbackKind, Response, Visible
from recgym.users import history as ring
from recgym.users.history import History
from simulators.patience_settings import SETTINGS as SETTINGS
from simulators.patience_settings import KuaiSimConfig
from simulators.responses import BEHAVIOURS, CLICK, LONG_VIEW, Responses

MAX_DAYS = 10
"""Longest absence, in days."""
_ROUNDING = 1e-3
"""A temper that is 1 but for rounding does not end a session: sums of sixths are not exact in single precision."""
_USER, _PROFILE = 0, 1
"""Streams of a session's key; its steps have 2, 3, ..."""


class KuaiSimState(NamedTuple):
    """B users. Only `profile`, `last`, `requests`, `sessions` and `history` are visible to the platform."""

    keys: Tensor  # (B,) int64 session keys
    depth: Tensor  # (B,) int64 slates met
    user: Tensor  # (B,) int64, 0..U-1
    interest: Tensor  # (B, D) float32 unit vectors
    temper: Tensor  # (B,) float32
    requests: Tensor  # (B,) float32 slates met in this session
    gathered: Tensor  # (B,) float32 sum of r in this session
    sessions: Tensor  # (B,) float32 sessions ended
    profile: Tensor  # (B, D) float32
    last: Tensor  # (B, F) float32: feedback of the last slate, averaged over its slots
    history: History  # the last L items shown, over sessions


class KuaiSim:
    """The population of users, as `recgym.users.model.UserModel` asks."""

    def __init__(self, config: KuaiSimConfig | None = None, *, device: torch.device | str = "cpu") -> None:
        """Draw users and items, and calibrate their responses."""
        self.config = config or KuaiSimConfig()
        self.device, self.num_items = torch.device(device), self.config.num_items
        self.responses = Responses(self.config, device=device)
        returning = self.config.returns != "none"
        self.kinds = self.responses.kinds + ((FeedbackKind(name="promptness", type="real"),) if returning else ())
        weights = torch.tensor([self.config.temper_weights, self.config.return_weights], device=self.device)
        self._temper_weights, self._return_weights = weights  # (F,) each
        traits = normal(fold(session_keys(self.config.seed, 1), 5), self.config.num_users)[0]
        self._personal = (self.config.personal_spread * traits).to(self.device)  # (U,)

    def reset(self, keys: Tensor) -> KuaiSimState:
        """Start one user per key (B,), without a history."""
        keys = keys.to(self.device)
        batch, config = len(keys), self.config
        user = bits(fold(keys, _USER), 1)[:, 0] % config.num_users
        interest = self.responses.users[user]
        noise = normal(fold(keys, _PROFILE), config.width) * (config.profile_noise / math.sqrt(config.width))
        nothing = torch.zeros(batch, device=self.device)
        return KuaiSimState(
            keys=keys,
            depth=torch.zeros_like(keys),
            user=user,
            interest=interest,
            temper=nothing + config.temper,
            requests=nothing,
            gathered=nothing.clone(),
            sessions=nothing.clone(),
            profile=interest + noise,
            last=torch.zeros(batch, len(self.kinds), device=self.device),
            history=ring.empty(batch, config.length, len(self.kinds), device=self.device),
        )

    def step(self, state: KuaiSimState, slates: Tensor) -> tuple[KuaiSimState, Response]:
        """React to `slates` (B, K) of item ids 1..N."""
        batch, slots = slates.shape
        config, index, behaviours = self.config, slates - 1, len(BEHAVIOURS)
        draws = self._draws(state, 1 + slots * behaviours)
        chance, vectors = self.responses.chances(state.interest, index)
        feedback = (draws[:, 1:].view(batch, slots, behaviours) < chance).to(torch.float32)
        mean = feedback.mean(1)  # (B, F)
        interest = self.responses.moved(state.interest, vectors, feedback[:, :, CLICK])
        temper = state.temper - (config.cost - mean @ self._temper_weights).clamp_(config.least, config.most)
        ends = temper < 1 - _ROUNDING
        requests, sessions = state.requests + 1, state.sessions + ends
        gathered = state.gathered
        gap = torch.full_like(temper, torch.nan)
        if config.returns != "none":
            reward = mean @ self._return_weights  # (B,)
            gathered = gathered + reward
            met = reward if config.returns == "last slate" else gathered / requests
            gap = torch.where(ends, days_away(self.return_chance(state.user, met), draws[:, 0]), gap)
            prompt = torch.zeros_like(feedback[..., :1])
            prompt[:, 0, 0] = (1 - gap / MAX_DAYS).nan_to_num_(0.0)
            feedback = torch.cat([feedback, prompt], 2)
            mean = torch.cat([mean, prompt.mean(1)], 1)
        history = ring.push_slate(state.history, slates, feedback)
        new = KuaiSimState(
            keys=state.keys,
            depth=state.depth + 1,
            user=state.user,
            interest=interest,
            temper=temper.masked_fill(ends, config.temper),
            requests=requests.masked_fill(ends, 0.0),
            gathered=gathered.masked_fill(ends, 0.0),
            sessions=sessions,
            profile=state.profile,
            last=mean,
            history=history,
        )
        return new, Response(feedback, ends & (sessions >= config.num_sessions), gap)

    def return_chance(self, user: Tensor, met: Tensor) -> Tensor:
        """Chance p of each day's return, (B,), of users (B,) 0..U-1 by what they `met` (B,): r, or its mean."""
        config = self.config
        shift = self._personal[user] + config.return_influence * met
        if config.returns == "last slate":
            return (shift + config.return_bias).clamp(0.001, 0.999)
        odds = config.return_bias / (1 - config.return_bias)
        return torch.sigmoid(shift + math.log(odds)).clamp(0.001, 0.999)

    def visible(self, state: KuaiSimState) -> Visible:
        """Profile, last feedback, requests of this session in hundreds and sessions in tens: (B, D + F + 2)."""
        counts = torch.stack([state.requests / 100, state.sessions / 10], 1)
        return Visible(torch.cat([state.profile, state.last, counts], 1))

    def history(self, state: KuaiSimState) -> tuple[Tensor, Tensor]:
        """Items (B, L) and feedback (B, L, F), most recent last, 0 pads on the left."""
        return ring.ordered(state.history)

    def truth(self, state: KuaiSimState) -> dict[str, Tensor]:
        """`user` (B,), `interest` (B, D), `temper` (B,), and `chance` (B, N, 7) of each item by itself."""
        chance = self.responses.every(state.interest)
        return {"user": state.user, "interest": state.interest, "temper": state.temper, "chance": chance}

    def fused(self, state: KuaiSimState, weights: Tensor) -> Tensor:
        """Score items by sum_b weights_b P(b): `weights` (7,) or (B, 7), the published action -> (B, N)."""
        return self.responses.fused(state.interest, weights)

    def _draws(self, state: KuaiSimState, count: int) -> Tensor:
        """U[0, 1] draws of this step, (B, count) float32; a 64-bit word gives two."""
        words = bits(fold(state.keys, state.depth + 2), (count + 1) // 2)
        return words.view(torch.int32)[:, :count].to(torch.float32).mul_(2.0**-32).add_(0.5)

    def bands(self) -> dict[str, Callable[[KuaiSimState], Tensor]]:
        """Scorers of every item, (B, N): chance of a click, of a long view, and what the level pays in the long run.

        The best known picks one item after the other, with what likeness to those picked before costs, by: the click
        at the request level; what brings users back, where they return; else click + rate * temper spared.
        """
        click = torch.eye(len(BEHAVIOURS), device=self.device)[CLICK]
        best = click
        if self.config.returns != "none":
            best = self._return_weights
        elif math.isfinite(self.config.temper):
            best = self._best_weights(click)
        return {
            "myopic": lambda state: self.truth(state)["chance"][..., CLICK],
            "rule": lambda state: self.truth(state)["chance"][..., LONG_VIEW],
            "best known": lambda state: self.responses.varied(self.fused(state, best)),
        }

    def _best_weights(self, click: Tensor, users: int = 64, draws: int = 64) -> Tensor:
        """Of click + rate * temper spared, (F,), that with the most clicks per temper: a search over the rate."""
        config, best, most = self.config, click, 0.0
        interest = self.responses.users[:users]
        users = len(interest)  # a small world has fewer
        for rate in torch.cat([torch.zeros(1), torch.logspace(-2, 1, 16)]).tolist():
            weights = click + rate * self._temper_weights
            ranking = self.responses.varied(self.responses.fused(interest, weights))
            slates = ranking.topk(min(config.slate_size, config.num_items), dim=1).indices
            chance = self.responses.chances(interest, slates)[0].flatten(1).unsqueeze(1)  # (users, 1, K F)
            luck = uniform(session_keys(0, users * draws, device=self.device), chance.shape[2])
            mean = (luck.view(users, draws, -1) < chance).to(torch.float32)
            mean = mean.view(users, draws, -1, len(BEHAVIOURS)).mean(2)  # (users, draws, F)
            spent = (config.cost - mean @ self._temper_weights).clamp(config.least, config.most)
            earned = float(((mean @ click).mean(1) / spent.mean(1)).mean())
            if earned > most:
                best, most = weights, earned
        return best


def days_away(chance: Tensor, draw: Tensor) -> Tensor:
    """Days 1..10 with P(i + 1) ~ p (1 - p)^i, by inverting the distribution: p (B,), uniform draws (B,) -> (B,)."""
    stay = (1 - chance).to(torch.float64)
    days = torch.log1p(-draw * (1 - stay**MAX_DAYS)) / stay.log()
    return (days.floor() + 1).clamp_(1, MAX_DAYS).to(torch.float32)
