"""Diagnostics that speak up: folds in time, overlap, negative controls, disagreement, as sections of the document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from experiments.ope.controls import controls
from experiments.ope.document import jsonable
from experiments.ope.stretches import Stretches, crowded, stretches
from recgym.ope import disagreement as apart
from recgym.ope.appraisal import Appraisal, PolicyReport
from recgym.ope.doubts import doubted
from recgym.ope.estimators import estimators
from recgym.ope.evidence import Evidence, Per
from recgym.ope.intervals import t_ratio
from recgym.ope.over_time import OverTime, over_time
from recgym.ope.overlap import overlap
from recgym.ope.propensity_drift import propensity_drift
from recgym.types import DoubleArray, IntArray

COVARIATES = 10
"""Most of the things settled before the choice that placebos are made of."""
SAME = 1e-3
"""Weights this close to 1 are 1: logs round their propensities."""
STEPS = 100
"""Steps of the session whose effective sample size is shown."""
DRAWS = 50_000_000
"""Users times resamples that an interval may cost."""
COMPARED: dict[Per, dict[str, apart.Uses]] = {
    "step": {"IPS": "weights", "SNIPS": "weights", "DM": "model", "DR": "both", "SNDR": "both"},
    "session": {
        "per-decision IS": "weights", "weighted per-decision IS": "weights", "FQE": "model", "DR": "both",
        "weighted DR": "both",
    },
}  # fmt: skip
"""Estimators that are held against each other: none with weights cut, which is meant to move the value."""
Given = ParamSpec("Given")
Made = TypeVar("Made")


def sections(
    evidence: Sequence[Evidence],
    appraisal: Appraisal,
    *,
    time: DoubleArray | None,
    propensity: DoubleArray,
    item: IntArray | None,
    names: Sequence[str],
    covariates: Mapping[str, DoubleArray],
    seed: int,
) -> dict[str, Any]:
    """All that can be said against an appraisal from its own log, JSON-able, by policy.

    "folds": the chosen estimate in each fold of time, and "drift": whether it changed. "overlap": the histogram of step
    weights and the effective sample size along the session. "controls": questions whose answer is known, and "failed":
    words on those that were answered wrong. "disagreement": pairs of estimators that differ by more than noise.
    "logger": how the logging policy itself changed. "notes": what could not be made, and why, and what was found in
    order: nothing is left out in silence.

    Args:
        evidence: of each policy, on the same T steps of E episodes.
        appraisal: of the same policies.
        time: (T,) seconds, or None.
        propensity: (T,) as weighed with; nan unknown.
        item: (T,) ids 1..N of what was shown; None where steps show several.
        names: (N,) of the items.
        covariates: (T,) each, settled before the choice was made; the first `COVARIATES` are used.
        seed: of resampling, permutations and planted faults.
    """
    notes: list[str] = []
    first, reports = evidence[0], {one.policy: one for one in appraisal.policies}
    cuts = _attempt(notes, "folds in time", _cuts, time, first) or []
    weighed = [one for one in evidence if _weighs(one, notes)]
    known = _placebos(covariates, notes)
    level = 1 - (1 - appraisal.level) / max(1, len(weighed))  # of each policy, so that it holds for all
    found: dict[str, dict[str, Any]] = {
        name: {} for name in ("folds", "drift", "overlap", "controls", "failed", "disagreement")
    }
    for one in evidence:
        name = one.policy
        if parts := _attempt(notes, f"{name}, folds in time", _folds, one, reports[name], cuts, appraisal.level, seed):
            found["folds"][name], found["drift"][name] = parts
    cut = _attempt(notes, "controls by time", crowded, cuts, first.user) if cuts else None
    for one in weighed:
        name = one.policy
        if histogram := _attempt(notes, f"{name}, overlap", _overlap, one):
            found["overlap"][name] = histogram
        if checked := _attempt(notes, f"{name}, controls", controls, one, cut, known, propensity, level, seed):
            found["controls"][name], failed = checked
            found["failed"] |= {name: failed} if failed else {}
        differ = _attempt(notes, f"{name}, disagreement", _differ, one, appraisal.level, seed)
        if differ is not None and differ.differ:
            found["disagreement"][name] = [differ.words]
        elif differ is not None:
            notes.append(f"{name}: {differ.words}")
    logger = _attempt(notes, "the logging policy over time", _logger, propensity, item, names, first, cuts, seed)
    notes += [f"{name}: {words}" for name, one in found["drift"].items() if one["drifts"] for words in one["words"]]
    notes += [f"the logging policy: {words}" for words in logger or []]
    made: dict[str, Any] = jsonable({**found, "logger": logger or [], "notes": notes})
    return made


def with_doubts(appraisal: Appraisal, made: Mapping[str, Any]) -> Appraisal:
    """The appraisal with what the sections found: failed controls cap its verdicts, drift and disagreement are said."""
    told = {name: [*one["words"]] for name, one in made["drift"].items() if one["drifts"]}
    for name, words in made["disagreement"].items():
        told[name] = [*told.get(name, []), *words]
    return doubted(appraisal, made["failed"], told)


def _attempt(
    notes: list[str], title: str, make: Callable[Given, Made], *given: Given.args, **named: Given.kwargs
) -> Made | None:
    """What is made, or None and a note that says why not."""
    try:
        return make(*given, **named)
    except ValueError as reason:
        notes.append(f"{title}: not to be had: {reason}")
        return None


def _cuts(time: DoubleArray | None, first: Evidence) -> list[Stretches]:
    if time is None:
        raise ValueError("the log has no times")
    return stretches(time, first.episode)


def _weighs(one: Evidence, notes: list[str]) -> bool:
    """Whether there are weights to be examined."""
    if one.ratios is None:
        notes.append(f"{one.policy}: overlap, controls and disagreement need weights: {one.no_ratios}")
    elif np.abs(one.ratios - 1).max() < SAME:
        notes.append(f"{one.policy}: does as the logger did, all weights are 1: no overlap or control to show")
        return False
    return one.ratios is not None


def _placebos(given: Mapping[str, DoubleArray], notes: list[str]) -> dict[str, DoubleArray]:
    """The covariates that can serve as placebos; which cannot is said."""
    able = {name: values for name, values in given.items() if np.isfinite(values).all() and np.ptp(values) > 0}
    if still := [name for name in given if name not in able]:
        notes.append(f"placebos: {', '.join(still)} cannot serve: the same in all rows, or not known in some")
    if len(able) > COVARIATES:
        notes.append(f"placebos: of {len(able)} things known before the choice the first {COVARIATES} serve")
    if not able:
        notes.append("placebos: nothing that varies is known before the choice; name columns of context")
    return dict(list(able.items())[:COVARIATES])


def _folds(
    one: Evidence, report: PolicyReport, cuts: Sequence[Stretches], level: float, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]] | None:
    """The chosen estimate in each fold, and whether it drifts; as many folds as its terms allow."""
    if not cuts:
        return None
    if report.estimate.verdict == "cannot say":
        raise ValueError("the log cannot say what this policy is worth, in whole or in part")
    terms, why = estimators(one.per)[report.chosen].terms(one), ""
    for cut in cuts:
        try:
            # The resamples are not read: intervals of folds are Student's, as those of the whole.
            found = over_time(
                terms.above, terms.below, one.user, cut.fold, cut.start, seed=seed, level=level, replicates=2,
                name=f"the value by {report.chosen}",
            )  # fmt: skip
        except ValueError as reason:
            why = str(reason)
            continue
        lines = [_fold(one, terms.above, terms.below, cut, number, level) for number in range(len(cut.labels))]
        return lines, _drift(found)
    raise ValueError(why)


def _fold(
    one: Evidence, above: DoubleArray, below: DoubleArray, cut: Stretches, number: int, level: float
) -> dict[str, Any]:
    here = cut.fold == number
    interval = t_ratio(above[here], below[here], one.user[here], level=level)
    return {
        "label": cut.labels[number], "value": interval.value, "low": interval.low, "high": interval.high,
        "episodes": int(here.sum()),
        "mean_weight": None if one.ratios is None else float(one.ratios[here[one.episode]].mean()),
    }  # fmt: skip


def _drift(found: OverTime) -> dict[str, Any]:
    trend = {
        "value": found.trend.value,
        "low": found.trend.low,
        "high": found.trend.high,
        "p_value": found.trend_p_value,
    }
    return {
        "drifts": found.drifts, "statistic": found.statistic, "freedom": found.freedom, "p_value": found.p_value,
        "trend": trend, "words": [found.words],
    }  # fmt: skip


def _overlap(one: Evidence) -> dict[str, Any]:
    """How heavy the weights are and how far they reach."""
    seen = overlap(one.weights, one.episode)
    plot = seen.step_weights
    size = dict(plot.quantiles)
    words = [
        f"weights of impressions: half are below {size[0.5]:.3g}, 1% above {size[0.99]:.3g}, the greatest is "
        f"{size[1.0]:.3g}; {plot.zeros / len(one.weights):.1%} are 0, which the policy would never have shown"
    ]
    if one.per == "session":
        words.append(seen.words)
    steps = [each.effective for each in seen.steps[:STEPS]] if one.per == "session" else []
    return {
        "edges": plot.edges, "counts": plot.counts, "zeros": plot.zeros, "step_ess": steps, "horizon": seen.horizon,
        "reach": seen.reach, "words": words,
    }  # fmt: skip


def _differ(one: Evidence, level: float, seed: int) -> apart.Disagreement:
    """The main estimators of one value against each other."""
    if np.ptp(one.reward) == 0:
        raise ValueError(f"the reward is {one.reward[0]:g} in every row, so that estimators differ by rounding")
    terms = {}
    for name, uses in COMPARED[one.per].items():
        formula = estimators(one.per)[name]
        if not formula.models or one.values is not None:
            made = formula.terms(one)
            terms[name] = apart.Terms(numerator=made.above, denominator=made.below, uses=uses)
    replicates = min(1000, max(100, DRAWS // len(np.unique(one.user))))
    return apart.disagreement(terms, one.user, seed=seed, level=level, replicates=replicates)


def _logger(
    propensity: DoubleArray, item: IntArray | None, names: Sequence[str], first: Evidence, cuts: Sequence[Stretches],
    seed: int,
) -> list[str] | None:  # fmt: skip
    """Whether propensities and what was shown changed over time."""
    if not cuts:
        return None
    if item is None:
        raise ValueError("steps show several items")
    if np.isnan(propensity).any():
        raise ValueError("not every row has a propensity")
    cut, episode = cuts[0], first.episode
    permutations = max(len(cut.labels) * 20, 20)
    found = propensity_drift(
        propensity, item, first.user[episode], cut.fold[episode], cut.start[episode], num_items=len(names),
        names=names, seed=seed, replicates=2, permutations=permutations,
    )  # fmt: skip
    return list(found.words)
