"""Do estimators of one value disagree by more than noise? If so one of them is wrong, and its kind says how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from recgym.ope.compare import influence, simultaneous
from recgym.ope.intervals import Interval, Numbers

Uses = Literal["model", "weights", "both"]
"""What an estimator leans on: a model of rewards (DM, fitted Q), importance weights (IPS, SNIPS), both (DR)."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """An estimator's terms on the users of the log."""

    numerator: Numbers  # (E,) or (E, H)
    denominator: Numbers  # the same shape; ones for a linear estimator
    uses: Uses


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two estimates of one value."""

    first: str
    second: str
    difference: Interval
    """First less second, with an interval that holds for all pairs at once."""
    differ: bool
    words: str


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """All pairs of estimators, the most doubtful first."""

    pairs: tuple[Pair, ...]
    differ: bool
    words: str


def disagreement(
    estimators: Mapping[str, Terms], users: Numbers, *, seed: int, level: float = 0.95, replicates: int = 1000
) -> Disagreement:
    """v_i - v_j of all pairs, from the paired influence of the users, with max-t intervals for all pairs at once.

    What users have in common in two estimates cancels, so differences far below each estimate's own error are seen.
    The noise of fitting a reward model is not in the terms: fit it on other users (cross-fitting) or trust a small
    difference to a direct method less. That none differ does not make them right: all may share wrong propensities.

    Args:
        estimators: By name, terms on the same rows (of one length E; H may differ).
        users: (E,) who each term belongs to.
        seed: Of the resampling.
        level: Of all intervals together.
        replicates: Resamples.

    Raises:
        ValueError: There are fewer than two estimators, or terms are malformed; the message says whose.
    """
    if len(estimators) < 2:
        raise ValueError(f"estimators must be at least two to disagree, got {list(estimators)}")
    found = {}
    for name, terms in estimators.items():
        if terms.uses not in ("model", "weights", "both"):
            raise ValueError(f'estimators[{name!r}] must use "model", "weights" or "both", got {terms.uses!r}')
        try:
            found[name] = influence(terms.numerator, terms.denominator, users)
        except ValueError as reason:
            raise ValueError(f"estimators[{name!r}]: {reason}") from reason
    names = list(combinations(found, 2))
    values = np.array([found[first][0] - found[second][0] for first, second in names])
    psi = np.stack([found[first][1] - found[second][1] for first, second in names], axis=1)  # (U, P)
    psi[:, np.abs(psi).max(axis=0) <= 1e-12 * max(np.abs(each[1]).max() for each in found.values())] = 0.0
    values[np.abs(values) <= 1e-12 * max(abs(each[0]) for each in found.values())] = 0.0
    intervals = simultaneous(values, psi, seed=seed, level=level, replicates=replicates)
    pairs = [
        _pair(first, second, interval, estimators[first].uses, estimators[second].uses)
        for (first, second), interval in zip(names, intervals, strict=True)
    ]
    pairs.sort(key=_doubt, reverse=True)
    apart = [one for one in pairs if one.differ]
    words = f"{len(found)} estimators agree: no two differ by more than noise"
    if apart:
        words = f"{len(apart)} of {len(pairs)} pairs of estimators differ by more than noise; {apart[0].words}"
    return Disagreement(pairs=tuple(pairs), differ=bool(apart), words=words)


def _pair(first: str, second: str, interval: Interval, uses: Uses, uses_too: Uses) -> Pair:
    differ = not interval.low <= 0 <= interval.high
    seen = f"{first} less {second} is {interval.value:+.3g} [{interval.low:+.3g}, {interval.high:+.3g}]"
    words = f"{seen}: no more than noise"
    if differ:
        words = f"{seen}: {_blame({uses, uses_too})}"
    return Pair(first=first, second=second, difference=interval, differ=differ, words=words)


def _blame(uses: set[Uses]) -> str:
    if uses == {"model"}:
        return "the reward models do not agree on items that were seldom shown; at least one is biased for this policy"
    if "model" in uses:
        return (
            "the reward model is biased for this policy, or the weights are wrong (propensities, or items the logger "
            "never showed); if the negative controls pass, believe the weighted estimate"
        )
    if uses == {"weights"}:
        return (
            "both use the same weights, so normalising or clipping them makes the difference: the mean weight is not "
            "1, or heavy weights were cut; read the mean weight and the overlap"
        )
    return (
        "a correct doubly robust estimate moves only by noise where propensities are right: they are wrong, or "
        "weights were cut"
    )


def _doubt(one: Pair) -> float:
    """How far 0 is from the difference, in half-widths of its interval."""
    half = one.difference.high - one.difference.value
    if one.difference.value == 0:
        return 0.0
    return abs(one.difference.value) / half if half > 0 else float("inf")
