"""Simulated sessions that begin where logged steps stand: the user's state, rebuilt by replaying the log."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recgym.backbones.following import begin, follow
from recgym.env.session import Sessions, SessionState
from recgym.ope.views import first_steps
from recgym.random import bits, fold
from recgym.trees import put, take
from recgym.types import IntArray, Transitions
from recgym.users import history as ring
from recgym.users.learned import LearnedState, LearnedUsers
from recgym.users.taking_in import take_in

_CLOCK = 0x0C10C4
"""Stream of the logged start whose clock and profile a resumed session has."""


class Resume(Protocol):
    """How sessions are put where logged steps stand: all that the model-based estimators ask of a model."""

    def __call__(self, sessions: Sessions[Any], logged: Transitions, rows: IntArray, keys: Tensor) -> SessionState:
        """Sessions just before the logged steps `rows` (B,), with the luck of `keys` (B,).

        It must read nothing that the log says of those steps themselves or of later ones.
        """
        ...


@torch.no_grad()
def resume_learned(sessions: Sessions[Any], logged: Transitions, rows: IntArray, keys: Tensor) -> SessionState:
    """Learned users before logged steps: the history at the session's start, then what was logged since, as it was.

    Each session's own mood is drawn anew by its key; clock and profile are those of a logged start of the same user,
    and of any start where `users.starts` does not know the user.

    Args:
        sessions: in front of `LearnedUsers`.
        logged: with the history of each step (`keep=("history",)` or `history=True`).
        rows: (B,) steps, in any order, also repeated.
        keys: (B,) of the sessions.

    Raises:
        ValueError: the users are not learned, or the log lacks histories, or masks that the sessions need.
    """
    users = sessions.users
    if not isinstance(users, LearnedUsers):
        raise ValueError(
            f"resume_learned is for LearnedUsers, got {type(users).__name__}: pass its own resume, or None"
        )
    if logged.items is None or logged.history is None:
        raise ValueError("the log has no history to start users from: keep 'history', or start anywhere (resume=None)")
    if logged.visit is not None:
        raise ValueError("a life of several sessions cannot be resumed: read each session as an episode")
    if sessions.config.repeats != "allow" and logged.mask is None:
        raise ValueError(f"repeats are {sessions.config.repeats!r} in these sessions, but the log has no mask")
    keys = keys.to(sessions.device, copy=True)
    episode = logged.episode[rows]
    start = first_steps(logged.episode)[episode]  # (B,)
    state = _at_start(users, logged, start, logged.user[episode], keys)
    encoded = None if sessions.encoder is None else begin(sessions.encoder, *users.history(state))
    place = rows - start  # (B,)
    for step in range(int(place.max(initial=0))):
        later = np.flatnonzero(place > step)
        slates = torch.from_numpy(logged.action[start[later] + step]).to(sessions.device)
        feedback = torch.from_numpy(logged.feedback[start[later] + step]).to(sessions.device)
        positive = (feedback[:, :, 0] > 0).to(torch.float32)
        there = torch.from_numpy(later).to(sessions.device)
        put(state, there, take_in(users, take(state, there), slates, feedback, positive))
        if sessions.encoder is not None:
            after = follow(sessions.encoder, take(encoded, there), slates, feedback, exposures=users.exposures)
            put(encoded, there, after)
    shown = None
    if sessions.config.repeats != "allow":
        assert logged.mask is not None
        shown = ~torch.from_numpy(logged.mask[rows]).to(sessions.device)
    return SessionState(state, torch.from_numpy(place).to(sessions.device), shown, encoded)


def _at_start(users: LearnedUsers, logged: Transitions, start: IntArray, user: IntArray, keys: Tensor) -> LearnedState:
    """Sessions at the logged steps `start` (B,), each the first of its session."""
    assert logged.items is not None and logged.history is not None
    known = users.starts.user.cpu().numpy()
    order = np.argsort(known, kind="stable")
    first, last = (np.searchsorted(known[order], user, side) for side in ("left", "right"))
    first, last = np.where(first < last, first, 0), np.where(first < last, last, len(known))
    luck = bits(fold(keys, _CLOCK), 1)[:, 0].cpu().numpy()
    row = torch.from_numpy(order[first + luck % (last - first)]).to(users.device)
    items = torch.from_numpy(logged.items[start]).to(users.device)
    feedback = torch.from_numpy(logged.history[start]).to(users.device)
    begun = users.begin_at(keys, row)
    return begun._replace(
        user=torch.from_numpy(user).to(users.device),
        cache=users.backbone.prefill(items, feedback),
        history=ring.of_padded(items, feedback),
    )
