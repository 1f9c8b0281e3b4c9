"""Negative controls: questions whose true answer is known whatever the log, so that a wrong answer convicts the log.

A `Check` is a question with its answer and the users' influence on it; `judge` decides all checks of a log together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from recgym.ope.compare import differences, influence, step_down
from recgym.ope.diagnostics import Thresholds
from recgym.ope.importance import held_terms
from recgym.ope.intervals import Interval, Numbers, bootstrap_mean, check_level, t_quantile
from recgym.ope.overlap import step_support, supported_steps
from recgym.ope.p_values import unskewed
from recgym.ope.rows import check_distributions, check_items, check_rows, check_weights, require_finite
from recgym.ope.views import first_steps, user_parts
from recgym.ope.weights import cumulative_weights, step_ratios
from recgym.types import BoolArray, DoubleArray, IntArray

_SAME = 1e-6  # a weight this close to 1 is 1


@dataclass(frozen=True, kw_only=True)
class Check:
    """A question, what its answer should be, and what it was."""

    name: str
    expected: float
    value: float
    psi: DoubleArray  # (U,) influence of the users on value - expected
    blame: str
    """What is at fault if they differ."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """The verdict on a negative control, as plain numbers and words."""

    name: str
    expected: float
    found: Interval
    passed: bool
    words: str


@dataclass(frozen=True, kw_only=True)
class Power:
    """How often the checks notice a fault that was planted."""

    name: str
    detected: float
    """Share of sabotaged logs in which a check fails."""
    repeats: int
    words: str


def judge(checks: Iterable[Check], *, level: float = 0.95) -> tuple[Control, ...]:
    """Which checks fail: with probability `level` none of those that should pass does (Holm, `compare.step_down`).

    Heavy weights are allowed for by `p_values.unskewed`. Each interval is Student's over users, at `level` on its own:
    a check may be outside it and pass, by what many checks at once or heavy weights make likely.

    Raises:
        ValueError: There is no check, they are of different users, or level is out of range.
    """
    asked = list(checks)
    check_level(level)
    if len({len(one.psi) for one in asked}) != 1:
        raise ValueError(f"checks must be of the same users, got {[len(one.psi) for one in asked]}")
    psi = np.stack([one.psi for one in asked], axis=1)  # (U, P)
    away = np.array([one.value - one.expected for one in asked])
    away[np.abs(away) < 1e-12 * np.array([1 + abs(one.expected) for one in asked])] = 0.0
    halves = t_quantile(level, len(psi) - 1) * psi.std(axis=0, ddof=1) / math.sqrt(len(psi))
    method = f"t interval over {len(psi)} users"
    found = []
    for one, said, half in zip(asked, step_down(unskewed(away, psi), psi, level=level), halves, strict=True):
        interval = Interval(value=one.value, low=one.value - half, high=one.value + half, level=level, method=method)
        found.append(_control(one, interval, said == "undecided", len(asked)))
    return tuple(found)


def weight_checks(
    ratios: DoubleArray, episode: IntArray, users: Numbers, *, steps: int | None = None
) -> tuple[Check, ...]:
    """A reward of 1 must be worth 1: the mean of rho over impressions, and of rho_1 ... rho_t over sessions.

    E[rho_t | s_t] = 1 where the logger shows all that the target shows; so the mean of rho over all impressions is 1,
    and that of each session's weight after t steps (its last one where it has ended).

    Args:
        ratios: (T,) rho_t = pi / mu of each step.
        episode: (T,) session of each step.
        users: (E,) who each session belongs to.
        steps: Up to which t; None: as far as the log supports the target (`overlap.supported_steps`, default
            thresholds): weights with a long tail have means that look too small for their spread.

    Raises:
        ValueError: A ratio is negative or not finite, shapes disagree, fewer than two users.
    """
    check_weights(ratios, name="ratios")
    if episode.shape != ratios.shape or users.shape != first_steps(episode).shape:
        raise ValueError(
            f"episode must be one a step, {ratios.shape}, users one a session; got {episode.shape} and {users.shape}"
        )
    if steps is None:
        steps = supported_steps(step_support(ratios, episode), Thresholds().effective_episodes[0])
    zeros = np.zeros(len(ratios))
    held = held_terms(cumulative_weights(ratios, episode), zeros, episode, 1.0)[1][:, : max(steps, 0)]  # (E, steps)
    tables = {"reward 1 an impression": (ratios, np.ones(len(ratios)), users[episode])}
    if len(held) < len(ratios):  # otherwise sessions are impressions
        for step in range(held.shape[1]):
            tables[f"reward 1 a session, step {step + 1}"] = (held[:, step], np.ones(len(held)), users)
    found = []
    for name, (above, below, who) in tables.items():
        value, psi = influence(above, below, who)
        blame = "the logged propensities are too high, or the policy shows items that the logger could not"
        if value > 1:
            blame = "the logged propensities are too low, or the policy's items were picked by what the log shows"
        found.append(Check(name=name, expected=1.0, value=value, psi=psi, blame=blame))
    return tuple(found)


def placebo_checks(weights: DoubleArray, covariates: Mapping[str, Numbers], users: Numbers) -> tuple[Check, ...]:
    """No policy changes what was settled before it acted: sum w f / sum w must be the mean of f, for each f.

    E[w f(x)] = E[f(x)] E[w] where E[w | x] = 1. What f varies by is in both means and cancels in the difference.

    Args:
        weights: (n,) pi / mu of single impressions; or of whole sessions, with covariates settled before their start.
            Not of a session's steps so far: the policy has had a hand in those contexts.
        covariates: (n,) each, numbers known before the item was chosen: hour, earlier clicks, position, ...
        users: (n,) who each row belongs to.

    Raises:
        ValueError: No covariate is given, one does not vary or is not finite, or all weights are 0.

    Source: Lipsitch, Tchetgen Tchetgen and Cohen (2010), "Negative controls: a tool for detecting confounding and bias
        in observational studies".
    """
    check_weights(weights)
    if not covariates:
        raise ValueError("covariates must name at least one, got none")
    if not weights.any():
        raise ValueError(f"all {len(weights)} weights are 0: the target would never have acted as logged")
    found, ones = [], np.ones(len(weights))
    for name, values in covariates.items():
        if values.shape != weights.shape:
            raise ValueError(f"covariates[{name!r}] must be one number a row, {weights.shape}; got {values.shape}")
        require_finite(f"covariates[{name!r}]", values)
        if np.ptp(values) == 0:
            raise ValueError(f"covariates[{name!r}] must vary to tell anything, all rows hold {values[0]}")
        away, psi = differences([(weights * values, weights)], (values.astype(np.float64), ones), users)
        mean = float(values.mean())
        blame = (
            "weighting shifts who was there before the policy acted: the logged propensities are wrong in a way that "
            f"goes with {name}, or the policy shows items that the logger could not"
        )
        found.append(Check(name=f"{name} (placebo)", expected=mean, value=mean + away[0], psi=psi[:, 0], blame=blame))
    return tuple(found)


def halves_check(numerator: Numbers, denominator: Numbers, users: Numbers, *, seed: int) -> Check:
    """A/A: the estimate from one half of the users less that from the other must be 0.

    Args:
        numerator: (E,) or (E, H) terms of an estimator.
        denominator: The same shape.
        users: (E,) who each term belongs to; halves are drawn by user.
        seed: Of the halves.

    Raises:
        ValueError: Terms are malformed, or there are fewer than two users.
    """
    half = user_parts(users, 2, seed=seed)[:, None]  # (E, 1)
    above, below = numerator.reshape(len(users), -1), denominator.reshape(len(users), -1)
    value, psi = influence(
        np.hstack([above * (half == 0), -above * (half == 1)]),
        np.hstack([below * (half == 0), below * (half == 1)]),
        users,
    )
    blame = "the interval is too narrow: users are not independent of each other, or few of them carry the estimate"
    return Check(name="one half of the users less the other", expected=0.0, value=value, psi=psi, blame=blame)


def logger_control(
    recomputed: DoubleArray, propensity: DoubleArray, reward: DoubleArray, users: Numbers, *, seed: int
) -> Control:
    """The logging policy evaluated as if it were new must earn what it earned: every weight must be 1.

    Args:
        recomputed: (n,) mu(a | x) as the logging policy gives it now.
        propensity: (n,) as logged.
        reward: (n,) rewards.
        users: (n,) who each row belongs to.
        seed: Of the bootstrap of the difference (weighted less plain mean reward), which must be 0.

    Raises:
        ValueError: A propensity is not in (0, 1], or shapes disagree.
    """
    check_rows(recomputed=recomputed, propensity=propensity, reward=reward)
    weights = step_ratios(recomputed, propensity)
    off: BoolArray = np.abs(weights - 1) > _SAME
    name, found = "the logging policy itself", bootstrap_mean((weights - 1) * reward, users, seed=seed)
    words = "the logging policy, asked again, gives the logged propensities"
    if off.any():
        row = int(np.argmax(np.abs(np.log(np.maximum(weights, 1e-300)))))
        words = (
            f"{off.sum()} of {len(off)} rows have another propensity than the logging policy gives (row {row}: "
            f"{propensity[row]:.3g} logged, {recomputed[row]:.3g} now): the log is of another policy or other inputs"
        )
    return Control(name=name, expected=0.0, found=found, passed=not off.any(), words=words)


def permuted_propensities(
    target: DoubleArray, propensity: DoubleArray, *, seed: int, repeats: int = 20
) -> Iterator[DoubleArray]:
    """Sabotage: weights pi / mu (n,) with the propensities dealt to wrong rows, `repeats` times."""
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        yield step_ratios(target, rng.permutation(propensity))


def shuffled_items(
    distribution: DoubleArray,
    item: IntArray,
    propensity: DoubleArray,
    context: Numbers,
    *,
    seed: int,
    repeats: int = 20,
) -> Iterator[DoubleArray]:
    """Sabotage: weights (n,) with the items shown dealt to wrong rows of the same context, propensities left behind.

    Args:
        distribution: (n, N) pi(a | x), the target's.
        item: (n,) what was shown, ids 1..N.
        propensity: (n,) as logged.
        context: (n,) rows with the same number are alike.
        seed: Of the shuffling.
        repeats: How often.
    """
    check_distributions(distribution=distribution)
    check_items(item, rows=len(distribution), num_items=distribution.shape[1])
    rng, rows = np.random.default_rng(seed), np.arange(len(item))
    sorted_rows = np.argsort(context, kind="stable")
    for _ in range(repeats):
        mixed, dealt = np.lexsort((rng.random(len(item)), context)), np.empty_like(item)
        dealt[sorted_rows] = item[mixed]
        yield step_ratios(distribution[rows, dealt - 1], propensity)


def power(
    name: str,
    sabotaged: Iterable[DoubleArray],
    covariates: Mapping[str, Numbers],
    users: Numbers,
    *,
    level: float = 0.95,
) -> Power:
    """How often mean weight and placebos convict weights (n,) of single impressions that are known to be wrong.

    `permuted_propensities` and `shuffled_items` make such weights; `[weights / 1.1]` are those of propensities 10% too
    high. A fault can be invisible: that propensities of other rows were taken is, where the target is uniform and
    contexts do not depend on the covariates.

    Raises:
        ValueError: As `placebo_checks`, or nothing is sabotaged.
    """
    failed, rows = [], np.arange(len(users))
    for weights in sabotaged:
        checks = weight_checks(weights, rows, users) + placebo_checks(weights, covariates, users)
        failed.append(not all(one.passed for one in judge(checks, level=level)))
    if not failed:
        raise ValueError("sabotaged must give weights at least once, got none")
    share = float(np.mean(failed))
    words = f"the checks notice {name} in {share:.0%} of {len(failed)} trials"
    if share < 0.8:
        words += ": that they pass says little on this log"
    return Power(name=name, detected=share, repeats=len(failed), words=words)


def _control(one: Check, interval: Interval, passed: bool, many: int) -> Control:
    seen = f"{one.name}: {one.value:.4g} [{interval.low:.4g}, {interval.high:.4g}], should be {one.expected:.4g}"
    words = f"{seen}: as it should be"
    if not passed:
        words = f"{seen}: {one.blame}"
    elif not interval.low <= one.expected <= interval.high:
        words = f"{seen}: outside its interval, which chance can do among {many} checks or with heavy weights"
    return Control(name=one.name, expected=one.expected, found=interval, passed=passed, words=words)
