"""Folds in time: which sessions a log holds before and after, so that no model is judged on what it has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from recgym.ope.intervals import Numbers
from recgym.ope.over_time import OverTime, over_time
from recgym.ope.rows import check_rows, refuse
from recgym.ope.views import first_steps
from recgym.types import DoubleArray, IntArray

Model = TypeVar("Model")


def session_starts(time: Numbers, episode: IntArray) -> DoubleArray:
    """The time of each session's first step: (T,), (T,) -> (E,).

    Raises:
        ValueError: A time is not finite or falls within a session, or episodes are not 0, 1, 2, ... in order.
    """
    start = first_steps(episode)
    if time.shape != episode.shape:
        raise ValueError(f"time must have the shape of episode, {episode.shape}; got {time.shape}")
    check_rows(time=time)
    falls = (np.diff(time, prepend=time[0]) < 0) & (np.diff(episode, prepend=0) == 0)
    refuse("time", time, falls, "not before the session's step above it")
    return time[start].astype(np.float64)


def session_folds(time: Numbers, episode: IntArray, *, folds: int) -> IntArray:
    """The fold of each session, (E,) in 0..folds - 1: equal numbers of sessions by their start, each session whole.

    Sessions that start at the same time stay together, in the fold where their middle lies; without ties the sizes
    differ by at most one. Terms of single impressions take `session_folds(...)[episode]`.

    Args:
        time: (T,) when each step happened, in any unit; it must not fall within a session.
        episode: (T,) session of each step, 0, 1, 2, ... in order of the rows (not of time).
        folds: K, at least 2.

    Raises:
        ValueError: As `session_starts`, folds is below 2, or so many sessions start together that a fold is empty.
    """
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    starts = session_starts(time, episode)
    _, index, count = np.unique(starts, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2  # sessions up to the middle of those that start together
    fold: IntArray = (folds * middle / len(starts)).astype(np.int64)[index]
    empty = np.flatnonzero(np.bincount(fold, minlength=folds) == 0)
    if len(empty):
        raise ValueError(
            f"fold {empty[0]} of {folds} is empty: {len(starts)} sessions start at {len(count)} different times, "
            f"{count.max()} of them at one; ask for fewer folds"
        )
    return fold


def rolling_origin(time: Numbers, episode: IntArray, *, folds: int) -> Iterator[tuple[IntArray, IntArray]]:
    """For folds 1..K - 1, the steps to learn from and the steps to judge on, both ascending row numbers.

    Judged are the sessions of the fold; learned from are all sessions that ended before the first of these began. A
    session still running then is left out whole: half of it would teach ends that were none.

    Raises:
        ValueError: As `session_folds`, or no session has ended before a fold begins.

    Source: Tashman (2000), "Out-of-sample tests of forecasting accuracy: an analysis and review" (rolling origin).
    """
    fold = session_folds(time, episode, folds=folds)  # (E,)
    starts, last = session_starts(time, episode), np.append(first_steps(episode)[1:], len(episode)) - 1
    for number in range(1, folds):
        origin = starts[fold == number].min()
        over = (fold < number) & (time[last] < origin)
        if not over.any():
            raise ValueError(f"no session has ended before fold {number} begins at {origin}: nothing to learn from")
        yield np.flatnonzero(over[episode]), np.flatnonzero((fold == number)[episode])


def over_rolling_origin(
    time: Numbers,
    episode: IntArray,
    fit: Callable[[IntArray], Model],
    terms: Callable[[Model, IntArray], tuple[Numbers, Numbers]],
    users: Numbers,
    *,
    folds: int,
    seed: int,
    level: float = 0.95,
    replicates: int = 1000,
) -> OverTime:
    """`over_time` of estimates whose models never saw the future: fitted before each fold, judged on it.

    Args:
        time: (T,) when each step happened.
        episode: (T,) session of each step.
        fit: From rows to learn from to a model (of rewards, of propensities, of both).
        terms: From the model and the rows to judge on, to numerators and denominators: a row for each of those rows,
            or for each of their sessions, (n,) or (n, H), the same H for each fold.
        users: (E,) who each session belongs to.
        folds: K; the first only teaches, so K - 1 are judged.
        seed: Of the resampling.
        level: Of the intervals.
        replicates: Resamples.

    Raises:
        ValueError: As `rolling_origin` and `over_time`, there are not one user a session, or terms have another length.
    """
    starts = session_starts(time, episode)
    if users.shape != starts.shape:
        raise ValueError(f"users must be one a session, {starts.shape}; got {users.shape}")
    parts = []
    for number, (learn, judge) in enumerate(rolling_origin(time, episode, folds=folds)):
        above, below = terms(fit(learn), judge)
        sessions = episode[judge] if len(above) == len(judge) else np.unique(episode[judge])
        if len(above) != len(sessions):
            raise ValueError(
                f"terms must have a row for each of {len(judge)} rows or of {len(sessions)} sessions, got {len(above)}"
            )
        parts.append((above, below, users[sessions], np.full(len(sessions), number), starts[sessions]))
    above, below, who, fold, start = (np.concatenate(part) for part in zip(*parts, strict=True))
    return over_time(above, below, who, fold, start, seed=seed, level=level, replicates=replicates)
