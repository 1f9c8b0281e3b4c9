"""Every estimator by name: from evidence to terms of episodes, and from terms to an `Estimate` with its verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from recgym.ope.diagnostics import (
    MODEL_ERROR,
    Question,
    Verdict,
    conclude,
    judge,
    read_interval,
    withheld,
    worse,
)
from recgym.ope.doubly_robust import doubly_robust
from recgym.ope.evidence import Evidence, Per
from recgym.ope.fqe import plausible
from recgym.ope.importance import (
    episode_sums,
    last_weights,
    per_decision,
    trajectory_wise,
    weighted_per_decision_terms,
)
from recgym.ope.one_step import clipped_weights, ips, sub_gaussian_weights
from recgym.ope.one_step_models import (
    doubly_robust_terms,
    optimistic_doubly_robust,
    sub_gaussian_doubly_robust,
    switch_doubly_robust,
)
from recgym.ope.rows import check_weight_left
from recgym.ope.weighted_dr import blend_terms, magic, weighted_doubly_robust_terms
from recgym.ope.weights import SupportError, cumulative_weights
from recgym.types import DoubleArray, Estimate

MIXING = 0.05
"""Of sub-Gaussian weights: they stay below 1 / MIXING."""

LENGTHS = 101
"""Of MAGIC's partial returns: of longer sessions, so many spread evenly."""


class Terms(NamedTuple):
    """An estimate as sum_h [sum_e above_eh / sum_e below_eh], episode by episode."""

    above: DoubleArray  # (E, H)
    below: DoubleArray  # (E, H)

    @property
    def value(self) -> float:
        """The estimate."""
        return float((self.above.sum(axis=0) / self.below.sum(axis=0)).sum())


@dataclass(frozen=True, kw_only=True)
class Formula:
    """One estimator."""

    name: str
    """As in tables."""
    terms: Callable[[Evidence], Terms]
    """From evidence; raises SupportError where the log cannot give them."""
    weighs: bool = True
    """Whether it stands on importance weights."""
    models: bool = False
    """Whether it reads a model's values."""
    biased: bool = False
    """Whether part of its error stays however much is logged: its verdict is never better than "weak"."""
    by_parts: bool = True
    """Whether the terms of parts of a log, stacked, are the terms of the whole."""


def estimators(per: Per) -> dict[str, Formula]:
    """Those of one impression, or those of a session, by name."""
    return STEP if per == "step" else SESSION


def by_parts(per: Per) -> dict[str, Formula]:
    """Those of them that can be summed up part by part of a log."""
    return {name: formula for name, formula in estimators(per).items() if formula.by_parts}


def answer(formula: Formula, evidence: Evidence, question: Question, *, terms: Terms | None = None) -> Estimate:
    """The estimate with its interval over users and its verdict; withheld, with the reason, where there is none.

    Its warnings begin with what decided the verdict.

    Args:
        formula: which estimator.
        evidence: of the policy.
        question: level, resamples, seed and thresholds; `per` and `discount` are the evidence's.
        terms: where they were made before.

    Raises:
        ValueError: The evidence is malformed.
    """
    try:
        made = formula.terms(evidence) if terms is None else terms
        check_weight_left(made.below)
    except SupportError as reason:
        return withheld(formula.name, str(reason), question, sample_size=len(evidence.user))
    interval = read_interval(question, made.above, made.below, evidence.user)
    if formula.weighs:
        found = conclude(formula.name, interval, question, evidence.support, user=evidence.user, biased=formula.biased)
        return replace(found, warnings=found.warnings + evidence.words)
    returns = episode_sums(evidence.reward, evidence.episode, evidence.discount)  # (E,)
    if not plausible(interval.value, returns):
        diverged = (
            f"the model puts the value at {interval.value:.3g} where logged returns lie in "
            f"[{returns.min():.3g}, {returns.max():.3g}]: its fit diverged; log more, or lower the learning rate"
        )
        return withheld(formula.name, diverged, question, sample_size=len(evidence.user))
    verdict: Verdict = "supported"
    doubts: tuple[str, ...] = ("support cannot be checked: " + evidence.no_ratios,)
    if evidence.step_support is not None:
        verdict, doubts = judge(evidence.step_support, question.thresholds, per="step")
    found = conclude(
        formula.name, interval, question, None, user=evidence.user, warnings=(*doubts, MODEL_ERROR),
        cap=worse(verdict, "weak"),
    )  # fmt: skip
    return replace(found, warnings=found.warnings + evidence.words)


def _mean(terms: DoubleArray) -> Terms:
    return Terms(terms[:, None], np.ones((len(terms), 1)))


def _ratio(pair: tuple[DoubleArray, DoubleArray]) -> Terms:
    above, below = (part.reshape(len(part), -1) for part in pair)
    return Terms(above, below)


