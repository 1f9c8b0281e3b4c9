"""Lives of simulated users: sessions, the days between them, and the end; the core under RecLifetime-v0.

A life is one episode. When a user leaves, or has met `session_steps` slates, the user model says how many days pass
until the user is back (`away`), and begins the next session of the same user (`revisit`). Never back: terminated. Not
back before the horizon: truncated, for the calendar ended and not the user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone
from recgym.env.session import CONTEXT_STEPS, Outcome, SessionConfig, Sessions, SessionState
from recgym.random import session_keys
from recgym.trees import put, take
from recgym.users.model import UserModel

S = TypeVar("S")


class ReturningUsers(UserModel[S], Protocol[S]):
    """A population of users that come back."""

    def away(self, state: S) -> Tensor:
        """Days until each user is back if the session ends now, (B,); inf: never."""
        ...

    def revisit(self, state: S, days: Tensor) -> S:
        """Begin the next session of every user after `days` (B,) away; what the user carries over stays."""
        ...


@dataclass(frozen=True, kw_only=True)
class LifetimeConfig(SessionConfig):
    """What the platform may show, what it earns, and how long it looks."""

    _UNBOUNDED: ClassVar[tuple[str, ...]] = ("horizon_days", "return_days")
    max_steps: int = 1000
    """Slates after which a life is truncated, whatever the calendar says."""
    session_steps: int = 50
    """Slates after which a session ends though the user would have stayed."""
    horizon_days: float = 30.0
    """Days from the first session on; sessions that would begin later are not seen."""
    return_reward: float = 1.0
    """Reward of a user who comes back at once."""
    return_days: float = 7.0
    """Days after which coming back is worth 1/e of that: the reward is return_reward * exp(-days / return_days)."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if self.session_steps < 1:
            raise ValueError(f"session_steps is {self.session_steps}, expected at least 1")
        for name in ("horizon_days", "return_days"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")


class LifetimeState(NamedTuple):
    """B lives; the first four fields are those of `SessionState`."""

    users: Any
    steps: Tensor  # (B,) int64 slates shown in this life
    shown: Tensor | None
    encoded: Any
    session_steps: Tensor  # (B,) int64 slates shown in this session
    visit: Tensor  # (B,) int64 sessions before this one
    day: Tensor  # (B,) float32 days since the first session began
    gap: Tensor  # (B,) float32 days away before this session; 0 in the first


class Lifetimes(Sessions[Any]):
    """Steps B lives at once, behind the surface of `Sessions`."""

    calendar_width = 3
    """Columns of `calendar`."""
    config: LifetimeConfig

    def __init__(
        self, users: ReturningUsers[Any], config: LifetimeConfig | None = None, *, encoder: Backbone | None = None
    ) -> None:
        """Put a platform in front of `users` who come back.

        Raises:
            ValueError: as `Sessions`, or the users do not say when they come back.
        """
        super().__init__(users, config or LifetimeConfig(), encoder=encoder)
        if not (hasattr(users, "away") and hasattr(users, "revisit")):
            raise ValueError(f"{type(users).__name__} does not come back: lives need users with `away` and `revisit`")
        if bool(users.away(users.reset(session_keys(0, 1))).isnan().any()):
            raise ValueError(
                "these users do not say when they come back: their log shows too few returns to learn from"
            )

    def reset(self, keys: Tensor) -> LifetimeState:  # type: ignore[override]
        """Start one life per key, (B,) int64."""
        start = super().reset(keys)
        zeros, days = torch.zeros_like(start.steps), torch.zeros(len(keys), device=self.device)
        return LifetimeState(*start, zeros, zeros.clone(), days, days.clone())

    def context(self, state: LifetimeState) -> Tensor:  # type: ignore[override]
        """Slates of this session, not of this life, in hundreds, (B, 1)."""
        return (state.session_steps / CONTEXT_STEPS).unsqueeze(1)

    def calendar(self, state: LifetimeState) -> Tensor:
        """Sessions before this one in tens, days since the first and days away before this one in thirties, (B, 3)."""
        return torch.stack([state.visit / 10, state.day / 30, state.gap / 30], 1).to(torch.float32)

    def step(  # type: ignore[override]
        self, state: LifetimeState, slates: Tensor, *, checked: bool = False
    ) -> tuple[LifetimeState, Outcome]:
        """Show `slates` (B, K); where that ends a session, the next one begins or the life ends."""
        visit, day = state.visit.clone(), state.day.clone()
        session = SessionState(state.users, state.steps, state.shown, state.encoded)
        after, outcome = super().step(session, slates, checked=checked)
        in_session = state.session_steps + 1
        over = outcome.terminated | (in_session >= self.config.session_steps)  # (B,) of the session
        new = LifetimeState(*after, in_session, state.visit, state.day, state.gap)
        churned = torch.zeros_like(over)
        beyond = torch.zeros_like(over)
        returned = torch.zeros_like(outcome.reward)
        if bool(over.any()):
            rows = over.nonzero()[:, 0]
            days = outcome.response.gap[rows]
            unknown = days.isnan()  # those who were sent home
            if bool(unknown.any()):
                days = days.clone()
                days[unknown] = self.users.away(take(new.users, rows[unknown])).to(days.dtype)  # type: ignore[attr-defined]
            churned[rows] = days.isinf()
            beyond[rows] = ~days.isinf() & (new.day[rows] + days >= self.config.horizon_days)
            back = ~(churned[rows] | beyond[rows])
            new = self._begin_again(new, rows[back], days[back])
            worth = self.config.return_reward * torch.exp(-days[back] / self.config.return_days)
            returned[rows[back]] = worth.to(returned.dtype)
        truncated = (beyond | (new.steps >= self.config.max_steps)) & ~churned
        terms = {**outcome.terms, "return": returned}
        reward = outcome.reward + returned
        return new, Outcome(reward, terms, churned, truncated, outcome.response, visit, day)

    def _begin_again(self, state: LifetimeState, rows: Tensor, days: Tensor) -> LifetimeState:
        """The next sessions of `rows` (R,), after `days` (R,) away."""
        if not len(rows):
            return state
        here = take(state, rows)
        users = self.users.revisit(here.users, days)  # type: ignore[attr-defined]
        fresh = here._replace(
            users=users,
            shown=self._mask_at_start(users),
            session_steps=torch.zeros_like(here.session_steps),
            visit=here.visit + 1,
            day=here.day + days.to(here.day.dtype),
            gap=days.to(here.gap.dtype),
        )
        return put(state, rows, fresh)
