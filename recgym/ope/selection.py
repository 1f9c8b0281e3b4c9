"""Which estimator to believe: a stated default, and cross-validation, which lets the log itself judge the candidates.

A candidate is its terms: an array (n,) whose mean is the estimate, or a pair (numerators, denominators), (n,) or
(n, H), whose column sums are divided and added, as everywhere in `recgym.ope`; or a function that gives them for any
rows of the log. Rows are impressions, or sessions. `importance_fitting` is the other judge, for impressions whose
policies are known in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from recgym.ope.diagnostics import Verdict
from recgym.ope.evidence import Per
from recgym.ope.rows import require_finite
from recgym.ope.weights import SupportError
from recgym.types import DoubleArray, IntArray

Terms = DoubleArray | tuple[DoubleArray, DoubleArray]
Candidate = Callable[[IntArray], Terms]
"""Rows of the log, ascending -> terms of these rows."""
_DEFAULTS: dict[Per, dict[Verdict, str]] = {
    "step": {"supported": "SNDR", "weak": "SNDR", "cannot say": "DM"},
    "session": {"supported": "weighted DR", "weak": "weighted DR", "cannot say": "FQE"},
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen candidate, and what each was worth."""

    name: str
    scores: dict[str, float]
    """Estimated squared error, less being better; inf where the candidate gave no estimate for some part of the log."""


def default_estimator(verdict: Verdict, *, per: Per) -> str:
    """The name, in `estimators`, of what to report when nobody says: one whose interval holds its error.

    SNDR of impressions, weighted DR of sessions. Where the log cannot say, the model alone, whose estimate is an
    opinion and must be reported as one; `python -m experiments bench ope --ope.parts selection` shows what it is worth.
    Where weights are weak, DRos and FQE often err less; but what speaks must have an interval that can be believed, and
    theirs hold the noise and not the bias. For impressions no choice by the log itself was more accurate. For sessions
    with weak weights `cross_validated` took up to two fifths off the error of a wrong model in logs of 3,000, and
    nothing in logs of 300. Where sessions move between a few states that the log names,
    `occupancy.double_reinforcement` was the most accurate or close to it throughout.

    Args:
        verdict: What `diagnostics.judge` says of the weights.
        per: "session" or "step", as in `Question`.

    Raises:
        ValueError: There is no such verdict or unit.
    """
    if per not in _DEFAULTS:
        raise ValueError(f'per must be "session" or "step", got {per!r}')
    if verdict not in _DEFAULTS[per]:
        raise ValueError(f"verdict must be one of {', '.join(_DEFAULTS[per])}, got {verdict!r}")
    return _DEFAULTS[per][verdict]


def estimate_of(terms: Terms) -> float:
    """sum_h [sum_i numerators_ih / sum_i denominators_ih], the mean where there are no denominators; nan of 0 / 0."""
    above, below = columns(terms)
    total = below.sum(axis=0)
    return float((above.sum(axis=0) / np.where(total == 0, np.nan, total)).sum())


