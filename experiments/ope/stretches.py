"""A log in folds of time: the stretches that estimates and controls are asked in, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from recgym.ope.folds_in_time import session_folds, session_starts
from recgym.types import DoubleArray, IntArray

FOLDS = (6, 4, 2)
"""How many are tried, the most first."""
FEWEST = 50
"""Episodes that each must have, but for the last try."""
CROWD = 100
"""Users that a fold needs for a control of its own: all controls share one Student's quantile, too small for few."""
_CALENDAR = 1e8  # times from here on are seconds since the epoch, those below count from somewhere else


@dataclass(frozen=True, kw_only=True)
class Stretches:
    """Folds in time of E episodes, each episode whole."""

    fold: IntArray  # (E,) 0..K-1
    start: DoubleArray  # (E,) when each episode starts
    labels: tuple[str, ...]
    """(K,) from when to when."""


def stretches(time: DoubleArray, episode: IntArray) -> list[Stretches]:
    """The folds that this log can be cut into, (T,) times and episodes; the most folds first.

    Raises:
        ValueError: it cannot be cut in two, or times are not what they should be.
    """
    starts, found, why = session_starts(time, episode), [], ""
    for count in FOLDS:
        if count > 2 and len(starts) < FEWEST * count:
            continue
        try:
            fold = session_folds(time, episode, folds=count)
        except ValueError as reason:
            why = str(reason)
            continue
        parts = [starts[fold == number] for number in range(count)]
        labels = [f"{moment(part.min(), starts)} to {moment(part.max(), starts)}" for part in parts]
        if len(set(labels)) < count:
            labels = [f"{label} ({number})" for number, label in enumerate(labels, 1)]
        found.append(Stretches(fold=fold, start=starts, labels=tuple(labels)))
    if not found:
        raise ValueError(why)
    return found


def crowded(cuts: list[Stretches], user: IntArray) -> Stretches:
    """The most folds that have `CROWD` users each; user of each episode (E,).

    Raises:
        ValueError: there are none.
    """
    for cut in cuts:
        if min(len(np.unique(user[cut.fold == number])) for number in range(len(cut.labels))) >= CROWD:
            return cut
    raise ValueError(f"not even two folds in time have {CROWD} users each")


def moment(at: float, among: DoubleArray) -> str:
    """A time in words, as exact as the span of the log asks for."""
    if among.min() < _CALENDAR:
        return f"{at:g}"
    days = float(np.ptp(among)) / 86400
    return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%d" if days > 30 else "%Y-%m-%d %H:%M")


def settled(time: DoubleArray | None, who: IntArray, episode: IntArray, reward: DoubleArray) -> dict[str, DoubleArray]:
    """What is known of each step before the choice, (T,) each: when, how far into the session, what came before.

    Args:
        time: (T,) or None.
        who: (T,) user of each step, a user's steps together and in order.
        episode: (T,).
        reward: (T,).
    """
    place, total = np.arange(len(who)), np.cumsum(reward) - reward
    first = np.flatnonzero(np.diff(who, prepend=-1))[np.cumsum(np.diff(who, prepend=-1) != 0) - 1]  # (T,)
    opening = np.flatnonzero(np.diff(episode, prepend=-1))[episode]
    found = {
        "step of the session": (place - opening).astype(np.float64),
        "steps of the user before": (place - first).astype(np.float64),
        "reward of the user before": total - total[first],
    }
    if time is not None:
        found["time in days"] = (time - time.min()) / 86400
        if time.min() >= _CALENDAR:
            found["hour of the day"] = np.floor(time % 86400 / 3600)
    return found
