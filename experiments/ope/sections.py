"""The parts of the page in order: each a table, most with the plot of the same numbers."""

from __future__ import annotations

from collections.abc import Callable

from experiments.ope.checks import controls, folds, overlap
from experiments.ope.parts import Part, Section, mark, named, point, share, shown, why
from experiments.ope.plots import forest, plane, spread
from experiments.ope.words import (
    UNITS,
    Fields,
    answered,
    appraisals,
    chosen,
    corrected,
    number,
    relative,
    said,
    unit_of,
)


def sections(document: Fields) -> list[Section]:
    """Every section that the document has something for."""
    made = [
        Section(anchor="values", title="What each policy would earn", parts=_each(document, _values, _differences)),
        Section(anchor="ranking", title="Reward against next-item ranking", parts=_each(document, _ranking)),
        Section(anchor="estimators", title="Every estimator", parts=_each(document, _estimators)),
        Section(
            anchor="diagnostics",
            title="Whether the logs can answer",
            parts=[*_each(document, _support), *overlap(document), *controls(document), *folds(document)],
        ),
        Section(anchor="segments", title="Who and what it is worth to", parts=_each(document, _segments)),
        Section(
            anchor="simulator", title="What the simulator says", parts=_simulator(document), words=_trust(document)
        ),
        Section(anchor="test", title="The A/B test that would settle it", parts=_each(document, _tests)),
        Section(anchor="returns", title="The spread of returns", parts=_each(document, _returns)),
    ]
    return [one for one in made if one.parts]


def _each(document: Fields, *makers: Callable[[Fields, Fields, str], list[Part]]) -> list[Part]:
    """The parts of every appraisal; each maker gets (document, appraisal, words for its unit)."""
    found = []
    for one in appraisals(document):
        for maker in makers:
            found += maker(document, one, f"{unit_of(document)} {UNITS[one['per']]}")
    return found


def _values(_: Fields, appraisal: Fields, unit: str) -> list[Part]:
    rows, points = [], []
    for policy in appraisal["policies"]:
        one = chosen(policy)
        rows.append([policy["policy"], one["estimator"], shown(one), number(one["effective_sample_size"]),
                     mark(one["verdict"]), why(one)])  # fmt: skip
        points.append(point(policy["policy"], one, one["verdict"]))
    base = appraisal["production"]
    rows.append(["production", "as logged", said(base), str(appraisal["episodes"]), mark("supported"), ""])
    return [
        Part(
            title=f"Value: {unit}",
            note=f"By each policy's chosen estimator, with {appraisal['level']:.0%} intervals over "
            f"{appraisal['users']:,} users. ESS: how many logged episodes the weighted log is worth.",
            columns=["policy", "estimator", "value", "ESS", "verdict", "why"],
            rows=rows,
            figure=forest(points, unit, line=base, line_name="production"),
        )
    ]


def _differences(_: Fields, appraisal: Fields, unit: str) -> list[Part]:
    rows, points = [], []
    for policy in appraisal["policies"]:
        one, verdict = policy["difference"], chosen(policy)["verdict"]
        name, word = policy["policy"], policy["statement"] or "not compared"
        rows.append([name, said(one, signed=True), relative(policy, appraisal), word, mark(verdict)])
        if one is not None or verdict == "cannot say":
            points.append(point(name, one, word, hollow=verdict == "weak"))
    return [
        Part(
            title=f"Difference to production: {unit}",
            note=corrected(appraisal),
            columns=["policy", "difference", "relative", "against production", "verdict"],
            rows=rows,
            figure=forest(points, f"{unit}, minus production", line={"value": 0.0}, line_name="no difference"),
        )
    ]


def _ranking(document: Fields, appraisal: Fields, unit: str) -> list[Part]:
    ranking = named(document, "ranking", appraisal)
    rows, points = [], []
    for name, one, shape in _valued(appraisal):
        if name not in ranking:
            continue
        metrics = ranking[name]
        rows.append([name, "n/a" if one is None else said(one), *(said(metrics.get(key)) for key in _metrics(ranking))])
        if one is not None and metrics.get("ndcg@10"):
            points.append((name, metrics["ndcg@10"], one, shape))
    if not rows:
        return []
    return [
        Part(
            title=f"{unit.capitalize()}, against NDCG@10",
            note="Up is more reward by the logs, right is better ranking of held-out choices. A policy without a "
            "value is in the table only.",
            columns=["policy", "value", *(name.upper() for name in _metrics(ranking))],
            rows=rows,
            figure=plane(points, "NDCG@10 on held-out choices", unit) if points else None,
        )
    ]


def _metrics(ranking: Fields) -> list[str]:
    return list(dict.fromkeys(name for some in ranking.values() for name in some))


def _estimators(_: Fields, appraisal: Fields, unit: str) -> list[Part]:
    return [
        Part(
            title=f"{policy['policy']}: {unit}",
            note="Estimators that disagree by more than their intervals rest on different assumptions, one of them "
            f"false. Chosen: {policy['chosen']}.",
            columns=["estimator", "value", "ESS", "verdict", "why"],
            rows=[
                [one["estimator"], shown(one), number(one["effective_sample_size"]), mark(one["verdict"]), why(one)]
                for one in policy["estimates"]
            ],
            figure=forest(
                [point(one["estimator"], one, one["verdict"]) for one in policy["estimates"]], unit,
                line=appraisal["production"], line_name="production",
            ),
        )
        for policy in appraisal["policies"]
    ]  # fmt: skip


