"""Whether the logs can answer: overlap, effective size along the session, negative controls, folds in time."""

from __future__ import annotations

from experiments.ope.parts import Part, named, point
from experiments.ope.plots import along, forest, histogram
from experiments.ope.words import Fields, number, said


def overlap(document: Fields) -> list[Part]:
    """Histograms of weights, and how many sessions they are worth step by step."""
    found = []
    for name, one in named(document, "overlap").items():
        edges, counts = one["edges"], one["counts"]
        found.append(
            Part(
                title=f"Overlap: {name}",
                note="How often each weight, the policy's chance over the logger's, was logged. A long right tail "
                "means that few logged choices decide the estimate.",
                columns=["weight from", "to", "logged"],
                rows=[
                    [number(10 ** edges[k]), number(10 ** edges[k + 1]), f"{count:,}"] for k, count in enumerate(counts)
                ],
                figure=histogram(edges, counts),
            )
        )
        if one.get("step_ess"):
            found.append(
                Part(
                    title=f"Effective size along the session: {name}",
                    note="Weights multiply from step to step: how many sessions the log is still worth.",
                    columns=["step", "effective sessions"],
                    rows=[[str(step), number(size)] for step, size in enumerate(one["step_ess"], 1)],
                    figure=along(one["step_ess"]),
                )
            )
    return found


def controls(document: Fields) -> list[Part]:
    """Questions whose answer is known, with what was found."""
    return [_controls(name, some) for name, some in named(document, "controls").items() if some]


def _controls(name: str, some: list[Fields]) -> Part:
    rows, points = [], []
    for one in some:
        result = "n/a" if one["passed"] is None else "passed" if one["passed"] else "failed"
        words = one["words"] if isinstance(one["words"], str) else "; ".join(one["words"])
        rows.append([one["name"], number(one["expected"]), said(one), result, words])
        if one["value"] is not None and one["expected"] is not None:
            off = {key: None if one[key] is None else one[key] - one["expected"] for key in ("value", "low", "high")}
            points.append(point(one["name"], off, result if one["passed"] is not None else "estimate"))
    return Part(
        title=f"Negative controls: {name}",
        note="Questions whose answer is known. One that failed, corrected for all of them, means that weights or "
        "estimator are wrong. Drawn: estimate minus what is expected.",
        columns=["control", "expected", "estimate", "result", "why"],
        rows=rows,
        figure=forest(points, "estimate minus expected", line={"value": 0.0}, line_name="expected"),
    )


def folds(document: Fields) -> list[Part]:
    """The estimate in each part of the log's time."""
    return [
        Part(
            title=f"Folds in time: {name}",
            note="The same estimate in each part of the log's time. A mean weight off 1 means that the logging policy "
            "is not what the propensities say.",
            columns=["fold", "value", "episodes", "mean weight"],
            rows=[[one["label"], said(one), f"{one['episodes']:,}", number(one["mean_weight"])] for one in every],
            figure=forest(
                [point(one["label"].split(" to ")[0], one, "estimate") for one in every], "value in the fold"
            ),
        )
        for name, every in named(document, "folds").items()
        if every
    ]
