"""What choosing an estimator is worth: each fixed one, the default, the log's own choice, and the best in hindsight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from experiments.bench.ope_terms import (
    LIMIT,
    Asked,
    all_terms,
    asked,
    estimate,
    estimators,
    models_of,
)
from experiments.bench.ope_worlds import SHIFTS, Setting, World
from recgym.ope import one_step_models as models
from recgym.ope.diagnostics import Thresholds, judge, support
from recgym.ope.importance_fitting import Estimator, Impressions, importance_fitted
from recgym.ope.marginalised import category_weights
from recgym.ope.one_step import clipped_weights, ips, self_normalised
from recgym.ope.selection import Terms, cross_validated, default_estimator
from recgym.ope.tuning import tuned_clipping, tuned_optimistic, tuned_switch
from recgym.ope.weights import SupportError
from recgym.types import DoubleArray, IntArray

DEFAULT, CROSS, FITTED, HINDSIGHT = "default", "cross-validated", "PAS-IF", "best fixed in hindsight"
_HERE = {"weighted DR": "WDR", "FQE": "DM"}
"""Names of the default's estimators in `ope_terms`, where they differ."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """One estimator, or one way to choose, in one world at one size and shift."""

    world: str
    size: str
    shift: str
    estimator: str
    error: float
    """Root mean squared error over logs, over the truth."""
    worst: float
    """The error that one log in twenty exceeds, over the truth."""
    missing: float
    """Share of logs that gave no estimate; they are left out of the error."""
    picks: str
    """What a way to choose chose, most often first, in % of logs."""


def choose(setting: Setting, size: int, logs: int, *, blind: bool = False) -> list[Chosen]:
    """Draw logs, estimate the target of each shift in every way, and compare with the truth.

    With `blind`, all that uses a model gets one that cannot tell the states apart.
    """
    rows = []
    single, label = setting.world.horizon == 1, setting.name + (", blind model" if blind else "")
    for shift in SHIFTS:
        truth = setting.world.value(setting.targets[shift])
        fixed = tuple(estimators(setting))
        ways = (*fixed, *_SLOPE, DEFAULT, CROSS, FITTED) if single else (*fixed, DEFAULT, CROSS)
        value = {name: np.full(logs, np.nan) for name in ways}
        picked: dict[str, list[str]] = {name: [] for name in (DEFAULT, CROSS, FITTED)}
        for number in range(logs):
            log = setting.world.draw(setting.logger, size, np.random.default_rng((number, size, 2)))
            first, second = models_of(setting, log)
            worlds = (_blinded(first), _blinded(second)) if blind else (first, second)
            question = asked(setting, log, setting.targets[shift], worlds)
            terms = {name: found for name, found in all_terms(question).items() if found is not None}
            for name, found in terms.items():
                value[name][number] = estimate(found)
            if single:
                for name, tune in _SLOPE.items():
                    value[name][number] = tune(question)
            for way, name in _picks(question, number, blind=blind).items():
                picked[way].append(name)
                value[way][number] = value[name][number]
        rows += [_row(label, size, shift, name, value[name], truth, picked.get(name, [])) for name in ways]
        here = [row for row in rows if row.shift == shift and row.estimator in fixed]
        best = min(here, key=lambda row: (math.isnan(row.error), row.error))
        rows.append(_row(label, size, shift, HINDSIGHT, value[best.estimator], truth, [best.estimator]))
    return rows


def _picks(question: Asked, seed: int, *, blind: bool) -> dict[str, str]:
    """What each way to choose takes. Where the validator has no estimate, nothing can judge and the default stands."""
    single = question.setting.world.horizon == 1
    users = np.arange(question.log.sessions)
    verdict = judge(support(question.ratios, question.log.episode, users), Thresholds(), per="session")[0]
    default = default_estimator(verdict, per="step" if single else "session")
    candidates: dict[str, Terms] = {
        name: terms.above if terms.below is None else (terms.above, terms.below)
        for name, terms in all_terms(question).items()
        if terms is not None
    }
    validator = candidates.get("SNDR" if single else "WDR")
    default = _HERE.get(default, default)
    picks = {DEFAULT: default, CROSS: default}
    if validator is not None:
        with suppress(SupportError):
            picks[CROSS] = cross_validated(candidates, validator, users, seed=seed).name
    if single:
        seen, model = impressions(question, blind=blind)
        category = question.setting.world.category
        picks[FITTED] = importance_fitted(one_step(category), seen, model, seed=seed, draws=10).name
    return picks


