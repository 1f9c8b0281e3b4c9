"""What off-policy estimates are worth where the truth is known: coverage, ranking, choice, speed, advice."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.bench.ope_coverage import METHODS, VERDICTS, Found, Row, broken, joined, measure_part, parts_of, row_of
from experiments.bench.ope_judge_tables import TITLES, Rows, cells, judged_tables
from experiments.bench.ope_ranking import SCORES, Ranked, rank
from experiments.bench.ope_selection import choose, print_chosen
from experiments.bench.ope_streaming import streamed
from experiments.bench.ope_terms import ONE_STEP, SESSIONS, Estimator, asked, models_of
from experiments.bench.ope_worlds import Log, long_sessions, settings
from experiments.bench.timing import machine
from experiments.pool import run_jobs
from recgym.ope.intervals import Interval, bootstrap_ratio
from recgym.types import IntArray

Part = Literal["coverage", "ranking", "selection", "speed", "judge", "streaming"]
_NO_BOOTSTRAP = ("marginal",)


@dataclass(frozen=True, kw_only=True)
class OpeBench:
    """How off-policy estimators are put to the proof."""

    logs: int = 2_000
    """Simulated logs of each world and size, for coverage."""
    ranked_logs: int = 200
    """Simulated logs of each world and size, for ranking."""
    chosen_logs: int = 100
    """Simulated logs of each world, size and shift, for selection, which takes the first two sizes."""
    judged_logs: int = 200
    """Simulated logs of each world and size, whose report's advice A/B tests judge."""
    sizes: tuple[int, ...] = (300, 3_000, 30_000)
    """Sessions (in the bandit, impressions) of a log."""
    parts: tuple[Part, ...] = ("coverage", "ranking", "selection", "speed")
    """What to measure; "streaming" writes logs to the disk, so it has to be asked for."""
    replicates: int = 400
    """Bootstrap resamples of each log, for coverage."""
    seed: int = 0
    """Seed of the first log of each world and size, for coverage; the next has the next. Other seeds are fresh logs."""
    processes: int = 1
    """Processes that share the logs of coverage; the numbers are the same whatever the count."""
    steps: int = 1_000_000
    """Logged steps, in sessions of 20, for speed."""
    streamed_steps: tuple[int, ...] = (1_000_000,)
    """Logged steps, in sessions of 20, in Parquet files; 10^8 take 5 GB of disk and minutes."""
    out: Path | None = None
    """JSON file for the same numbers."""

    def __post_init__(self) -> None:
        """Check the fields."""
        counts = (self.logs, self.ranked_logs, self.chosen_logs, self.judged_logs, self.replicates)
        if min(counts) < 2:
            raise ValueError(
                f"logs, ranked_logs, chosen_logs, judged_logs and replicates must be at least 2, got {counts}"
            )
        if self.processes < 1 or self.seed < 0:
            raise ValueError(
                f"processes must be at least 1 and seed not negative, got processes {self.processes}, seed {self.seed}"
            )
        if not self.sizes or min(self.sizes) < 30:
            raise ValueError(f"sizes must be at least 30 sessions each, got {self.sizes}")
        if any(steps < 1_000 for steps in self.streamed_steps):
            raise ValueError(f"streamed_steps must be at least 1,000 each, got {self.streamed_steps}")
        if self.steps < 10_000:
            raise ValueError(
                f"steps must be at least 10,000, so that every state is met at every step, got {self.steps}"
            )

    def __call__(self) -> None:
        """Measure, print Markdown, and write JSON where asked."""
        tables: dict[str, list[dict[str, Any]]] = {}
        if "coverage" in self.parts:
            found = self._found()
            rows = [row_of([part], column) for part in found for column in range(len(part.names))]
            pooled = [row for world in settings() for row in _pooled(found, world.name)]
            print_pooled(pooled)
            print_coverage(rows)
            print_broken(rows)
            tables["promise"], tables["coverage"] = [asdict(row) for row in pooled], [asdict(row) for row in rows]
        if "ranking" in self.parts:
            ranked = [
                row for setting in settings() for size in self.sizes for row in rank(setting, size, self.ranked_logs)
            ]
            print_ranking(ranked)
            tables["ranking"] = [asdict(row) for row in ranked]
        if "selection" in self.parts:
            chosen = [
                row for blind in (False, True) for setting in settings() for size in self.sizes[:2]
                for row in choose(setting, size, self.chosen_logs, blind=blind)
            ]  # fmt: skip
            print_chosen(chosen)
            tables["selection"] = [asdict(row) for row in chosen]
        if "speed" in self.parts:
            tables["speed"] = speed(self.steps)
        if "streaming" in self.parts:
            tables["streaming"] = [row for steps in self.streamed_steps for row in streamed(steps)]
            print_streaming(tables["streaming"])
        if "judge" in self.parts:
            judged = judged_tables(self.judged_logs, self.sizes)
            print_judged(judged)
            tables["judge"] = [{"table": name, **line} for name, lines in judged.items() for line in lines]
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(json.dumps(_plain(tables), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def _found(self) -> list[Found]:
        """Coverage of every setting and size, its logs shared by processes."""
        parts = parts_of(
            self.sizes, seed=self.seed, logs=self.logs, replicates=self.replicates, places=range(len(settings()))
        )
        done = dict(run_jobs(measure_part, parts, processes=self.processes, description="coverage"))
        same = [
            [part for part in parts if (part.setting, part.size) == (place, size)]
            for place in range(len(settings()))
            for size in self.sizes
        ]
        return [found for group in same for found in joined([done[part] for part in group])]


def print_pooled(rows: Sequence[Row]) -> None:
    """Coverage by what the diagnostics said, over all sizes and shifts of a world."""
    print(f"\n### Coverage of nominal 95% by verdict ({' / '.join(VERDICTS)}), %\n")
    head = ["world", "estimator", "logs (%)", *METHODS]
    body = [
        [row.world, row.estimator, " / ".join(f"{100 * share:.0f}" for share in row.verdicts),
         *(_cell([100 * share for share in cover[1:]]) for cover in row.cover)]
        for row in rows
    ]  # fmt: skip
    _print(head, body)


def print_coverage(rows: Sequence[Row]) -> None:
    """Every setting: all logs, those judged supported, and the width."""
    print("\n### Coverage of nominal 95%, %: all logs / those judged supported, and mean width (% of the truth)\n")
    head = ["world", "size", "shift", "logs (%)", "estimator", "bias, %", "no estimate, %", *METHODS]
    body = [
        [row.world, row.size, row.shift, " / ".join(f"{100 * share:.0f}" for share in row.verdicts), row.estimator,
         f"{100 * row.bias:+.2f}", f"{100 * row.missing:.1f}",
         *(_cell([100 * share for share in cover[:2]], f" ({100 * width:.3g})")
           for cover, width in zip(row.cover, row.width, strict=True))]
        for row in rows
    ]  # fmt: skip
    _print(head, body)


def print_broken(rows: Sequence[Row]) -> None:
    """Where logs judged supported are covered less than 93%."""
    print("\n### Judged supported, and covered less than 93% (by more than two standard errors)\n")
    body = [
        [row.world, row.size, row.shift, row.estimator, method, f"{100 * share:.1f}",
         f"{row.logs * row.verdicts[0]:.0f}"]
        for row, method, share in broken(rows)
    ]  # fmt: skip
    _print(["world", "size", "shift", "estimator", "interval", "coverage, %", "logs"], body)


def print_ranking(rows: Sequence[Ranked]) -> None:
    """Means over logs with 95% intervals."""
    print("\n### Ranking policies of known value: mean over logs and its 95% interval\n")
    body = [
        [row.world, row.size, row.estimator, f"{100 * row.missing:.1f}",
         *(f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})" for score in row.scores)]
        for row in rows
    ]  # fmt: skip
    _print(["world", "size", "estimator", "no estimate, %", *SCORES], body)


def print_judged(tables: dict[str, Rows]) -> None:
    """What the report advised, and what became of it."""
    for name, lines in tables.items():
        print(f"\n### {TITLES[name]}\n")
        _print(list(lines[0]), [cells(line) for line in lines])


def speed(steps: int, replicates: int = 1000) -> list[dict[str, Any]]:
    """Seconds of each closed-form estimator with its bootstrap, and print them."""
    setting, sessions = long_sessions(), steps // 20
    log = setting.world.draw(setting.logger, sessions, np.random.default_rng(0))
    step_log = Log(
        state=log.state, item=log.item, reward=log.reward, after=log.after, place=log.place,
        episode=np.arange(len(log.state)),
    )  # fmt: skip
    print(f"\n### Speed: {len(log.state):,} steps, {sessions:,} users, {replicates:,} resamples; {machine()}\n")
    found: list[dict[str, Any]] = []
    views: tuple[tuple[str, Log, IntArray, dict[str, Estimator]], ...] = (
        ("impressions", step_log, log.episode, ONE_STEP),
        ("sessions", log, np.arange(sessions), SESSIONS),
    )
    for view, seen, users, estimators in views:
        question = asked(setting, seen, setting.targets["mild"], models_of(setting, seen))
        for name, estimator in estimators.items():
            wall, core = time.perf_counter(), time.process_time()
            terms = estimator(question)
            if name not in _NO_BOOTSTRAP:
                below = np.ones_like(terms.above) if terms.below is None else terms.below
                bootstrap_ratio(terms.above, below, users, seed=0, replicates=replicates)
            wall, core = time.perf_counter() - wall, time.process_time() - core
            found.append({"view": view, "estimator": name, "wall_seconds": wall, "core_seconds": core})
    _print(
        ["per", "estimator", "seconds of a core", "seconds of the wall"],
        [
            [row["view"], row["estimator"] + (" (no bootstrap)" if row["estimator"] in _NO_BOOTSTRAP else ""),
             f"{row['core_seconds']:.2f}", f"{row['wall_seconds']:.2f}"]
            for row in found
        ],
    )  # fmt: skip
    return found


def print_streaming(rows: Sequence[dict[str, Any]]) -> None:
    """Time and memory of each estimator from files."""
    print(f"\n### From Parquet, bootstrap of 1,000 and verdict included, each in a fresh process; {machine()}\n")
    _print(
        ["steps", "per", "estimators", "seconds of a core", "seconds of the wall", "most memory, GB", "of it before"],
        [
            [f"{row['steps']:,}", row["per"], row["estimator"], f"{row['core_seconds']:.2f}",
             f"{row['wall_seconds']:.2f}", f"{row['most_gigabytes']:.2f}", f"{row['start_gigabytes']:.2f}"]
            for row in rows
        ],
    )  # fmt: skip


def _pooled(found: Sequence[Found], world: str) -> list[Row]:
    here = [part for part in found if part.setting[0] == world]
    return [row_of(here, column) for column in range(len(here[0].names))]


def _cell(shares: Sequence[float], words: str = "") -> str:
    if all(math.isnan(share) for share in shares):
        return "–"
    return " / ".join("–" if math.isnan(share) else f"{share:.1f}" for share in shares) + words


def _print(head: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    for row in (head, ["---"] * len(head), *body):
        print("| " + " | ".join(row) + " |")


def _plain(value: Any) -> Any:
    """The same for JSON, which has no nan: null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Interval):
        return _plain(asdict(value))
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
