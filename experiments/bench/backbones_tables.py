"""Tables of next-item ranking: Markdown to read, CSV and JSON to compute with; every title holds the whole protocol."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.backbones_protocols import Questions, Ranking
from experiments.bench.backbones_runs import Ran
from recgym.backbones.epochs import best_epoch
from recgym.files import write_bytes, write_json
from recgym.metrics import hit_rate, ndcg
from recgym.ope.intervals import Interval, seeds_and_users, t_interval
from recgym.types import DoubleArray, IntArray

FORMAT, VERSION = "recgym-bench-backbones-table", 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model; means are over seeds and targets."""

    model: str
    loss: str
    size: str
    seeds: int
    hr: float
    ndcg: Interval
    """95% over users, who each count with the mean of the seeds."""
    over_seeds: Interval | None
    """95% over trainings, for these users; none for one training."""
    difference: Interval | None
    """NDCG minus the first row's, paired by user and by seed, 95% over users and, of more than one, trainings.

    None for the first row. A baseline, which has no seed, is compared with every training.
    """
    epochs: float
    """Until the best one, mean over seeds; 0 for a baseline."""
    seconds: float
    """Of the whole training, mean over seeds."""
    reached: float
    """Mean seconds of training until the validation NDCG@10 was what the head says; inf: not in every training."""


def make_rows(
    found: Sequence[Sequence[Ran]], users: IntArray, ranking: Ranking, *, cutoff: int, reach: float
) -> list[Row]:
    """A row for each model.

    Args:
        found: for each model its runs, one a seed with seed 0 among them; for a baseline one.
        users: (Q,) who each target belongs to.
        ranking: which of the runs' ranks.
        cutoff: k of HR@k and NDCG@k.
        reach: validation NDCG@10 whose time is told.
    """
    rows: list[Row] = []
    for runs in found:
        values = _values(runs, ranking, cutoff)  # (S, Q)
        count = len(runs)
        rows.append(Row(
            model=runs[0].name, loss=runs[0].loss, size=runs[0].size, seeds=count,
            hr=float(np.mean([hit_rate(run.ranks[ranking], cutoff).mean() for run in runs])),
            ndcg=t_interval(values.mean(0), users),
            over_seeds=t_interval(values.mean(1), np.arange(count)) if count > 1 else None,
            difference=_difference(runs, found[0], users, ranking, cutoff) if rows else None,
            epochs=float(np.mean([len(run.curve) and best_epoch(run.curve) + 1 for run in runs])),
            seconds=float(np.mean([run.seconds for run in runs])),
            reached=float(np.mean([run.seconds_to(reach) for run in runs])),
        ))  # fmt: skip
    return rows


def markdown(title: str, rows: Sequence[Row], *, cutoff: int, reach: float) -> str:
    """The table as Markdown."""
    head = (
        "model", "loss", "size", "seeds", f"HR@{cutoff}", f"NDCG@{cutoff} [95% over users]", "[95% over seeds]",
        f"minus {rows[0].model} [95%, paired]", "epochs", "seconds", f"to validation NDCG@10 {reach:.4f}",
    )  # fmt: skip
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = (
            row.model, row.loss, row.size, str(row.seeds), f"{row.hr:.4f}", _value(row.ndcg),
            _ends(row.over_seeds), _value(row.difference, "+"),
            f"{row.epochs:.0f}", f"{row.seconds:.1f}",
            "" if not row.epochs else f"{row.reached:.1f} s" if math.isfinite(row.reached) else "not reached",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def write_tables(
    found: Sequence[Sequence[Ran]], questions: Questions, ranking: Ranking, *, reach: float, folder: Path
) -> str:
    """Write `<ranking>.md`, `.csv` and `.json` into `folder`; the Markdown.

    The JSON holds every number of the CSV, the protocol and each training's curve.
    """
    cutoff, title = questions.cutoff, questions.title(ranking)
    rows = make_rows(found, questions.users, ranking, cutoff=cutoff, reach=reach)
    text = markdown(title, rows, cutoff=cutoff, reach=reach)
    flat = [_flat(asdict(row)) for row in rows]
    table = io.StringIO()
    writer = csv.DictWriter(table, ["protocol", *flat[0]])
    writer.writeheader()
    writer.writerows({"protocol": title, **row} for row in flat)
    curves = {f"{run.name}, seed {run.seed}": run.curve for runs in found for run in runs if run.curve}
    about = {"format": FORMAT, "version": VERSION, "protocol": title, "cutoff": cutoff, "reach": reach}
    write_bytes(folder / f"{ranking}.md", text.encode())
    write_bytes(folder / f"{ranking}.csv", table.getvalue().encode())
    write_json(folder / f"{ranking}.json", {**about, "rows": flat, "curves": curves})
    return text


def _difference(runs: Sequence[Ran], first: Sequence[Ran], users: IntArray, ranking: Ranking, cutoff: int) -> Interval:
    """Of trainings from the same seeds; repeating one beside others would hide how far it could have differed."""
    if runs[0].curve and first[0].curve:
        both = {run.seed for run in runs} & {run.seed for run in first}
        runs, first = ([run for run in part if run.seed in both] for part in (runs, first))
    return seeds_and_users(_values(runs, ranking, cutoff) - _values(first, ranking, cutoff), users)


def _values(runs: Sequence[Ran], ranking: Ranking, cutoff: int) -> DoubleArray:
    return np.stack([ndcg(run.ranks[ranking], cutoff) for run in runs])


def _value(found: Interval | None, sign: str = "") -> str:
    return f"{found.value:{sign}.4f} {_ends(found, sign)}" if found else ""


def _ends(found: Interval | None, sign: str = "") -> str:
    return f"[{found.low:{sign}.4f}, {found.high:{sign}.4f}]" if found else ""


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Intervals as columns of their own; None where a number is not known."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name in ("ndcg", "over_seeds", "difference"):
            known = value or {}
            flat |= {f"{name}_{end}": known.get(end) for end in ("value", "low", "high")}
        else:
            flat[name] = None if isinstance(value, float) and not math.isfinite(value) else value
    return flat