def cross_validated(
    candidates: Mapping[str, Terms | Candidate],
    validator: Terms | Candidate,
    users: IntArray,
    *,
    seed: int,
    splits: int = 10,
) -> Choice:
    """Off-policy cross-validation: argmin_h mean_k e_hk + sd_k(e_hk) / sqrt(splits), e_hk = (V_h - V*)^2 of split k.

    V_h is the candidate's estimate from a part of the users drawn at random, V* the validator's from the rest. The
    part is the share s_h / (s_h + s*) of the users, s being the variance of each estimate in the whole log, so that
    both parts are equally sure. All candidates see the same draws.

    Args:
        candidates: The estimators to choose from, by name: the terms of the whole log, where a part of them is the
            estimate from that part of the log (a model in them must be cross-fitted), or a function of rows.
        validator: An unbiased or consistent estimator: doubly robust, or weighted doubly robust for sessions. It may
            be one of the candidates. A split whose held-out part gives it no estimate is left out.
        users: (n,) who each row belongs to; users are split with all their rows.
        seed: Seed of the splits.
        splits: How often to split, at least 2.

    Raises:
        ValueError: There is no candidate, there are fewer than four users or two splits, or terms are not finite
            numbers of one row each. `SupportError`: no candidate could be judged.

    Source: Cief, Kveton and Kompan (2025), "Cross-validated off-policy evaluation", with the one-standard-error
        rule.
    """
    if not candidates:
        raise ValueError("candidates must name at least one estimator, got none")
    if splits < 2:
        raise ValueError(f"splits must be at least 2, got {splits}")
    if users.ndim != 1:
        raise ValueError(f"users must be (n,), got shape {users.shape}")
    index = np.unique(users, return_inverse=True)[1]  # (n,)
    count, everyone, rng = int(index.max(initial=-1)) + 1, np.arange(len(users)), np.random.default_rng(seed)
    if count < 4:
        raise ValueError(f"users must be at least 4, to be split in parts of 2, got {count}")
    orders = [rng.permutation(count) for _ in range(splits)]  # place of each user
    judge = _by_rows("validator", validator, len(users))
    noise = _variance(judge, index)
    scores = {}
    for name, given in candidates.items():
        candidate = _by_rows(name, given, len(users))
        own = _variance(candidate, index)
        share = own / (own + noise) if own + noise > 0 else 0.5
        size = min(max(round(share * count), 2), count - 2) if math.isfinite(share) else 2
        errors = []
        for order in orders:
            inside = order[index] < size
            found, held = (_estimate(one, everyone[rows]) for one, rows in ((candidate, inside), (judge, ~inside)))
            if math.isfinite(held):
                errors.append((found - held) ** 2)
        judged = len(errors) > 1 and all(map(math.isfinite, errors))
        scores[name] = float(np.mean(errors) + np.std(errors, ddof=1) / math.sqrt(len(errors))) if judged else math.inf
    return best(scores)


def best(scores: dict[str, float]) -> Choice:
    """The candidate of the least score, the first of equals.

    Raises:
        SupportError: None has a finite score.
    """
    name = min(scores, key=scores.__getitem__)
    if not math.isfinite(scores[name]):
        raise SupportError(
            f"none of {', '.join(scores)} could be judged: parts of this log leave no weight to divide by; "
            "log more, or take the default"
        )
    return Choice(name=name, scores=scores)


def columns(terms: Terms) -> tuple[DoubleArray, DoubleArray]:
    """Numerators and denominators (n, H), refused where they are not finite numbers of one shape."""
    above, below = terms if isinstance(terms, tuple) else (terms, np.ones_like(terms))
    if above.shape != below.shape or above.ndim not in (1, 2) or not above.size:
        raise ValueError(f"terms must be (n,) or (n, H), alike and with n > 0, got {above.shape} and {below.shape}")
    require_finite("numerators", above)
    require_finite("denominators", below)
    return above.reshape(len(above), -1), below.reshape(len(below), -1)


def _estimate(candidate: Candidate, rows: IntArray) -> float:
    try:
        return estimate_of(candidate(rows))
    except SupportError:
        return math.nan


def _by_rows(name: str, given: Terms | Candidate, count: int) -> Candidate:
    """The terms of any rows, refused where there is not one for each row."""

    def checked(rows: IntArray) -> Terms:
        above, below = columns(given(rows) if callable(given) else given)
        if len(above) != (len(rows) if callable(given) else count):
            raise ValueError(f"{name} must give a term for each of {len(rows)} rows, got {len(above)}")
        return (above, below) if callable(given) else (above[rows], below[rows])

    return checked


def _variance(candidate: Candidate, index: IntArray) -> float:
    """Variance of the estimate from the whole log, linearised, users being the unit; nan where it gives none."""
    try:
        above, below = columns(candidate(np.arange(len(index))))
    except SupportError:
        return math.nan
    total = below.sum(axis=0)
    total = np.where(total == 0, np.nan, total)
    apart = ((above - above.sum(axis=0) / total * below) / total).sum(axis=1)  # (n,), what each row adds to the error
    return float((np.bincount(index, weights=apart) ** 2).sum())