def impressions(question: Asked, *, blind: bool) -> tuple[Impressions, Callable[[IntArray], DoubleArray]]:
    """A bandit's log as PAS-IF reads it, and the model as any of its rows count it, cross-fitted in halves."""
    log, world = question.log, question.setting.world
    seen = Impressions(
        target=question.target[log.state], logger=question.setting.logger[log.state], item=log.item + 1,
        reward=log.reward,
    )  # fmt: skip

    def model(rows: IntArray) -> DoubleArray:
        kept = np.zeros(len(log.state), dtype=np.bool_)
        kept[rows] = True
        halves: list[World] = [world.fitted(log, kept & (question.half != half)) for half in (0, 1)]
        if blind:
            halves = list(map(_blinded, halves))
        return np.stack([part.click for part in halves])[question.half[rows], log.state[rows]]

    return seen, model


def _blinded(world: World) -> World:
    """The same with the mean over states in every state."""
    return replace(
        world, click=np.broadcast_to(world.click.mean(axis=0), world.click.shape),
        move=np.broadcast_to(world.move.mean(axis=0), world.move.shape),
    )  # fmt: skip


def one_step(category: IntArray) -> dict[str, Estimator]:
    """The candidates of `ope_terms.ONE_STEP`, for any policies."""

    def corrected(shrink: Callable[[DoubleArray], DoubleArray]) -> Estimator:
        return lambda log, q: models.doubly_robust_terms(
            shrink(log.weights), log.reward, log.at(q), models.expected_model(log.target, q)
        )

    return {
        "IPS": lambda log, _: ips(log.weights, log.reward),
        "clipped IPS": lambda log, _: ips(clipped_weights(log.weights, LIMIT), log.reward),
        "SNIPS": lambda log, _: self_normalised(log.weights, log.reward),
        "DM": lambda log, q: models.expected_model(log.target, q),
        "DR": corrected(lambda weights: weights),
        "SNDR": lambda log, q: models.self_normalised_doubly_robust(
            log.weights, log.reward, log.at(q), models.expected_model(log.target, q)
        ),
        "Switch-DR": corrected(lambda weights: models.switch_weights(weights, LIMIT)),
        "DRos": corrected(lambda weights: models.optimistic_weights(weights, LIMIT**2)),
        "MIPS": lambda log, _: ips(category_weights(log.target, log.logger, category, log.item), log.reward),
    }


def _users(question: Asked) -> IntArray:
    return np.arange(question.log.sessions)


_SLOPE: dict[str, Callable[[Asked], float]] = {
    "clipped IPS by SLOPE": lambda a: tuned_clipping(a.ratios, a.log.reward, _users(a)).interval.value,
    "Switch-DR by SLOPE": lambda a: (
        tuned_switch(a.ratios, a.log.reward, a.values.q, a.values.v, _users(a)).interval.value
    ),
    "DRos by SLOPE": lambda a: (
        tuned_optimistic(a.ratios, a.log.reward, a.values.q, a.values.v, _users(a)).interval.value
    ),
}


def _row(world: str, size: int, shift: str, name: str, value: DoubleArray, truth: float, picked: list[str]) -> Chosen:
    known = (value[np.isfinite(value)] - truth) / truth
    shares = sorted(
        ((picked.count(pick) / len(picked), pick) for pick in set(picked)), key=lambda one: (-one[0], one[1])
    )
    return Chosen(
        world=world, size=f"{size:,}", shift=shift, estimator=name,
        error=float(np.sqrt(np.mean(known**2))) if len(known) else math.nan,
        worst=float(np.quantile(np.abs(known), 0.95)) if len(known) else math.nan,
        missing=float(np.isnan(value).mean()),
        picks=", ".join(f"{pick} {100 * share:.0f}" for share, pick in shares[:4]),
    )  # fmt: skip


def print_chosen(rows: Sequence[Chosen]) -> None:
    """One line for each world, size and estimator, the shifts side by side."""
    print("\n### Choosing an estimator: root mean squared error, % of the truth (exceeded in one log of twenty)\n")
    print("| world | size | estimator | " + " | ".join(SHIFTS) + " | what was chosen, % of logs |")
    print("| --- " * (4 + len(SHIFTS)) + "|")
    for world, size, name in dict.fromkeys((row.world, row.size, row.estimator) for row in rows):
        mine = [row for row in rows if (row.world, row.size, row.estimator) == (world, size, name)]
        cells = [
            f"{100 * row.error:.1f} ({100 * row.worst:.0f})" + (f", {100 * row.missing:.0f}% none" * (row.missing > 0))
            for row in mine
        ]
        picks = "; ".join(row.picks for row in mine) if mine[0].picks else ""
        print(f"| {world} | {size} | {name} | " + " | ".join(cells) + f" | {picks} |")
