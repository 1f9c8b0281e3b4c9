"""What negative controls and drift do to an appraisal: a failed control leaves no estimate better than weak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from recgym.ope.appraisal import Appraisal, PolicyReport
from recgym.ope.diagnostics import worse
from recgym.types import Estimate


def doubted(
    appraisal: Appraisal, failed: Mapping[str, Sequence[str]], told: Mapping[str, Sequence[str]] | None = None
) -> Appraisal:
    """The appraisal with what was found against its policies.

    Args:
        appraisal: as made.
        failed: by policy, words on each negative control that failed, or on estimated propensities: those that may not
            belong to these rows make every estimate suspect, so that all of the policy's are at most weak, and say why.
        told: by policy, what else to know: drift, estimators that disagree. It changes no verdict.

    Raises:
        ValueError: a policy is none of the appraisal's.
    """
    told = told or {}
    names = [one.policy for one in appraisal.policies]
    if strange := next((name for name in (*failed, *told) if name not in names), None):
        raise ValueError(f"no policy {strange!r} in this appraisal, which has {', '.join(names)}")
    return replace(
        appraisal,
        policies=tuple(
            _doubted(one, tuple(failed.get(one.policy, ())), tuple(told.get(one.policy, ())))
            for one in appraisal.policies
        ),
    )


def _doubted(report: PolicyReport, failed: tuple[str, ...], told: tuple[str, ...]) -> PolicyReport:
    words = (*report.words, *failed, *told)
    if not failed:
        return replace(report, words=words)

    def capped(one: Estimate) -> Estimate:
        if math.isnan(one.value):
            return one
        return replace(one, verdict=worse(one.verdict, "weak"), warnings=(*failed, *one.warnings))

    return replace(
        report,
        estimates=tuple(capped(one) for one in report.estimates),
        segments=tuple(replace(one, estimate=capped(one.estimate)) for one in report.segments),
        words=words,
    )
