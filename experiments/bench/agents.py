"""The agents in worlds with a known answer, beside the trivial policies and the ceiling: one table a world."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments import tradeoffs
from experiments.contest import Contest
from experiments.learned_contest import LearnedContest
from experiments.presets import PRESETS
from experiments.runs import plain, versions
from recgym.files import write_bytes, write_json
from recgym.ope.intervals import Interval
from simulators import WORLDS

HEAD = ("policy", "reward", "minus rule", "minus myopic", "minus random", "steps", "minutes")


@dataclass(frozen=True, kw_only=True)
class AgentsBench:
    """Train and score agents in known worlds; what stands in `contest.out` is kept, so an interrupted bench goes on."""

    worlds: tuple[str, ...] = ()
    """Which worlds; none: all that have presets and need no files, and those with files where --path is given."""
    contest: Contest = field(default_factory=lambda: Contest(out=Path("runs/bench-agents")))
    """Who competes, and how they are scored."""
    runs: tuple[Path, ...] = ()
    """Run folders that `fit` wrote: agents compete in their learned users too, and there alone if no world is named."""
    learned: LearnedContest = field(default_factory=LearnedContest)
    """Who competes in learned users."""
    markdown: Path | None = None
    """Write the tables here too; trade-off plots of the runs go beside it."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in self.worlds:
            if name not in WORLDS:
                raise ValueError(f"no world is called {name!r}; there are {', '.join(sorted(WORLDS))}")

    def __call__(self) -> None:
        """Run the benchmark."""
        worlds = self.worlds or tuple(
            name for name in PRESETS if self.contest.path is not None or not WORLDS[name].files
        )
        parts: list[str] = []
        figures: dict[str, Any] = {}
        for world in worlds if self.worlds or not self.runs else ():
            rows = self.contest.in_world(world)
            figures[world] = {name: _plain(row) for name, row in rows.items()}
            parts.append(table(world, rows, self.contest))
            print(parts[-1], flush=True)
        for folder in self.runs:
            rows = self.learned.run(folder)
            figures[folder.name] = {name: _plain(row) for name, row in rows.items()}
            parts.append(tradeoffs.table(folder.name, rows))
            print(parts[-1], flush=True)
            beside = self.contest.out if self.markdown is None else self.markdown.parent
            tradeoffs.save(tradeoffs.planes(folder.name, rows), beside / f"tradeoffs-{folder.name}.png")
        about = {"format": "recgym-agents", "version": 1, "versions": versions(), "settings": plain(self)}
        write_json(self.contest.out / "agents.json", {**about, "tables": figures})
        if self.markdown is not None:
            write_bytes(self.markdown, ("\n".join(parts)).encode())


def table(world: str, rows: dict[str, dict[str, Any]], contest: Contest) -> str:
    """One world as a Markdown table, best reward first."""
    lines = [
        f"### {world}",
        f"slate {WORLDS[world].slate_size}, {contest.sessions} sessions, {contest.seeds} seeds; 95% intervals over "
        f"seeds and users, differences on the same users. {WORLDS[world].source}".rstrip(),
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---" * len(HEAD) + "|",
    ]
    for name in sorted(rows, key=lambda name: -rows[name]["reward"].value):
        row = rows[name]
        trained = "steps" in row
        cells = [f"**{name}**" if trained else name, _cell(row["reward"])]
        cells += [_cell(row[column], sign=True) for column in HEAD[2:5]]
        minutes = row.get("minutes")
        cells += [f"{row['steps']:,}" if trained else "", "" if minutes is None else f"{minutes:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _cell(found: Interval, *, sign: bool = False) -> str:
    largest = max(abs(found.value), abs(found.low), abs(found.high))
    style = ("+" if sign else "") + (".0f" if largest >= 1000 else ".1f" if largest >= 10 else ".2f")
    return f"{found.value:{style}} [{found.low:{style}}, {found.high:{style}}]"


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: vars(value) if isinstance(value, Interval) else value for key, value in row.items()}
