"""What a policy's long-term reward costs in ranking and in breadth: two planes, and the table behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents import BASELINES
from experiments.plots import COLOURS
from recgym.ope.intervals import Interval

_LINE = 0.028
"""Height of a name, as a share of the axis."""
_LETTER = 0.0125
"""Width of a letter of a name, likewise."""
HEAD = ("policy", "independent reward", "minus today's ranker", "trained in", "NDCG@10", "minus today's", "HR@10")


def table(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """One run as a Markdown table, best independent reward first."""
    lines = [
        f"### {name}",
        "",
        "| " + " | ".join((*HEAD, "coverage", "minutes")) + " |",
        "|---" * (len(HEAD) + 2) + "|",
    ]
    for policy in sorted(rows, key=lambda policy: -rows[policy]["independent"].value):
        row, trained = rows[policy], policy not in BASELINES
        keys = ("independent", "independent minus backbone-greedy", "trained in", "ndcg@10",
                "ndcg@10 minus backbone-greedy", "hr@10")  # fmt: skip
        cells = [f"**{policy}**" if trained else policy]
        cells += [_cell(row[key], sign="minus" in key, digits=4 if "@" in key else 3) for key in keys]
        cells += [f"{row['coverage']:.0%}", f"{row['minutes']:.1f}" if "minutes" in row else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def planes(name: str, rows: dict[str, dict[str, Any]]) -> Figure:
    """Independent reward against NDCG@10, and against the share of the catalogue that was shown."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for policy, row in rows.items():
        reward, ranking = row["independent"], row["ndcg@10"]
        colour = COLOURS["trivial" if policy in BASELINES else "trained"]
        high = [[max(0.0, reward.value - reward.low)], [max(0.0, reward.high - reward.value)]]
        wide = [[max(0.0, ranking.value - ranking.low)], [max(0.0, ranking.high - ranking.value)]]
        left.errorbar(ranking.value, reward.value, yerr=high, xerr=wide, fmt="o", color=colour, elinewidth=0.8)
        right.errorbar(row["coverage"], reward.value, yerr=high, fmt="o", color=colour, elinewidth=0.8)
    _name(left, {policy: (row["ndcg@10"].value, row["independent"].value) for policy, row in rows.items()})
    _name(right, {policy: (row["coverage"], row["independent"].value) for policy, row in rows.items()})
    today = rows["backbone-greedy"]
    for axes, place in ((left, today["ndcg@10"].value), (right, today["coverage"])):
        _cross(axes, place, today["independent"].value)
    left.set(
        xlabel="NDCG@10 on held-out choices, full ranking", ylabel="reward per session, independent users", title=name
    )
    right.set(xlabel="share of the catalogue that was shown", title="dashed: today's ranker; blue: trained")
    return figure


def save(figure: Figure, file: Path) -> None:
    """Write the figure as a picture."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _name(axes: Axes, places: dict[str, tuple[float, float]]) -> None:
    """Write each name beside its point (across, up), moved up where it would cover another."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    line, letter = _LINE * (high - low), _LETTER * (right - left)
    written: list[tuple[float, float, float]] = []  # height, and from where to where across
    for name, (across, up) in sorted(places.items(), key=lambda one: one[1][1]):
        height, end = up, across + (len(name) + 3) * letter
        while any(abs(height - other) < line and across < last and first < end for other, first, last in written):
            height += line / 4
        written.append((height, across, end))
        axes.annotate(
            name, (across, up), xytext=(8, height), textcoords=("offset points", "data"), fontsize=7, va="center",
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#9ca3af"}, zorder=5,
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5},
        )  # fmt: skip
    axes.set_ylim(low, max(high, max(height for height, _, _ in written) + line))
    axes.set_xlim(left, max(right, max(end for _, _, end in written)))


def _cross(axes: Axes, across: float, up: float) -> None:
    axes.axvline(across, color="#9ca3af", linestyle="--", linewidth=0.8)
    axes.axhline(up, color="#9ca3af", linestyle="--", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _cell(found: Interval, *, sign: bool, digits: int) -> str:
    plus = "+" if sign else ""
    style = f"{plus}.{digits}f"
    return f"{found.value:{style}} [{found.low:{style}}, {found.high:{style}}]"
