"""The user model's contract: a population of users that react to slates, end sessions, and keep secrets.

Learned users (`recgym.users.learned`) and known worlds meet it alike; `recgym.checks.check_user_model` tests it.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

from recgym.types import FeedbackKind, Response, Visible

S = TypeVar("S")


class UserModel(Protocol[S]):
    """A population of users. `S`, their state, is a NamedTuple of tensors whose leading dimension is B.

    Everything is a pure function of keys, states and slates: batch size, order and device change nothing. A state is
    consumed by `step` (it may be updated in place); copy it first to keep it.
    """

    @property
    def num_items(self) -> int:
        """Items of the catalogue, N; ids are 1..N and 0 is padding."""
        ...

    @property
    def kinds(self) -> tuple[FeedbackKind, ...]:
        """Kinds of feedback, F, in the order of `Response.feedback`."""
        ...

    def reset(self, keys: Tensor) -> S:
        """Start one session per key; `keys` (B,) int64, as from `recgym.random.session_keys`."""
        ...

    def step(self, state: S, slates: Tensor) -> tuple[S, Response]:
        """React to `slates` (B, K) of item ids 1..N; the state it returns replaces the one given."""
        ...

    def visible(self, state: S) -> Visible:
        """What the platform can see of the users; the rest of the state never reaches an agent."""
        ...

    def history(self, state: S) -> tuple[Tensor, Tensor]:
        """Items (B, L) int64 and their feedback (B, L, F), most recent last, 0 pads on the left."""
        ...

    def truth(self, state: S) -> dict[str, Tensor]:
        """Hidden quantities by name, leading dimension B, for tests and oracles only."""
        ...
