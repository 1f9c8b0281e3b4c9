"""Sessions of simulated users behind a platform's surface: the batched torch core under every environment.

A session is one visit of one user. The platform shows a slate, sees the feedback, earns the reward; the session ends
when the user leaves (terminated) or after `max_steps` slates (truncated). Nothing here is random but what the keys say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone
from recgym.backbones.following import begin, follow
from recgym.random import session_keys
from recgym.settings import check_numbers
from recgym.types import Observation, Reads, Response, Visible
from recgym.users.model import UserModel
from recgym.users.retrieved import Retrieved

S = TypeVar("S")
Repeats = Literal["allow", "mask", "refuse"]
CONTEXT_STEPS = 100.0
"""Steps that count as 1 in the observation's context."""


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """What the platform may show and what it earns."""

    _UNBOUNDED: ClassVar[tuple[str, ...]] = ()
    """Fields that may be infinite."""
    slate_size: int = 1
    """Items shown at each step, K."""
    reward: Mapping[str, float] | None = None
    """Reward per unit of each kind of feedback; None: 1 for the first kind."""
    repeats: Repeats = "allow"
    """Items already shown in this session: "allow" them, "mask" them (with those that the history holds as consumed,
    where users consume nothing twice), or "refuse" them with an error."""
    max_steps: int = 50
    """Slates after which a session is truncated; where repeats are not allowed, it is too when no slate is left."""
    pessimism: float = 0.0
    """Subtracted from the reward for each unit of it that the users' ensemble disagrees by (standard deviation)."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_numbers(self, unbounded=self._UNBOUNDED)
        for name in ("slate_size", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not self.pessimism >= 0:
            raise ValueError(f"pessimism is {self.pessimism}, expected at least 0")
        for name, weight in (self.reward or {}).items():
            if not math.isfinite(weight):
                raise ValueError(f"reward of {name!r} is {weight}, expected a finite number")
        if self.repeats not in ("allow", "mask", "refuse"):
            raise ValueError(f"repeats is {self.repeats!r}, expected 'allow', 'mask' or 'refuse'")


class SessionState(NamedTuple):
    """B sessions."""

    users: Any  # the user model's state
    steps: Tensor  # (B,) int64 slates shown
    shown: Tensor | None  # (B, N) bool: may not be shown again; None where repeats are allowed
    encoded: Any  # cache of the platform's own encoder; None where it reads the users' visible vector


class Outcome(NamedTuple):
    """What one step brought."""

    reward: Tensor  # (B,) float32
    terms: dict[str, Tensor]  # reward by kind of feedback, (B,) each
    terminated: Tensor  # (B,) bool: the user left
    truncated: Tensor  # (B,) bool: the session reached `max_steps` with the user still there
    response: Response
    visit: Tensor | None = None  # (B,) sessions before the one of this step, where lives go on across sessions
    day: Tensor | None = None  # (B,) days since the first session began, at this step


class Sessions(Generic[S]):
    """Steps B sessions at once."""

    calendar_width = 0
    """Columns of `calendar`."""

    def __init__(
        self, users: UserModel[S], config: SessionConfig | None = None, *, encoder: Backbone | None = None
    ) -> None:
        """Put a platform in front of `users`.

        Args:
            users: learned or known.
            config: what may be shown and what it earns.
            encoder: the platform's own backbone, which reads the visible history; None: the users' visible vector.

        Raises:
            ValueError: slates larger than the catalogue, an unknown kind in the reward, or an encoder of another
                catalogue.
        """
        self.users, self.config, self.encoder = users, config or SessionConfig(), encoder
        self.num_items = users.num_items
        known: Any = users
        self._retrieves = isinstance(known, Retrieved)
        self.catalogue_size: int = known.catalogue_size if self._retrieves else users.num_items
        names = [kind.name for kind in users.kinds]
        weights = {names[0]: 1.0} if self.config.reward is None else dict(self.config.reward)
        for name in weights:
            if name not in names:
                raise ValueError(f"reward has a weight for {name!r}, but the users' feedback is {', '.join(names)}")
        if self.config.slate_size > self.num_items:
            raise ValueError(f"slate_size is {self.config.slate_size}, but there are only {self.num_items} items")
        if encoder is not None and (encoder.num_items, encoder.num_feedback) != (self.num_items, len(names)):
            raise ValueError(
                f"the encoder reads {encoder.num_items} items and {encoder.num_feedback} kinds of feedback, "
                f"the users have {self.num_items} and {len(names)}; use a backbone trained on their log"
            )
        self.weights = {name: float(weights[name]) for name in names if name in weights}
        self._columns = {name: names.index(name) for name in self.weights}
        if self.config.pessimism > 0 and not getattr(users, "members", ()):
            raise ValueError("pessimism needs users with an ensemble: fit them with `users.ensemble` of at least 1")
        probe = users.visible(users.reset(session_keys(0, 1)))
        self.device = probe.vector.device
        self._weights = torch.tensor([self.weights.get(name, 0.0) for name in names], device=self.device)  # (F,)
        self.state_width = encoder.width if encoder is not None else _joined(probe).shape[1]
        if probe.candidates is not None and (encoder is not None or self.config.repeats != "allow"):
            raise ValueError(
                "these users bring new candidates each step, whose numbers mean nothing later: "
                "use repeats='allow' and no encoder (a retriever masks repeats itself: Retrieved(repeats='mask'))"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """What an observation measures: items N, numbers of the state, kinds of feedback F."""
        return {"items": self.num_items, "state": self.state_width, "feedback": len(self.users.kinds)}

    def reset(self, keys: Tensor) -> SessionState:
        """Start one session per key, (B,) int64; the keys are copied, since a state may change in place."""
        keys = keys.to(self.device, copy=True)
        users = self.users.reset(keys)
        encoded = None
        if self.encoder is not None:
            encoded = begin(self.encoder, *self.users.history(users))
        return SessionState(users, torch.zeros_like(keys), self._mask_at_start(users), encoded)

    def observe(self, state: SessionState, reads: Reads = "state") -> Observation:
        """What the platform sees: the part that a policy `reads`, with context and mask.

        Where the users bring candidates, their features stand in the state too, behind the users' visible vector.
        """
        found = Observation(self.context(state), mask=None if state.shown is None else ~state.shown)
        if reads != "history":
            if state.encoded is not None:
                found = found._replace(state=state.encoded.state)
            else:
                seen = self.users.visible(state.users)
                found = found._replace(state=_joined(seen), candidates=seen.candidates, offered=seen.offered)
        if reads != "state":
            items, feedback = self.users.history(state.users)
            found = found._replace(items=items, feedback=feedback)
        return found

    def context(self, state: SessionState) -> Tensor:
        """Slates of this session in hundreds, (B, 1)."""
        return (state.steps / CONTEXT_STEPS).unsqueeze(1)

    def calendar(self, state: Any) -> Tensor | None:  # noqa: ARG002 (of lives; a session has none)
        """What stands between state and context in `features`, (B, `calendar_width`); None: nothing."""
        return None

    def features(self, state: Any) -> Tensor:
        """State, calendar and context side by side, (B, D + calendar + 1): the observation "state", copied once."""
        parts = _parts(self.users.visible(state.users)) if state.encoded is None else (state.encoded.state,)
        calendar = self.calendar(state)
        return torch.cat([*parts, *(() if calendar is None else (calendar,)), self.context(state)], 1)

    def step(self, state: SessionState, slates: Tensor, *, checked: bool = False) -> tuple[SessionState, Outcome]:
        """Show `slates` (B, K) of item ids 1..N; `checked`: the caller has looked at their shape and range.

        Raises:
            ValueError: a slate of another size, an id out of range, or a repeat where those are refused.
        """
        if not checked:
            self._check(slates, len(state.steps))
        if self.config.repeats == "refuse":
            _refuse_repeats(state, slates)
        doubt = None
        if self.config.pessimism > 0:
            unsure = self.users.disagreement(state.users, slates)  # type: ignore[attr-defined]
            doubt = -self.config.pessimism * (unsure.sum(1) @ self._weights.abs())  # (B,)
        users, response = self.users.step(state.users, slates)
        steps = state.steps + 1
        feedback = response.feedback
        amounts = feedback.squeeze(1) if feedback.shape[1] == 1 else feedback.sum(1)  # (B, F)
        earned = amounts * self._weights  # (B, F)
        terms = {name: earned[:, column] for name, column in self._columns.items()}
        reward = earned.sum(1)
        if doubt is not None:
            terms["doubt"], reward = doubt, reward + doubt
        cut = steps >= self.config.max_steps
        shown = None if state.shown is None else state.shown.scatter_(1, slates - 1, True)
        if shown is not None:  # with too little left for a slate there is no next one
            cut |= (~shown).sum(1) < self.config.slate_size
        truncated = cut & ~response.leaves
        encoded = state.encoded
        if self.encoder is not None:
            exposures = bool(getattr(self.users, "exposures", True))
            encoded = follow(self.encoder, encoded, slates, feedback, exposures=exposures)
        outcome = Outcome(reward, terms, response.leaves, truncated, response)
        return SessionState(users, steps, shown, encoded), outcome

    def offered(self, state: Any) -> Tensor | None:
        """Ids (B, C) of the items on offer, where a retriever stands between; None: the whole catalogue."""
        return state.users.offered if self._retrieves else None

    def items_of(self, state: Any, slates: Tensor) -> Tensor:
        """The catalogue's ids of `slates` (B, K), which are places among the offered behind a retriever."""
        return slates if (ids := self.offered(state)) is None else ids.gather(1, slates - 1)

    def _mask_at_start(self, users: S) -> Tensor | None:
        """Items that may not be shown in a fresh session, (B, N)."""
        if self.config.repeats == "allow":
            return None
        items, feedback = self.users.history(users)
        shown = torch.zeros(len(items), self.num_items + 1, dtype=torch.bool, device=items.device)
        if self.config.repeats == "mask" and not getattr(self.users, "repeats", True):
            shown.scatter_(1, items * (feedback[:, :, 0] > 0), True)
        return shown[:, 1:]

    def _check(self, slates: Tensor, batch: int) -> None:
        expected = (batch, self.config.slate_size)
        if slates.shape != expected:
            raise ValueError(f"slates have shape {tuple(slates.shape)}, expected (B, K) = {expected}")
        least, most = torch.aminmax(slates)
        if int(least) < 1 or int(most) > self.num_items:
            raise ValueError(f"slates hold item ids {int(least)}..{int(most)}, expected 1..{self.num_items}")


def _parts(seen: Visible) -> tuple[Tensor, ...]:
    """The visible vector (B, D), and the candidates' features (B, N X) where there are any."""
    return (seen.vector,) if seen.candidates is None else (seen.vector, seen.candidates.flatten(1))


def _joined(seen: Visible) -> Tensor:
    """The visible vector with the candidates' features behind it, (B, D + N X)."""
    return seen.vector if seen.candidates is None else torch.cat(_parts(seen), 1)


def _refuse_repeats(state: SessionState, slates: Tensor) -> None:
    assert state.shown is not None
    again = state.shown.gather(1, slates - 1)
    if bool(again.any()):
        row, slot = (int(part) for part in again.nonzero()[0])
        raise ValueError(
            f"session {row} was shown item {int(slates[row, slot])} before; "
            "repeats='refuse' forbids it: use repeats='mask' and choose where the mask is True"
        )
