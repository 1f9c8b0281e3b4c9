"""RecoGym's users: they browse by themselves (organic), and now and then a platform may show them one product (bandit).

A user has interests omega (D), a product j organic factors gamma_j and popularity mu_j, and bandit factors beta_j and
mu'_j, which are those of j itself, or of a similar product that j was swapped with (a flip).

    browsing    view j ~ softmax(gamma omega + mu); then browse on (.74), be shown one (.25), leave (.01)
    shown j     P(click) = sig(5 sig(2 sig(.3 x) - 2) - 6), x = beta_j . omega + mu'_j: between .005 and .029
                then: be shown one more (.94), browse (.05), leave (.01); a click leads to browsing whatever was drawn
    interests   omega' = omega + Normal(0, .1) whenever the user goes on to browse, or browses on

A step is one product shown; the views until the next one happen inside of it, and enter the visible history.

As published, what is shown changes nothing but the click: greed on the true click rate is optimal, and popularity
(mu has a spread of 3) nearly so. "organic-bandit-repaired" swaps every product with a similar one, so that what is
clicked is not what is wanted, gives popularity a spread of 1, and makes a product that is not wanted drive users away:

    P(leave | j, no click) = .01 + regret sig(-(gamma_j omega + mu_j)), regret = .1

Source: Rohde et al. (2018), "RecoGym: a reinforcement learning environment for the problem of product recommendation
in online advertising", and the published code's `reco_env_v1` (the leaving of bandit states is its own).
"""

from __future__ import annotations

import math
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

_USER, _STEPS, _BROWSING = 0, 1, 2
"""Streams of a session's key."""
CLICK, VIEW = 0, 1
"""Columns of the feedback."""


