"""Which estimator speaks for a policy, and why; where its weights cannot say, none does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from recgym.ope.diagnostics import Question, Verdict, judge
from recgym.ope.estimators import DEFAULT, estimators
from recgym.ope.evidence import Evidence
from recgym.ope.selection import cross_validated, default_estimator
from recgym.types import Estimate

CROSS = "cross-validated"


def choose(
    found: Mapping[str, Estimate], seen: Evidence, question: Question, *, asked: str
) -> tuple[str, tuple[str, ...]]:
    """The name of the estimator that speaks for a policy, and words on why.

    "default" takes `selection.default_estimator` of the weights' verdict; without weights, or where that one has no
    value, the first of `estimators.DEFAULT` that has one. "cross-validated" asks `selection.cross_validated`, judged by
    the first of DEFAULT that weighs. Where weights cannot say, an estimator that weighs stands there and says so: what
    the model alone says is an opinion, and stays in the table.

    Args:
        found: every estimate of the policy, by name.
        seen: what they were made of.
        question: thresholds and seed.
        asked: "default", "cross-validated" or a name in `found`.
    """
    if asked not in ("default", CROSS):
        return asked, ()
    known = [name for name in DEFAULT[seen.per] if math.isfinite(found[name].value)]
    weighing = [name for name in known if estimators(seen.per)[name].weighs]
    verdict = _of_weights(seen, question)
    model = found[default_estimator("cannot say", per=seen.per)]
    if verdict == "cannot say":
        name = weighing[0] if weighing else DEFAULT[seen.per][-2]
        return name, (_opinion(model),) if math.isfinite(model.value) else ()
    best = None if verdict is None else default_estimator(verdict, per=seen.per)
    if best is None or not math.isfinite(found[best].value):
        best = known[0] if known else DEFAULT[seen.per][-2]
    if asked == "default":
        return best, ()
    if not weighing:
        return best, (f"cross-validation has nothing to judge by, as the log cannot be weighed; {best} by default",)
    return _cross_validated(found, seen, question, by=weighing[0], instead=best)


def spoken(estimate: Estimate, seen: Evidence, question: Question) -> Estimate:
    """The estimate that speaks for a policy: where the policy's weights cannot say, neither can it."""
    if estimate.verdict == "cannot say" or _of_weights(seen, question) != "cannot say":
        return estimate
    return replace(estimate, verdict="cannot say", warnings=(_opinion(estimate), *estimate.warnings))


def _of_weights(seen: Evidence, question: Question) -> Verdict | None:
    return None if seen.support is None else judge(seen.support, question.thresholds, per=seen.per)[0]


def _opinion(model: Estimate) -> str:
    return (
        f"the log's weights cannot say what this policy is worth; {model.estimator} puts it at {model.value:.4g}, the "
        "model's opinion, which nothing in the log can check"
    )


def _cross_validated(
    found: Mapping[str, Estimate], seen: Evidence, question: Question, *, by: str, instead: str
) -> tuple[str, tuple[str, ...]]:
    formulas = {
        name: one
        for name, one in estimators(seen.per).items()
        if one.by_parts and math.isfinite(found[name].value) and found[name].verdict != "cannot say"
    }
    try:
        terms = {name: one.terms(seen) for name, one in formulas.items()}
        judged = cross_validated(terms, estimators(seen.per)[by].terms(seen), seen.user, seed=question.seed)
    except ValueError as reason:
        return instead, (f"cross-validation could not choose ({reason}); {instead} by default",)
    order = sorted((one for one in judged.scores if one != judged.name), key=judged.scores.__getitem__)
    beside = f", next {order[0]} ({math.sqrt(judged.scores[order[0]]):.3g})" if order else ""
    return judged.name, (
        f"{judged.name} was chosen by cross-validation: of {len(terms)} estimators it came nearest to {by} of users "
        f"held out (off by {math.sqrt(judged.scores[judged.name]):.3g}{beside})",
    )
