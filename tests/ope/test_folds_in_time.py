"""Folds never split a session, and a model never sees what comes after."""

from __future__ import annotations

import numpy as np
import pytest

from recgym.ope.folds_in_time import over_rolling_origin, rolling_origin, session_folds, session_starts
from recgym.types import DoubleArray, IntArray


def random_log(seed: int, sessions: int = 60) -> tuple[DoubleArray, IntArray]:
    """Sessions in no order of time, of 1 to 5 steps that take long enough to overlap."""
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 6, size=sessions)
    episode = np.repeat(np.arange(sessions), length)
    start = rng.permutation(sessions).astype(np.float64)
    return start[episode] + np.concatenate([rng.random(n).cumsum() for n in length]) * 0.9, episode


def test_folds_are_equal_whole_and_in_order_of_time() -> None:
    for seed in range(20):
        time, episode = random_log(seed)
        for folds in (2, 3, 7):
            fold, starts = session_folds(time, episode, folds=folds), session_starts(time, episode)
            sizes = np.bincount(fold)
            assert len(sizes) == folds and sizes.max() - sizes.min() <= 1
            assert (np.diff(fold[np.argsort(starts)]) >= 0).all()


def test_sessions_that_start_together_stay_together() -> None:
    starts = np.array([0, 0, 0, 1, 2, 3, 3, 3, 3, 4.0])
    fold = session_folds(starts, np.arange(10), folds=2)
    assert fold.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    uneven = session_folds(np.array([0, 1, 1, 1, 1, 2.0]), np.arange(6), folds=3)
    assert uneven.tolist() == [0, 1, 1, 1, 1, 2]
    with pytest.raises(ValueError, match="fold 0 of 2 is empty: 4 sessions start at 1 different times, 4 of them"):
        session_folds(np.zeros(4), np.arange(4), folds=2)


def test_a_rolling_origin_by_hand() -> None:
    time = np.array([5.0, 0.0, 1.5, 1.0, 4.2, 2.0, 4.0, 3.0])  # starts 5, 0, 1, 2, 4, 3
    episode = np.array([0, 1, 1, 2, 2, 3, 4, 5])
    pairs = [(learn.tolist(), judge.tolist()) for learn, judge in rolling_origin(time, episode, folds=3)]
    # Fold 1 begins at 2: session 2 runs until 4.2 and teaches neither it nor fold 2, which begins at 4.
    assert pairs == [([1, 2], [5, 7]), ([1, 2, 5, 7], [0, 6])]


def test_a_model_never_sees_the_future() -> None:
    for seed in range(20):
        time, episode = random_log(seed)
        fold, judged = session_folds(time, episode, folds=4), []
        for number, (learn, judge) in enumerate(rolling_origin(time, episode, folds=4), start=1):
            assert time[learn].max() < time[judge].min()
            assert not set(episode[learn]) & set(episode[judge])
            assert np.isin(episode, episode[learn]).sum() == len(learn)  # sessions whole
            assert set(episode[judge]) == set(np.flatnonzero(fold == number))
            judged.append(judge)
        assert sorted(np.concatenate(judged)) == np.flatnonzero(fold[episode] > 0).tolist()


def test_estimates_over_a_rolling_origin_are_those_of_models_of_the_past() -> None:
    rng = np.random.default_rng(0)
    time, episode = random_log(1, sessions=200)
    reward, users, seen = rng.random(len(time)) + 0.01 * time, np.arange(200) // 2, []

    def fit(rows: IntArray) -> float:
        seen.append(rows)
        return float(reward[rows].mean())

    def residuals(model: float, rows: IntArray) -> tuple[DoubleArray, DoubleArray]:
        return reward[rows] - model, np.ones(len(rows))

    found = over_rolling_origin(time, episode, fit, residuals, users, folds=5, seed=0, replicates=50)
    pairs = list(rolling_origin(time, episode, folds=5))
    assert len(found.folds) == 4
    for one, rows, (learn, judge) in zip(found.folds, seen, pairs, strict=True):
        np.testing.assert_array_equal(rows, learn)
        assert one.estimate.value == pytest.approx(reward[judge].mean() - reward[learn].mean(), abs=1e-12)
        assert one.rows == len(judge)

    def sums(model: float, rows: IntArray) -> tuple[DoubleArray, DoubleArray]:
        index = np.unique(episode[rows], return_inverse=True)[1]
        total = np.bincount(index, weights=reward[rows] - model)
        return total.astype(np.float64), np.ones(len(total))

    by_session = over_rolling_origin(time, episode, fit, sums, users, folds=5, seed=0, replicates=50)
    assert [one.rows for one in by_session.folds] == [40] * 4
    judge, learn = pairs[0][1], pairs[0][0]
    value = (reward[judge].sum() - len(judge) * reward[learn].mean()) / 40
    assert by_session.folds[0].estimate.value == pytest.approx(value, abs=1e-12)


def test_bad_times_are_named() -> None:
    with pytest.raises(ValueError, match="time must be finite, got nan in row 1"):
        session_starts(np.array([0.0, np.nan]), np.arange(2))
    with pytest.raises(ValueError, match="time must be not before the session's step above it, got 1.0 in row 2"):
        session_starts(np.array([0.0, 2.0, 1.0]), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="time must have the shape of episode"):
        session_starts(np.zeros(3), np.arange(2))
    with pytest.raises(ValueError, match="folds must be at least 2, got 1"):
        session_folds(np.zeros(3), np.arange(3), folds=1)
    with pytest.raises(ValueError, match="no session has ended before fold 1 begins at 1.0"):
        list(rolling_origin(np.array([0.0, 5.0, 1.0]), np.array([0, 0, 1]), folds=2))
    time, episode = random_log(0)
    with pytest.raises(ValueError, match="terms must have a row for each of"):
        over_rolling_origin(
            time, episode, len, lambda _, rows: (np.ones(3), np.ones(3)), np.arange(60), folds=3, seed=0
        )