@dataclass(frozen=True, kw_only=True)
class OrganicBanditConfig:
    """The published world."""

    num_items: int = 10
    """Products, N."""
    num_factors: int = 5
    """Width of interests, D."""
    popularity_spread: float = 3.0
    """Standard deviation of the popularity mu."""
    interest_spread: float = 1.0
    """Standard deviation of a user's interests at the start."""
    interest_step: float = 0.1
    """Standard deviation of one step of their random walk."""
    num_flips: int = 0
    """Pairs of similar products whose bandit factors are swapped."""
    to_bandit: float = 0.25
    """P(shown something | browsing)."""
    to_organic: float = 0.05
    """P(browsing | shown something)."""
    leave: float = 0.01
    """P(leaving), browsing or shown something."""
    regret: float = 0.0
    """What an unwanted product adds to P(leaving)."""
    length: int = 50
    """Views and products shown that `history` keeps, L; 0: none."""
    seed: int = 0
    """Seed of the products."""

    def __post_init__(self) -> None:
        """Refuse sizes and chances that make no world."""
        check_numbers(self)
        for name, least in (("num_items", 2), ("num_factors", 1), ("length", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"OrganicBanditConfig.{name} is {getattr(self, name)}, expected at least {least}")
        for name in ("popularity_spread", "interest_spread", "interest_step", "to_organic", "regret"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"OrganicBanditConfig.{name} is {getattr(self, name)}, expected at least 0")
        if not 0 <= self.num_flips <= self.num_items // 2:
            raise ValueError(f"OrganicBanditConfig.num_flips is {self.num_flips}, expected 0 to {self.num_items // 2}")
        if not (self.to_bandit > 0 and self.leave > 0 and self.to_bandit + self.leave < 1):
            raise ValueError(
                f"OrganicBanditConfig.to_bandit and leave are {self.to_bandit} and {self.leave}, "
                "expected both above 0 and their sum below 1"
            )
        if self.leave + self.regret + self.to_organic > 1:
            total = self.leave + self.regret + self.to_organic
            raise ValueError(f"OrganicBanditConfig: leave + regret + to_organic is {total}, expected at most 1")


SETTINGS = {
    "organic-bandit": OrganicBanditConfig(),
    "organic-bandit-repaired": OrganicBanditConfig(num_items=50, popularity_spread=1.0, num_flips=25, regret=0.1),
}
"""The published world, where greed is optimal, and one where what is clicked is not what is wanted."""


class OrganicState(NamedTuple):
    """B sessions. `interest` is hidden."""

    keys: Tensor  # (B,) int64 session keys
    depth: Tensor  # (B,) int64 products shown
    interest: Tensor  # (B, D) float32, omega
    views: Tensor  # (B, N) float32: organic views of each product in this session
    clicked: Tensor  # (B,) float32: the last product shown was clicked
    history: History


def click_rate(x: Tensor) -> Tensor:
    """sig(5 sig(2 sig(.3 x) - 2) - 6), same shape."""
    return torch.sigmoid(5 * torch.sigmoid(2 * torch.sigmoid(0.3 * x) - 2) - 6)


class OrganicBandit:
    """The population of users, as `recgym.users.model.UserModel` asks; only slot 0 of a slate is shown.

    A session starts when the first product may be shown: users who leave before it are not met.
    """

    kinds = (FeedbackKind(name="click"), FeedbackKind(name="view"))

    def __init__(self, config: OrganicBanditConfig | None = None, *, device: torch.device | str = "cpu") -> None:
        """Draw the products."""
        self.config = config or OrganicBanditConfig()
        self.device, self.num_items = torch.device(device), self.config.num_items
        count, width = self.num_items, self.config.num_factors
        key = session_keys(self.config.seed, 1, device=self.device)
        self.organic = normal(fold(key, 0), count * width).view(count, width)  # (N, D) gamma
        self.popularity = self.config.popularity_spread * normal(fold(key, 1), count)[0]  # (N,) mu
        order = _flips(self.organic, self.config.num_flips)
        self.bandit, self.appeal = self.organic[order], self.popularity[order]  # beta, mu'
        self._browse_on = 1 - self.config.to_bandit - self.config.leave
        self._organic_leave = self.config.leave / (self.config.leave + self.config.to_bandit)

    def reset(self, keys: Tensor) -> OrganicState:
        """Start one session per key (B,): every user has browsed once."""
        keys = keys.to(self.device)
        batch = len(keys)
        interest = self.config.interest_spread * normal(fold(keys, _USER), self.config.num_factors)
        views = torch.zeros(batch, self.num_items, device=self.device)
        history = ring.empty(batch, self.config.length, len(self.kinds), device=self.device)
        clicked = torch.zeros(batch, device=self.device)
        state = OrganicState(keys, torch.zeros_like(keys), interest, views, clicked, history)
        rows = torch.arange(batch, device=self.device)
        self._browse(state, rows, torch.zeros(batch, device=self.device))
        return state

    def step(self, state: OrganicState, slates: Tensor) -> tuple[OrganicState, Response]:
        """Show the first of `slates` (B, K) of products 1..N, and follow the user until the next one may be shown."""
        index = slates[:, 0] - 1  # (B,)
        draws = uniform_at(fold(state.keys, _STEPS), state.depth, 2)
        x = (self.bandit[index] * state.interest).sum(1) + self.appeal[index]
        clicked = draws[:, 0] < click_rate(x)  # (B,)
        leave: Tensor | float = self.config.leave
        if self.config.regret:
            wanted = (self.organic[index] * state.interest).sum(1) + self.popularity[index]
            leave = leave + self.config.regret * torch.sigmoid(-wanted)
        leaves = (draws[:, 1] < leave) & ~clicked
        drawn = draws[:, 1] >= 1 - self.config.to_organic
        feedback = torch.zeros(*slates.shape, 2, device=self.device)
        feedback[:, 0, CLICK] = clicked
        ring.push(state.history, slates[:, 0], feedback[:, 0], gaps=False)
        new = state._replace(depth=state.depth + 1, clicked=clicked.to(torch.float32))
        rows = (drawn | clicked).nonzero()[:, 0]
        if len(rows):
            leaves[rows] = self._browse(new, rows, drawn[rows].to(torch.float32))
        return new, Response(feedback, leaves, torch.full_like(x, torch.nan))

    def visible(self, state: OrganicState) -> Visible:
        """log(1 + organic views) of each product, and whether the last one shown was clicked, (B, N + 1)."""
        return Visible(torch.cat([state.views.log1p(), state.clicked.unsqueeze(1)], 1))

    def history(self, state: OrganicState) -> tuple[Tensor, Tensor]:
        """Products viewed or shown (B, L) and feedback (B, L, F), most recent last, 0 pads on the left."""
        return ring.ordered(state.history)

    def truth(self, state: OrganicState) -> dict[str, Tensor]:
        """`interest` (B, D); `click` (B, N) if shown; `wanted` (B, N), organic logit; `leave` (B, N) in the step."""
        click = click_rate(state.interest @ self.bandit.T + self.appeal)
        wanted = state.interest @ self.organic.T + self.popularity
        alone = self.config.leave + self.config.regret * torch.sigmoid(-wanted)
        browses = click + (1 - click) * self.config.to_organic
        leave = (1 - click) * alone + browses * self._organic_leave
        return {"interest": state.interest, "click": click, "wanted": wanted, "leave": leave}

    def bands(self) -> dict[str, Callable[[OrganicState], Tensor]]:
        """Scorers of every product, (B, N): click rate, most viewed, clicks until the user leaves.

        The last is click / leave: what a user whose interests stand still would click in all, shown j again and again.
        """

        def lifetime(state: OrganicState) -> Tensor:
            truth = self.truth(state)
            return truth["click"] / truth["leave"]

        return {
            "myopic": lambda state: self.truth(state)["click"],
            "rule": lambda state: state.views,
            "best known": lifetime,
        }

    def _browse(self, state: OrganicState, rows: Tensor, moves: Tensor) -> Tensor:
        """Let users `rows` (n,) view products until one may be shown; True (n,) where they leave instead.

        Changes the state's interests, views and history in place. `moves` (n,): 1 where interests move before the
        first view. All views of all users are one ragged batch.
        """
        config, width = self.config, self.config.num_factors
        key = fold(fold(state.keys[rows], _BROWSING), state.depth[rows])
        luck = uniform(fold(key, 0), 2)
        count = 1 + torch.floor(torch.log1p(-luck[:, 0]) / math.log(self._browse_on)).to(torch.int64)  # (n,) geometric
        most = int(count.max())
        steps = config.interest_step * normal(fold(key, 1), most * width).view(len(rows), most, width)
        steps[:, 0] *= moves.unsqueeze(1)
        path = state.interest[rows].unsqueeze(1) + steps.cumsum(1)  # (n, V, D) interests at each view
        place = torch.arange(most, device=self.device)
        happens = place < count.unsqueeze(1)  # (n, V)
        chance = torch.softmax(path[happens] @ self.organic.T + self.popularity, 1).cumsum(1)  # (views, N)
        draw = uniform(fold(key, 2), most)[happens].unsqueeze(1)
        item = (draw >= chance).sum(1).clamp(max=self.num_items - 1)  # (views,)
        owner = rows.unsqueeze(1).expand(-1, most)[happens]
        state.views.index_put_((owner, item), torch.ones(len(item), device=self.device), accumulate=True)
        state.interest[rows] = path.gather(1, (count - 1).view(-1, 1, 1).expand(-1, 1, width))[:, 0]
        if config.length:
            kept = (place >= (count - config.length).unsqueeze(1))[happens]  # what a full ring would forget at once
            owner, item, at = owner[kept], item[kept], place.expand(len(rows), -1)[happens][kept]
            slot = (state.history.pushes[owner] + at).remainder(config.length)
            state.history.items[owner, slot] = item + 1
            state.history.feedback[owner, slot] = torch.tensor([0.0, 1.0], device=self.device)
            state.history.pushes[rows] += count
        return luck[:, 1] < self._organic_leave


def _flips(factors: Tensor, count: int) -> Tensor:
    """A permutation (N,) that swaps `count` pairs of products, the most similar ones first, each product once."""
    order = torch.arange(len(factors), device=factors.device)
    similar = (factors @ factors.T).triu(1)
    similar[torch.ones_like(similar).tril().bool()] = -torch.inf
    for _ in range(count):
        first, second = divmod(int(similar.argmax()), len(factors))
        order[first], order[second] = second, first
        for used in (first, second):
            similar[used], similar[:, used] = -torch.inf, -torch.inf
    return order
