"""Negative controls of each policy on one log, in the words and numbers of the report's document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.ope.stretches import Stretches
from recgym.ope.evidence import Evidence
from recgym.ope.negative_controls import (
    Check,
    Power,
    judge,
    permuted_propensities,
    placebo_checks,
    power,
    weight_checks,
)
from recgym.ope.over_time import fold_influences
from recgym.types import DoubleArray, IntArray

WORK = 20_000_000
"""Rows times checks times repeats that planted faults may cost: seconds."""
REPEATS = 20


def controls(
    one: Evidence,
    stretches: Stretches | None,
    covariates: Mapping[str, DoubleArray],
    propensity: DoubleArray,
    level: float,
    seed: int,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Every check of a policy's weights with its verdict, whether it would have noticed a fault, and words on failures.

    A reward of 1 must be worth 1: over all impressions, in each fold in time, and step by step of the session. Weights
    must not move what was settled before the choice (placebos).

    Args:
        one: the policy, with ratios.
        stretches: folds in time, each asked by itself; None: none.
        covariates: (T,) each, settled before the choice, and varying.
        propensity: (T,) as weighed with.
        level: of all checks of this policy together.
        seed: of the planted faults.

    Raises:
        ValueError: there are fewer than two users, or a covariate is not finite.
    """
    who = one.user[one.episode]
    checks = [*weight_checks(one.weights, one.episode, one.user)]
    if stretches is not None:
        checks += _by_fold(one, stretches)
    if covariates and one.weights.any():
        checks += placebo_checks(one.weights, covariates, who)
    judged = judge(checks, level=level)
    found: list[dict[str, Any]] = [
        {"name": each.name, "expected": each.expected, "value": each.found.value, "low": each.found.low,
         "high": each.found.high, "passed": each.passed, "words": each.words}
        for each in judged
    ]  # fmt: skip
    found += [
        {"name": f"would notice {each.name}", "expected": None, "value": each.detected, "low": None, "high": None,
         "passed": None, "words": each.words}
        for each in _powers(one, who, covariates, propensity, level, seed)
    ]  # fmt: skip
    return found, failures([each.words for each in judged if not each.passed])


def failures(words: Sequence[str], most: int = 3) -> list[str]:
    """What the failed controls mean for the policy, in one sentence; none where all passed."""
    if not words:
        return []
    more = f"; and {len(words) - most} more" if len(words) > most else ""
    return [
        f"{len(words)} negative control{'s' if len(words) > 1 else ''} failed, so no estimate is better than weak; "
        f"check how propensities are logged (slot, candidate set, policy version): {'; '.join(words[:most])}{more}"
    ]


def _by_fold(one: Evidence, stretches: Stretches) -> list[Check]:
    """The mean weight of each fold in time."""
    fold, rows = stretches.fold[one.episode], np.ones(len(one.episode))
    values, psi = fold_influences(one.weights, rows, one.user[one.episode], fold)
    return [
        Check(
            name=f"reward 1 an impression, {label}", expected=1.0, value=float(value), psi=psi[:, number],
            blame="the propensities logged then are not those of the policy that served, or the policy shows items "
            "that were not on offer then",
        )
        for number, (label, value) in enumerate(zip(stretches.labels, values, strict=True))
    ]  # fmt: skip


def _powers(
    one: Evidence,
    who: IntArray,
    covariates: Mapping[str, DoubleArray],
    propensity: DoubleArray,
    level: float,
    seed: int,
) -> list[Power]:
    """How often the same questions of single impressions notice a fault that was planted."""
    if not covariates or not one.weights.any():
        return []
    found = [power("propensities 10% too high", [one.weights / 1.1], covariates, who, level=level)]
    repeats = min(REPEATS, WORK // (len(who) * (1 + len(covariates))))
    if repeats < 5:
        name = "propensities of other rows"
        words = f"whether the checks notice {name} was not tried: {len(who):,} rows would take too long"
        return [*found, Power(name=name, detected=math.nan, repeats=0, words=words)]
    wrong = permuted_propensities(one.weights * propensity, propensity, seed=seed, repeats=repeats)
    return [*found, power("propensities of other rows", wrong, covariates, who, level=level)]
