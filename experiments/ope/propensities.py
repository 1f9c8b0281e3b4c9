"""Propensities that the log lacks, estimated: cross-fitted, checked for a logger without choice, their effect shown."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from experiments.ope.rows import LoggedRows
from recgym.ope.behaviour import logged_choices
from recgym.ope.behaviour_checks import Effect, effect_of_estimation
from recgym.ope.behaviour_scores import fit_scores
from recgym.ope.cross_fitting import cross_fit
from recgym.ope.determinism import determinism
from recgym.ope.diagnostics import Question
from recgym.ope.one_step import self_normalised
from recgym.types import DoubleArray, Transitions

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Propensities:
    """What is known of the logging policy."""

    logged: Transitions
    """The log, its unknown propensities estimated if that was asked for and is of use."""
    estimated: DoubleArray | None = None  # (T,) of every row
    words: tuple[str, ...] = ()
    """On estimated ones, which leave no estimate better than weak."""
    no_ratios: str = ""
    """Why nothing can be weighed, where that is so."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For the report."""


def complete(rows: LoggedRows, logged: Transitions, *, estimate: bool, seed: int) -> Propensities:
    """The log with the propensities that it has, or with estimated ones where it has none.

    Estimates are a multinomial model of the features and position, each row's by a model of other users. Of a logger
    that (almost) always shows the same in the same context, none is used.

    Raises:
        ValueError: there are too few users to estimate from.
    """
    known = ~np.isnan(rows.propensity)
    facts: dict[str, Any] = {"known": int(known.sum()), "unknown": int((~known).sum()), "estimated": False}
    if known.any():
        facts |= {"lowest": float(rows.propensity[known].min()), "highest": float(rows.propensity[known].max())}
    if known.all():
        return Propensities(logged=logged, facts=facts)
    if not estimate:
        why = (
            f"{(~known).sum():,} of {len(known):,} rows have no logged propensity, so what the logging policy would "
            "have shown instead is unknown and nothing can be weighed; log the probability of every item shown, name "
            "its column by --columns.propensity, or put a model in its place by --propensities estimate"
        )
        return Propensities(logged=logged, no_ratios=why, facts=facts)
    choices = logged_choices(logged, num_items=rows.num_items, segment=rows.position)
    fitted = cross_fit(choices, lambda seen, train, held, number: fit_scores(seen, train, held, seed=number),
                       seed=seed, folds=FOLDS)  # fmt: skip
    found = determinism(choices, fitted.propensity)
    facts |= {"logger": found.verdict, "certain": found.certain_share, "words": list(found.words)}
    if found.verdict == "deterministic":
        return Propensities(logged=logged, estimated=fitted.propensity, no_ratios=" ".join(found.words), facts=facts)
    words = (
        f"{(~known).sum():,} of {len(known):,} propensities are estimated (a cross-fitted model of the features in the "
        "log): what the logger knew beyond them biases every weight",
        *found.words,
    )
    return Propensities(
        logged=replace(logged, propensity=np.where(known, rows.propensity, fitted.propensity)),
        estimated=fitted.propensity,
        words=words,
        facts={**facts, "estimated": True},
    )


def effect(found: Propensities, rows: LoggedRows, chosen: DoubleArray, question: Question) -> Effect | None:
    """What estimated propensities do to SNIPS per step, on the rows whose propensity is known; None where none is."""
    known = ~np.isnan(rows.propensity)
    if found.estimated is None or not known.any() or not (chosen[known] > 0).any():
        return None
    return effect_of_estimation(
        lambda weights: self_normalised(weights, rows.reward), chosen, rows.propensity, found.estimated,
        rows.user_of_row, seed=question.seed, level=question.level, replicates=question.replicates,
    )  # fmt: skip
