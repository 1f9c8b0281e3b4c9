"""The plots of the report, as SVG text: figures without global state, in colours that the colour-blind can tell."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from experiments.scorecard import Number, Scorecard
from experiments.verdict import best_trivial

COLOURS = {"trivial": "#6b7280", "trained": "#0072b2", "oracle": "#d55e00"}
"""Okabe and Ito (2008)."""
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def plots(card: Scorecard) -> list[tuple[str, str, str]]:
    """Every plot that the scorecard has numbers for: (title, what to look for, SVG)."""
    made = [
        ("Session reward", "Points are means, bars intervals; the dashed line is today's ranker.", _rewards(card)),
        ("Reward against next-item ranking", "Up is more reward per session, right is better ranking.", _plane(card)),
        (
            "Learning curves",
            "Mean session reward in training; thin: one seed; dashed: best trivial policy and today's ranker.",
            _curves(card),
        ),
        ("Simulator against truth", "Each point a policy; on the line the simulator is right.", _truth(card)),
        (
            "Calibration",
            "On the diagonal, what was predicted is what happened on held-out sessions.",
            _calibration(card),
        ),
        (
            "Session lengths",
            "Share of sessions still going on, logged and as the users' hazards have it.",
            _lengths(card),
        ),
        (
            "Value from the logs alone",
            "Off-policy estimates of one impression's reward; hollow: weak.",
            _estimates(card),
        ),
    ]
    return [(title, hint, to_svg(figure)) for title, hint, figure in made if figure is not None]


def ladder_plot(ladder: dict[str, Any]) -> Figure:
    """Spearman, regret and over-estimation against the number of logged sessions, a line for each logging policy."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    names = (("spearman", "Spearman with the truth"), ("regret", "regret"), ("over_estimation", "over-estimation"))
    shares = sorted({row["exploration"] for row in ladder["summary"]})
    for axis, (name, title) in zip(axes, names, strict=True):
        for colour, share in zip(SERIES, shares, strict=False):
            rows = [row for row in ladder["summary"] if row["exploration"] == share]
            rows.sort(key=lambda row: float(row["sessions"]))
            size = np.array([row["sessions"] for row in rows])
            mean = np.array([row[name][0] for row in rows])
            low, high = (
                np.array([row[name][0] if row[name][k] is None else row[name][k] for row in rows]) for k in (1, 2)
            )
            axis.errorbar(
                size, mean, yerr=(mean - low, high - mean), color=colour, marker="o", capsize=3, label=f"{share:.0%}"
            )
        axis.set_xscale("log")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("logged sessions")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(-1.05, 1.05)
    axes[1].set_ylim(-0.05, 1.05)
    axes[2].set_yscale("symlog", linthresh=1.0)
    axes[2].set_yticks([-1, 0, 1, 10, 100])
    axes[2].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0%}"))
    axes[0].axhline(0.9, color="#9ca3af", linestyle="--", linewidth=1)
    axes[2].axhline(0.0, color="#9ca3af", linestyle="--", linewidth=1)
    axes[0].legend(title="explored", frameon=False, fontsize=8)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element, without the XML header; the same text for the same figure."""
    out = io.StringIO()
    with rc_context({"svg.hashsalt": "recgym"}):  # names inside the SVG follow from its content
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": "recgym"})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _figure(height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, height), layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def _rewards(card: Scorecard) -> Figure | None:
    rows = sorted((row for row in card.rows if row.reward.known), key=lambda row: row.reward.value)
    if not rows:
        return None
    figure, axes = _figure(0.34 * len(rows) + 1.0)
    for place, row in enumerate(rows):
        _point(axes, row.reward, place, COLOURS[row.family])
    axes.set_yticks(range(len(rows)), [row.policy for row in rows])
    if (today := card.row(card.reference)) is not None and today.reward.known:
        axes.axvline(today.reward.value, color="#374151", linestyle="--", linewidth=1)
    axes.set_xlabel("reward per session")
    _legend(axes, {row.family for row in rows})
    return figure


def _plane(card: Scorecard) -> Figure | None:
    rows = [row for row in card.rows if row.reward.known and "ndcg@10" in row.ranking]
    if not rows:
        return None
    figure, axes = _figure(4.2)
    for row in rows:
        quality, reward = row.ranking["ndcg@10"], row.reward
        axes.errorbar(
            quality.value, reward.value, xerr=_bars(quality), yerr=_bars(reward),
            fmt="o", color=COLOURS[row.family], markersize=5, linewidth=1, capsize=2,
        )  # fmt: skip
    _label(axes, [(row.ranking["ndcg@10"].value, row.reward.value, row.policy) for row in rows])
    axes.set_xlabel("NDCG@10 on held-out choices (full ranking)")
    axes.set_ylabel("reward per session")
    _legend(axes, {row.family for row in rows})
    return figure


def _curves(card: Scorecard) -> Figure | None:
    rows = [row for row in card.rows if row.curves]
    if not rows:
        return None
    figure, axes = _figure()
    for row, colour in zip(rows, cycle(SERIES), strict=False):
        shortest = min(len(curve) for curve in row.curves)
        steps = [point["step"] for point in row.curves[0][:shortest]]
        values = np.array([[point["session_reward"] for point in curve[:shortest]] for curve in row.curves])
        for line in values:
            axes.plot(steps, line, color=colour, alpha=0.3, linewidth=0.7)
        axes.plot(steps, values.mean(0), color=colour, linewidth=2, label=row.policy)
    for level in (best_trivial(card), card.row(card.reference)):
        if level is not None and level.reward.known:
            axes.axhline(level.reward.value, color="#6b7280", linestyle="--", linewidth=0.9)
            where = axes.get_yaxis_transform()
            axes.text(1.0, level.reward.value, level.policy, transform=where, fontsize=7, ha="right", va="bottom")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: f"{steps / 1000:g} k" if steps else "0"))
    axes.set_xlabel("user steps seen in training")
    axes.set_ylabel("reward per session")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _truth(card: Scorecard) -> Figure | None:
    rows = [row for row in card.rows if row.truth and row.truth.known and row.reward.known]
    if not rows:
        return None
    figure, axes = _figure(4.2)
    points = []
    for row in rows:
        assert row.truth is not None
        axes.errorbar(
            row.truth.value, row.reward.value, xerr=_bars(row.truth), yerr=_bars(row.reward),
            fmt="o", color=COLOURS[row.family], markersize=5, linewidth=1, capsize=2,
        )  # fmt: skip
        points.append((row.truth.value, row.reward.value, row.policy))
    ends = [min(min(x, y) for x, y, _ in points) * 0.9, max(max(x, y) for x, y, _ in points) * 1.05]
    axes.plot(ends, ends, color="#374151", linestyle="--", linewidth=1)
    _label(axes, points)
    axes.set_xlabel("reward per session in the world that made the log")
    axes.set_ylabel("reward per simulated session")
    return figure


def _calibration(card: Scorecard) -> Figure | None:
    curves: dict[str, Any] = (card.fidelity or {}).get("reliability") or {}
    if not curves:
        return None
    figure = Figure(figsize=(5.6, 2.3 * -(-len(curves) // 3)), layout="constrained")
    axes = figure.subplots(-(-len(curves) // 3), min(3, len(curves)), squeeze=False).ravel()
    for panel, (name, curve) in zip(axes, curves.items(), strict=False):
        _plain(panel)
        top = max(*curve["predicted"], *curve["observed"]) * 1.08 or 1.0
        panel.plot([0, top], [0, top], color="#374151", linestyle="--", linewidth=1)
        panel.plot(curve["predicted"], curve["observed"], "o-", color=SERIES[0], markersize=4, linewidth=1)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("predicted", fontsize=8)
        panel.tick_params(labelsize=7)
    for panel in axes[len(curves) :]:
        panel.set_visible(False)
    axes[0].set_ylabel("observed", fontsize=8)
    return figure


def _lengths(card: Scorecard) -> Figure | None:
    tables: dict[str, list[float]] = (card.fidelity or {}).get("lengths") or {}
    if not tables.get("logged"):
        return None
    figure, axes = _figure(3.0)
    for (name, counts), colour in zip(tables.items(), SERIES, strict=False):
        total = sum(tables["logged"]) or 1.0
        alive = 1 - np.cumsum([0.0, *counts])[:-1] / max(total, sum(counts))
        axes.step(np.arange(1, len(alive) + 1), alive, where="post", color=colour, label=name)
    axes.set_xlim(1, min(len(tables["logged"]), 100))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("steps")
    axes.set_ylabel("share of sessions not over before")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _estimates(card: Scorecard) -> Figure | None:
    rows = [row for row in card.rows if any(one.get("value") is not None for one in row.ope_per_step)]
    if not rows:
        return None
    figure, axes = _figure(0.42 * len(rows) + 1.2)
    names = list(dict.fromkeys(one["estimator"] for row in rows for one in row.ope_per_step))
    for place, row in enumerate(rows):
        for one in row.ope_per_step:
            if one.get("value") is None or one["verdict"] == "cannot say":
                continue
            series = names.index(one["estimator"])
            shift = (series - (len(names) - 1) / 2) * 0.16
            number = Number(value=one["value"], low=one["low"], high=one["high"])
            _point(axes, number, place - shift, SERIES[series % len(SERIES)], hollow=one["verdict"] != "supported")
    for series, name in enumerate(names):
        axes.plot([], [], "o", color=SERIES[series % len(SERIES)], label=name, markersize=4)
    axes.set_yticks(range(len(rows)), [row.policy for row in rows])
    axes.set_xlabel("reward of one impression in the logged contexts")
    axes.legend(fontsize=7, frameon=False, loc="best")
    return figure


def _point(axes: Axes, number: Number, place: float, colour: str, *, hollow: bool = False) -> None:
    face = "white" if hollow else colour
    axes.errorbar(
        number.value, place, xerr=_bars(number), fmt="o", color=colour, markerfacecolor=face,
        markersize=5, linewidth=1.4, capsize=2,
    )  # fmt: skip


def _bars(number: Number) -> list[list[float]] | None:
    ends = number.interval
    if ends is None:
        return None
    return [[max(number.value - ends[0], 0)], [max(ends[1] - number.value, 0)]]


def _label(axes: Axes, points: Iterable[tuple[float, float, str]]) -> None:
    """Names beside points, moved up or down until they are apart (in shares of the axes)."""
    placed: list[tuple[float, float]] = []
    axes.margins(x=0.22, y=0.12)
    axes.autoscale_view()
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for x, y, name in sorted(points, key=lambda point: -point[1]):
        across, up = (x - left) / (right - left), (y - bottom) / (top - bottom)
        while any(abs(up - other_up) < 0.055 and abs(across - other) < 0.28 for other, other_up in placed):
            up -= 0.03
        placed.append((across, up))
        axes.annotate(
            name, (x, y), (across + 0.015, up + 0.012), textcoords="axes fraction", fontsize=7.5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.4},
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#9ca3af", "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip


def _legend(axes: Axes, families: set[str]) -> None:
    for family in COLOURS:
        if family in families:
            axes.plot([], [], "o", color=COLOURS[family], label=family, markersize=5)
    axes.legend(fontsize=8, frameon=False, loc="best")
