"""How far back a model should read: HR against the length of the history, truncated or in sliding windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from experiments.plots import SERIES
from recgym.ope.intervals import Interval

WAYS = {"newest window": True, "sliding windows": False}
"""Whether training sees the newest window of each history alone: truncation, or all of it."""


class Point(NamedTuple):
    """One training."""

    model: str
    way: str  # a key of WAYS
    length: int  # steps of history, L
    hr: Interval  # 95% over users
    seconds: float  # of training


def lengths_table(title: str, points: Sequence[Point], *, cutoff: int) -> str:
    """The points as Markdown."""
    lines = [
        f"### {title}",
        "",
        f"| model | trained on | L | HR@{cutoff} [95% over users] | seconds |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {model} | {way} | {length} | {hr.value:.4f} [{hr.low:.4f}, {hr.high:.4f}] | {seconds:.1f} |"
        for model, way, length, hr, seconds in points
    ]
    return "\n".join([*lines, ""])


def lengths_figure(title: str, points: Sequence[Point], *, cutoff: int) -> Figure:
    """A line for each model and way of training, with intervals."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    models = list(dict.fromkeys(point.model for point in points))
    for number, model in enumerate(models):
        for way, style in zip(WAYS, ("--", "-"), strict=True):
            line = [point for point in points if (point.model, point.way) == (model, way)]
            value = [point.hr.value for point in line]
            ends = [
                [point.hr.value - point.hr.low for point in line],
                [point.hr.high - point.hr.value for point in line],
            ]
            axes.errorbar(
                [point.length for point in line], value, yerr=ends, fmt=f"o{style}", capsize=3,
                color=SERIES[number % len(SERIES)], label=f"{model}, {way}",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(sorted({point.length for point in points}), [f"{n}" for n in sorted({p.length for p in points})])
    axes.minorticks_off()
    axes.set(xlabel="steps of history, L", ylabel=f"HR@{cutoff}")
    axes.set_title(title, fontsize=7, wrap=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure
