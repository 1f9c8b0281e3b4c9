"""The plots of an appraisal, as SVG that takes its colours from the page: forests, overlap, size along the session."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from experiments.plots import _label as place_names
from experiments.plots import to_svg

LIGHT = {
    "ink": "#1f2937", "soft": "#4b5563", "line": "#d1d5db", "paper": "#ffffff", "card": "#f3f4f6", "good": "#047857",
    "care": "#92400e", "alarm": "#b91c1c", "blue": "#0b5c9e",
}  # fmt: skip
DARK = {
    "ink": "#e5e7eb", "soft": "#a8b0bd", "line": "#374151", "paper": "#111827", "card": "#1f2937", "good": "#34d399",
    "care": "#fbbf24", "alarm": "#fca5a5", "blue": "#7cc4f8",
}  # fmt: skip
"""The page's colours in either scheme, by the same names; plots are drawn in the light ones and painted by name."""

MARKS = {
    "supported": ("o", "blue", True), "weak": ("D", "care", False), "better": ("^", "good", True),
    "worse": ("v", "alarm", True), "undecided": ("s", "soft", True), "passed": ("o", "blue", True),
    "failed": ("X", "alarm", True), "estimate": ("o", "blue", True),
}  # fmt: skip
"""Shape, colour, filled: no meaning rests on colour alone."""
WIDTH = 4.4  # inches: type of 9 points is still read on a phone


@dataclass(frozen=True, kw_only=True)
class Point:
    """A row of a forest."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    mark: str = "estimate"
    hollow: bool = False
    beside: dict[str, Any] | None = None
    """A second value with its interval, in grey."""


def style() -> AbstractContextManager[None]:
    """Matplotlib in the page's colours and type, while a figure is made."""
    ink, soft = LIGHT["ink"], LIGHT["soft"]
    return rc_context(
        {"font.size": 9, "axes.formatter.useoffset": False, "figure.facecolor": "none", "axes.facecolor": "none",
         "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": soft, "xtick.color": ink, "ytick.color": ink,
         "grid.color": LIGHT["line"]}
    )  # fmt: skip


def paint(figure: Figure, name: str, title: str) -> str:
    """The figure as SVG: colours as the page's variables, ids under `name`, `title` for those who do not see it."""
    with rc_context({"svg.fonttype": "none"}):  # letters stay letters: small, sharp, found by a search of the page
        text = to_svg(figure)
    for colour, code in LIGHT.items():
        text = text.replace(code, f"var(--{colour})")
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    safe = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    head = f'<svg role="img" aria-labelledby="{name}-title"'
    return re.sub(
        r"<svg([^>]*)>", lambda found: f'{head}{found[1]}><title id="{name}-title">{safe}</title>', text, count=1
    )


def forest(
    points: Sequence[Point], across: str, *, line: dict[str, Any] | None = None, line_name: str = "", beside: str = ""
) -> Figure:
    """Values with intervals, a row each; rows without a value say so.

    Args:
        points: from top to bottom.
        across: what is measured.
        line: a value, with its interval if it has one, drawn through all rows.
        line_name: its name.
        beside: name of the grey values.
    """
    with style():
        figure, axes = _axes(0.3 * len(points) + 1.25)
        handles: dict[str, Any] = {}
        for place, one in enumerate(points):
            if one.beside is not None and one.beside["value"] is not None:
                handles[beside] = _bar(axes, one.beside, place + 0.26, "P", "soft", True)
            if one.value is None:
                axes.text(
                    0.5, place, "✕ cannot say", transform=axes.get_yaxis_transform(), color=LIGHT["alarm"], ha="center",
                    va="center", fontsize=8,
                )  # fmt: skip
                continue
            shape, colour, filled = MARKS[one.mark]
            ends = {"value": one.value, "low": one.low, "high": one.high}
            name = one.mark + (", weak" if one.hollow else "")
            handles[name] = _bar(axes, ends, place, shape, colour, filled and not one.hollow)
        if line is not None:
            if line.get("low") is not None and line["low"] < line["high"]:
                axes.axvspan(line["low"], line["high"], color=LIGHT["soft"], alpha=0.15, linewidth=0)
            handles[line_name] = axes.axvline(line["value"], color=LIGHT["ink"], linestyle="--", linewidth=1)
        axes.set_yticks(range(len(points)), [short(one.label) for one in points])
        axes.set_ylim(len(points) - 0.4, -0.6)
        axes.set_xlabel(across)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        handles.pop("estimate", None)
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
        )  # fmt: skip
        return figure