def _support(_: Fields, appraisal: Fields, __: str) -> list[Part]:
    rows = []
    for policy in appraisal["policies"]:
        one = policy["support"]
        rows.append(
            [policy["policy"], *["n/a"] * 7]
            if one is None
            else [policy["policy"], number(one["effective_sample_size"]), share(one["largest_share"]),
                  share(one["top_percent_share"]), number(one["largest_weight"]), share(one["zero_share"]),
                  f"{number(one['mean_ratio'])} ± {number(one['mean_ratio_error'])}", share(one["unsupported"])]
        )  # fmt: skip
    return [
        Part(
            title=f"Support of {UNITS[appraisal['per']]}",
            note=f"Of {appraisal['episodes']:,} logged episodes, {appraisal['steps']:,} steps. ESS: how many the "
            "weighted log is worth. Heaviest: share of all weight on one episode, and on 1% of them. Never: share that "
            "the policy would never have done. The mean weight should be 1. Unseen: share of the policy's choices that "
            "the logger never makes.",
            columns=["policy", "ESS", "heaviest", "heaviest 1%", "largest weight", "never", "mean weight", "unseen"],
            rows=rows,
        )
    ]


def _segments(_: Fields, appraisal: Fields, unit: str) -> list[Part]:
    found = []
    for policy in appraisal["policies"]:
        rows, points = [], []
        for one in policy["segments"]:
            estimate = one["estimate"]
            rows.append([one["name"], one["label"], f"{one['episodes']:,}", shown(estimate), said(one["production"]),
                         mark(estimate["verdict"])])  # fmt: skip
            points.append(
                point(f"{one['name']}: {one['label']}", estimate, estimate["verdict"], beside=one["production"])
            )
        if rows:
            found.append(
                Part(
                    title=f"{policy['policy']}: {unit}",
                    note="Each part by itself, beside what production earned there. Not corrected for the number of "
                    "parts: with many, some differ by chance.",
                    columns=["segment", "part", "episodes", "value", "production", "verdict"],
                    rows=rows,
                    figure=forest(points, unit, beside="production"),
                )
            )
    return found


def _simulator(document: Fields) -> list[Part]:
    appraisal = appraisals(document)[0]
    simulator = named(document, "simulator", appraisal)
    rows, points = [], []
    for name, one, shape in _valued(appraisal):
        if name in simulator:
            rows.append([name, "n/a" if one is None else said(one), said(simulator[name])])
            points.append(point(name, one, shape, beside=simulator[name]))
    if not rows:
        return []
    unit = f"{unit_of(document)} {UNITS[appraisal['per']]}"
    return [
        Part(
            title=f"Logs and simulator: {unit}",
            note="The simulator answers for policies that the logs cannot value, as far as it can be trusted.",
            columns=["policy", "by the logs", "by the simulator"],
            rows=rows,
            figure=forest(points, unit, beside="simulator"),
        )
    ]


def _trust(document: Fields) -> tuple[str, ...]:
    trust = document.get("simulator_trust")
    if not trust:
        return ("How far the simulator can be trusted was not measured.",)
    return (f"Trust in the simulator: {trust['verdict']}.", *trust["words"])


def _tests(_: Fields, appraisal: Fields, unit: str) -> list[Part]:
    rows = []
    for policy in appraisal["policies"]:
        if (one := policy["test"]) is not None:
            needed = [f"{one[name]:,}" if one[name] else "n/a" for name in ("assured", "users")]
            margin = said(policy["difference"], signed=True)
            rows.append([policy["policy"], margin, *needed, f"±{number(one['detectable'])}"])
    if not rows:
        return []
    return [
        Part(
            title=f"Users for {unit}",
            note=f"Half of the users each, both arms together, 80% power, level {appraisal['level']:.0%}. Assured: "
            "counting the estimate's own error, so that the chance to find the true difference is 80%; n/a where it is "
            "so unsure that no size gives that. If true: were the difference exactly as estimated; too small for the "
            f"best of several. Last: what a test on the log's own {appraisal['users']:,} users would find.",
            columns=["policy", "difference", "assured", "if true", "the log's size finds"],
            rows=rows,
        )
    ]


def _returns(_: Fields, appraisal: Fields, unit: str) -> list[Part]:
    known = [(one["policy"], one["returns"]) for one in appraisal["policies"] if one["returns"] is not None]
    if not known:
        return []
    levels = list(known[0][1]["quantiles"])
    rows = [
        [name, *(number(one["quantiles"][level]) for level in levels), number(one["worst"]), number(one["deviation"])]
        for name, one in known
    ]
    return [
        Part(
            title=f"Returns: {unit}",
            note="Quantiles of what episodes would earn, by weighted episodes. Worst: the mean of the worst share.",
            columns=["policy", *levels, "worst (CVaR)", "standard deviation"],
            rows=rows,
            figure=spread([(name, one["quantiles"]) for name, one in known], unit),
        )
    ]


def _valued(appraisal: Fields) -> list[tuple[str, Fields | None, str]]:
    """Policies and production: name, value or None, mark."""
    found = []
    for policy in appraisal["policies"]:
        one = chosen(policy)
        found.append((policy["policy"], one if answered(one) else None, one["verdict"]))
    return [*found, ("production", appraisal["production"], "undecided")]