def _self_normalised_doubly_robust(seen: Evidence) -> Terms:
    """The terms of `one_step_models`, and none of its refusals: a part of a log may have no weight left."""
    above = np.stack([seen.model.v, seen.weights * (seen.reward - seen.model.q)], axis=1)
    return Terms(above, np.stack([np.ones(len(above)), seen.weights], axis=1))


def _weighted_doubly_robust(seen: Evidence) -> Terms:
    """The terms of `weighted_dr`, and none of its refusals: a part of a log may have no weight left."""
    error = seen.reward + seen.discount * seen.model.v_next - seen.model.q  # (T,)
    above, below = weighted_per_decision_terms(seen.weights, error, seen.episode, seen.discount)
    start = seen.model.v[seen.start][:, None]
    return Terms(np.hstack([start, above]), np.hstack([np.ones_like(start), below]))


def _magic(seen: Evidence) -> Terms:
    above, below = weighted_doubly_robust_terms(seen.weights, seen.reward, seen.model, seen.episode, seen.discount)
    lengths = np.unique(np.linspace(0, above.shape[1] - 1, LENGTHS).round().astype(np.int64))
    return Terms(*blend_terms(above, below, magic(above, below, seen.user, seed=0, lengths=lengths)))


def _clipped_per_decision(seen: Evidence) -> Terms:
    weights = clipped_weights(cumulative_weights(seen.weights, seen.episode), seen.limit)
    return _mean(episode_sums(weights * seen.reward, seen.episode, seen.discount))


def _named(*formulas: Formula) -> dict[str, Formula]:
    return {formula.name: formula for formula in formulas}


STEP = _named(
    Formula(name="IPS", terms=lambda e: _mean(ips(e.weights, e.reward))),
    Formula(name="clipped IPS", biased=True, terms=lambda e: _mean(ips(clipped_weights(e.weights, e.limit), e.reward))),
    Formula(
        name="sub-Gaussian IPS", biased=True,
        terms=lambda e: _mean(ips(sub_gaussian_weights(e.weights, MIXING), e.reward)),
    ),
    Formula(name="SNIPS", terms=lambda e: _ratio((e.weights * e.reward, e.weights))),
    Formula(name="DM", models=True, weighs=False, biased=True, terms=lambda e: _mean(e.model.v)),
    Formula(
        name="DR", models=True,
        terms=lambda e: _mean(doubly_robust_terms(e.weights, e.reward, e.model.q, e.model.v)),
    ),
    Formula(name="SNDR", models=True, terms=_self_normalised_doubly_robust),
    Formula(
        name="Switch-DR", models=True, biased=True,
        terms=lambda e: _mean(switch_doubly_robust(e.weights, e.reward, e.model.q, e.model.v, threshold=e.limit)),
    ),
    Formula(
        name="DRos", models=True, biased=True,
        terms=lambda e: _mean(
            optimistic_doubly_robust(e.weights, e.reward, e.model.q, e.model.v, strength=e.limit**2)
        ),
    ),
    Formula(
        name="sub-Gaussian DR", models=True, biased=True,
        terms=lambda e: _mean(sub_gaussian_doubly_robust(e.weights, e.reward, e.model.q, e.model.v, mixing=MIXING)),
    ),
)  # fmt: skip
"""Of the reward of one impression in the logged contexts."""
SESSION = _named(
    Formula(
        name="trajectory IS",
        terms=lambda e: _mean(trajectory_wise(e.weights, e.reward, e.episode, e.discount)),
    ),
    Formula(
        name="weighted trajectory IS",
        terms=lambda e: _ratio(
            (trajectory_wise(e.weights, e.reward, e.episode, e.discount), last_weights(e.weights, e.episode))
        ),
    ),
    Formula(
        name="per-decision IS", terms=lambda e: _mean(per_decision(e.weights, e.reward, e.episode, e.discount))
    ),
    Formula(
        name="weighted per-decision IS",
        terms=lambda e: _ratio(weighted_per_decision_terms(e.weights, e.reward, e.episode, e.discount)),
    ),
    Formula(name="clipped per-decision IS", biased=True, terms=_clipped_per_decision),
    Formula(name="FQE", models=True, weighs=False, biased=True, terms=lambda e: _mean(e.model.v[e.start])),
    Formula(
        name="DR", models=True,
        terms=lambda e: _mean(doubly_robust(e.weights, e.reward, e.model, e.episode, e.discount)),
    ),
    Formula(name="weighted DR", models=True, terms=_weighted_doubly_robust),
    Formula(name="MAGIC", models=True, biased=True, by_parts=False, terms=_magic),
)  # fmt: skip
"""Of the (discounted) reward of a session."""
DEFAULT: dict[Per, tuple[str, ...]] = {
    "step": ("SNDR", "DR", "SNIPS", "DM"),
    "session": ("weighted DR", "weighted per-decision IS", "FQE"),
}
"""The estimators that speak where `choice` finds no better one: the first that the log and the policy allow."""