def plane(points: Sequence[tuple[str, dict[str, Any], dict[str, Any], str]], across: str, up: str) -> Figure:
    """One value against another: (name, value across, value up, verdict) each, intervals as thin bars."""
    with style():
        figure, axes = _axes(3.9)
        handles: dict[str, Any] = {}
        for name, x, y, mark in points:
            shape, colour, filled = MARKS.get(mark, ("P", "soft", True))
            code = LIGHT[colour]
            handles[mark if mark in MARKS else name] = axes.errorbar(
                x["value"], y["value"], xerr=_reach(x), yerr=_reach(y), fmt=shape, color=code, markersize=6,
                markerfacecolor=code if filled else LIGHT["paper"], linewidth=1, capsize=2,
            )  # fmt: skip
        place_names(axes, [(x["value"], y["value"], short(name)) for name, x, y, _ in points])
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        return figure


def histogram(edges: Sequence[float], counts: Sequence[float]) -> Figure:
    """How many weights lie where, on a scale of powers of ten, with a line at 1."""
    with style():
        figure, axes = _axes(2.5)
        widths = [high - low for low, high in pairwise(edges)]
        axes.bar(edges[:-1], counts, widths, align="edge", color=LIGHT["blue"], edgecolor=LIGHT["paper"], linewidth=0.5)
        axes.axvline(0.0, color=LIGHT["ink"], linestyle="--", linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda power, _: f"{10**power:.3g}"))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        axes.set_xlabel("weight of what was logged (dashed: 1, as logged)")
        axes.set_ylabel("logged")
        return figure


def along(sizes: Sequence[float]) -> Figure:
    """The effective sample size after each step of a session."""
    with style():
        figure, axes = _axes(2.5)
        axes.plot(range(1, len(sizes) + 1), sizes, "o-", color=LIGHT["blue"], markersize=4)
        if max(sizes) > 0:
            axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}" if size >= 1 else f"{size:g}"))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("steps of the session")
        axes.set_ylabel("effective sessions")
        return figure


def spread(rows: Sequence[tuple[str, dict[str, float]]], across: str) -> Figure:
    """Quantiles of the return: the median, half of all sessions (thick), nine tenths (thin)."""
    with style():
        figure, axes = _axes(0.3 * len(rows) + 1.25)
        for place, (_, at) in enumerate(rows):
            axes.plot([at["5%"], at["95%"]], [place, place], color=LIGHT["blue"], linewidth=1.2)
            axes.plot([at["25%"], at["75%"]], [place, place], color=LIGHT["blue"], linewidth=5, solid_capstyle="butt")
            axes.plot(
                at["50%"], place, "o", color=LIGHT["blue"], markerfacecolor=LIGHT["paper"], markersize=6, zorder=3
            )
        axes.set_yticks(range(len(rows)), [short(name) for name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(across)
        marks = [
            Line2D([], [], color=LIGHT["blue"], marker="o", markerfacecolor=LIGHT["paper"], linestyle=""),
            Line2D([], [], color=LIGHT["blue"], linewidth=5),
            Line2D([], [], color=LIGHT["blue"], linewidth=1.2),
        ]
        names = ["median", "25% to 75%", "5% to 95%"]
        figure.legend(marks, names, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        return figure


def short(name: str, letters: int = 26) -> str:
    """A name that fits beside a plot; the table has it whole."""
    return name if len(name) <= letters else name[: letters - 1] + "…"


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _bar(axes: Axes, one: dict[str, Any], place: float, shape: str, colour: str, filled: bool) -> Any:
    code = LIGHT[colour]
    return axes.errorbar(
        one["value"], place, xerr=_reach(one), fmt=shape, color=code, linewidth=1.4, capsize=2, markersize=6,
        markerfacecolor=code if filled else LIGHT["paper"],
    )  # fmt: skip


def _reach(one: dict[str, Any]) -> list[list[float]] | None:
    if one.get("low") is None or one.get("high") is None:
        return None
    return [[max(one["value"] - one["low"], 0)], [max(one["high"] - one["value"], 0)]]
