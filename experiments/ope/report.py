"""The report on logs alone: from files and policies to `appraisal.json`, without any training in recgym."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.ope.diagnostics import sections, with_doubts
from experiments.ope.document import document, jsonable
from experiments.ope.log import Missing, read_catalogue, read_rows
from experiments.ope.page import write_pages
from experiments.ope.policies import Candidate, candidate, sources
from experiments.ope.propensities import Propensities, complete, effect
from experiments.ope.rows import LogColumns, LoggedRows
from experiments.ope.steps import by_popularity, segments, transitions
from experiments.ope.stretches import settled
from experiments.runs import Run, commit, plain, versions
from recgym.files import write_json
from recgym.logs.tables import OnBadRows
from recgym.ope import off_policy
from recgym.ope.appraisal import Appraisal, AppraisalConfig, appraise
from recgym.ope.diagnostics import Question
from recgym.ope.doubts import doubted
from recgym.ope.evidence import Evidence, Per, gather
from recgym.ope.fqe import FitConfig, Values
from recgym.ope.off_policy import ModelConfig
from recgym.ope.views import single_steps
from recgym.ope.weights import SupportError
from recgym.types import DoubleArray, Transitions

FITTING = FitConfig(rounds=20, updates=40)
"""Of the networks behind DM, DR and FQE."""


@dataclass(frozen=True, kw_only=True)
class LogReport:
    """What is asked of a log, and of which policies."""

    logs: Path | None = None
    """A log to judge policies on, without a run: CSV or Parquet, one row an impression, or a published format."""
    policies: tuple[str, ...] = ()
    """With --logs, each NAME=SOURCE: column:NAME, uniform, frequencies, logged, a table of item[,position],probability,
    module:function, the log of an Open Bandit policy, or a recgym policy's folder."""
    format: str = "auto"
    """Of the log: flat, open-bandit, recgym, ...; auto looks at its files and columns."""
    columns: LogColumns = field(default_factory=LogColumns)
    """Columns of a flat log."""
    on_bad_rows: OnBadRows = "error"
    """error: name the first bad row; drop: drop and count bad rows."""
    propensities: Missing = "logged"
    """logged: weigh only where all propensities are logged; estimate: put a model in place of missing ones."""
    per: Literal["auto", "session", "step", "both"] = "auto"
    """Value of a session, of one impression, or both; auto: sessions, where the log has any of several steps."""
    segments: tuple[str, ...] = ()
    """Columns whose values divide the log, beside user, time, position and item popularity."""
    encoder: Path | None = None
    """Folder of the backbone whose states recgym policies read, such as RUN/backbone."""
    catalogue: Path | None = None
    """Table whose column item names all items in the order of their ids; without: the items that the log shows."""
    estimator: str = "default"
    """Which estimator speaks for a policy."""
    discount: float = 1.0
    """Per step of a session."""
    level: float = 0.95
    """Of the intervals."""
    replicates: int = 1000
    """Resamples of users."""
    seed: int = 0
    """Of resamples and models."""

    def question(self, per: Per) -> AppraisalConfig:
        """What is asked per session or step."""
        asked = Question(
            per=per, discount=self.discount if per == "session" else 1.0, level=self.level, replicates=self.replicates,
            seed=self.seed,
        )  # fmt: skip
        return AppraisalConfig(question=asked, estimator=self.estimator)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A log, the policies along it, and what is known of its logger."""

    rows: LoggedRows
    candidates: tuple[Candidate, ...]
    propensities: Propensities


def read(settings: LogReport) -> Reading:
    """Read the log and everything that is to be judged on it.

    Raises:
        ValueError: there is no log or policy, or one of them is not what it should be.
    """
    if settings.logs is None:
        raise ValueError("a report on logs needs --logs")
    named = sources(settings.policies)
    rows = read_rows(
        settings.logs,
        settings.columns,
        format=settings.format,
        on_bad_rows=settings.on_bad_rows,
        missing=settings.propensities,
        keep=None if any(one.called for one in named) else settings.segments,
        probabilities=tuple(dict.fromkeys(one.column for one in named if one.column is not None)),
        catalogue=None if settings.catalogue is None else read_catalogue(settings.catalogue),
    )
    if rows.user.max() < 1:
        raise ValueError(
            f"{settings.logs}: all {len(rows.item):,} rows are of one user, but an interval needs two; log more"
        )
    found = complete(rows, transitions(rows), estimate=settings.propensities == "estimate", seed=settings.seed)
    known = tuple(candidate(one, rows, encoder=settings.encoder) for one in named)
    return Reading(rows=rows, candidates=known, propensities=found)


def judge(reading: Reading, settings: LogReport, per: Per) -> tuple[Appraisal, dict[str, Any]]:
    """All policies on the log, per session or step, with their segments; and the sections of the diagnostics.

    Production has no difference to itself, and is no one of the policies whose intervals hold together.
    """
    rows, config = reading.rows, settings.question(per)
    labels = segments(rows, per, settings.segments)
    evidence = {one.name: _evidence(one, reading, config.question) for one in reading.candidates}
    own = [one.name for one in reading.candidates if one.target is None]
    groups = [[seen for name, seen in evidence.items() if (name in own) == mine] for mine in (False, True)]
    parts = [appraise(group, config, segments=labels) for group in groups if group]
    found = {one.policy: one for part in parts for one in part.policies}
    for name in own:
        found[name] = replace(found[name], difference=None, statement=None, test=None)
    if per == "step":
        found = {name: by_popularity(evidence[name], one, rows, config.question) for name, one in found.items()}
    appraisal = replace(parts[0], policies=tuple(found[name] for name in evidence))
    if guessed := reading.propensities.words:  # estimated propensities: weights that nothing in the log confirms
        appraisal = doubted(appraisal, {name: guessed for name in evidence if name not in own})
    made = sections(
        list(evidence.values()), appraisal, time=rows.time, propensity=reading.propensities.logged.propensity,
        item=rows.item, names=rows.items, covariates=_covariates(rows), seed=settings.seed,
    )  # fmt: skip
    return with_doubts(appraisal, made), made


def _covariates(rows: LoggedRows) -> dict[str, DoubleArray]:
    """What is settled before each impression: time, history, position and context."""
    found = settled(rows.time, rows.user_of_row, rows.episode, rows.reward)
    if rows.position is not None:
        found["position"] = rows.position.astype(np.float64)
    if rows.features is not None:  # those first that part the rows most evenly
        evenness = rows.features.std(axis=0) / np.maximum(np.ptp(rows.features, axis=0), 1e-12)
        found |= {rows.feature_names[place]: rows.features[:, place] for place in np.argsort(-evenness, kind="stable")}
    return found


def model_values(
    one: Candidate, logged: Transitions, rows: LoggedRows, question: Question
) -> tuple[Values | None, tuple[str, ...], str]:
    """A model's Q and V along the log with what to know of it, or None and why there is none."""
    if one.target is None:
        return None, (), "production needs no model: what it earned is in the log"
    step = question.per == "step"
    config = ModelConfig(fitting=FITTING, seed=question.seed)
    try:
        values, words = off_policy.model_values(
            single_steps(logged) if step else logged, one.target, per=question.per, discount=question.discount,
            config=config, position=rows.position if step else None,
        )  # fmt: skip
    except SupportError as reason:
        return None, (), str(reason)
    return values, words, ""


def write_log_report(settings: LogReport, out: Path) -> Path:
    """Write `appraisal.json`, and the pages made of it, into the folder `out`; print the verdicts."""
    run, started = Run(out), time.perf_counter()
    with run.stage("report", settings) as notes:
        reading = read(settings)
        rows = reading.rows
        judged, diagnosed = zip(*(judge(reading, settings, per) for per in _asked(settings, rows)), strict=True)
        notes["data"] = list(rows.hashes)
        found = _document(reading, settings, judged, diagnosed)
        found["provenance"] = {
            "command": " ".join(["python -m experiments", *sys.argv[1:]]), "versions": versions(), "commit": commit(),
            "seconds": round(time.perf_counter() - started, 2),
        }  # fmt: skip
        write_json(run.appraisal, found)
        for page in write_pages(found, out):
            print(f"report: {page.resolve()}")
    for note in rows.notes:
        print(f"note: {note}")
    for repair in rows.repairs:
        print(f"note: {repair.rule}: {repair.count} (for example {repair.example})")
    for one in judged:
        print(verdicts(one))
    return run.appraisal


def verdicts(found: Appraisal) -> str:
    """A plain table: who is judged how, by which estimate."""
    unit = "a session" if found.per == "session" else "an impression"
    earned = found.production
    lines = [
        f"\nvalue of {unit}; production earned {earned.value:.4g} [{earned.low:.4g}, {earned.high:.4g}] "
        f"({found.episodes:,} {'sessions' if found.per == 'session' else 'impressions'}, {found.users:,} users)"
    ]
    table = [("policy", "estimator", "value", "minus production", "ESS", "verdict")]
    for one in found.policies:
        best, more = one.estimate, one.difference
        value = f"{best.value:.4g} [{best.low:.4g}, {best.high:.4g}]" if math.isfinite(best.value) else "n/a"
        minus = f"{more.value:+.4g} [{more.low:+.4g}, {more.high:+.4g}]" if more is not None else "n/a"
        size = f"{one.support.effective_sample_size:.0f}" if one.support else "n/a"
        table.append((one.policy, one.chosen, value, minus, size, best.verdict))
    width = [max(len(line[place]) for line in table) for place in range(len(table[0]))]
    lines += ["  ".join(cell.ljust(size) for cell, size in zip(line, width, strict=True)).rstrip() for line in table]
    for one in found.policies:
        said = dict.fromkeys((*one.words, *one.estimate.warnings))
        lines += [f"{one.policy}: {'; '.join(said)}"] if said else []
    return "\n".join(lines)


def _asked(settings: LogReport, rows: LoggedRows) -> list[Per]:
    """Whether values are of sessions, of impressions, or both."""
    if settings.per == "both":
        return ["session", "step"]
    longer = len(rows.user) < len(rows.item)
    return ["session"] if settings.per == "session" or (settings.per == "auto" and longer) else ["step"]


def _evidence(one: Candidate, reading: Reading, question: Question) -> Evidence:
    """One policy against the log; production's own weights are 1, whatever is known of it."""
    rows, known = reading.rows, reading.propensities
    logged, ones = known.logged, np.ones(len(rows.item))
    values, more, why = model_values(one, logged, rows, question)
    view = replace(logged, propensity=ones) if one.target is None else logged
    chosen = ones if one.target is None else one.target.chosen()
    found = gather(
        view, chosen, policy=one.name, per=question.per, discount=question.discount, values=values, no_values=why,
        words=(*one.notes, *more),
    )  # fmt: skip
    no_ratios = known.no_ratios if found.ratios is None and known.no_ratios else found.no_ratios
    return replace(found, reward=rows.reward, no_ratios=no_ratios)


def _document(
    reading: Reading, settings: LogReport, judged: Sequence[Appraisal], diagnosed: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Everything that pages are made of."""
    rows, known = reading.rows, reading.propensities
    question = settings.question("step").question
    effects = {
        one.name: asdict(made)
        for one in reading.candidates
        if one.target is not None and (made := effect(known, rows, one.target.chosen(), question)) is not None
    }
    log = {
        "name": rows.name, "rows": len(rows.item), "episodes": len(rows.user), "users": len(np.unique(rows.user)),
        "named_users": bool(rows.users), "items": rows.num_items, "positions": rows.positions, "reward": rows.weights,
        "features": rows.feature_names, "repairs": [asdict(one) for one in rows.repairs], "notes": rows.notes,
        "from": None if rows.time is None else rows.time.min(), "to": None if rows.time is None else rows.time.max(),
        "files": [{"path": str(path), "sha256": found} for path, found in zip(rows.files, rows.hashes, strict=True)],
    }  # fmt: skip
    about: dict[str, Any] = jsonable({
        "log": log, "settings": plain(settings),
        "policies": [{"name": one.name, "source": one.source, "notes": one.notes} for one in reading.candidates],
        "propensities": {**known.facts, "effect": effects},
        "source": {"reward": _unit(rows.weights), "facts": _facts(reading)},
    })  # fmt: skip
    found = document(judged, diagnosed) | about
    found["notes"] = [*rows.notes, *(f"{one.rule}: {one.count}" for one in rows.repairs), *(found.get("notes") or [])]
    return found


def _unit(weights: Mapping[str, float]) -> str:
    """What a unit of reward is called: a kind of feedback in the plural, or reward."""
    (name, weight), *more = weights.items()
    return f"{name}s" if not more and weight == 1 and name != "reward" else "reward"


def _facts(reading: Reading) -> list[list[str]]:
    """What the log is and what is asked of it, for the end of the page."""
    rows = reading.rows
    facts = [
        ["log", f"{rows.name}: {len(rows.item):,} impressions of {rows.num_items:,} items, {len(rows.user):,} sessions"]
    ]
    if rows.time is not None:
        first, last = (
            datetime.fromtimestamp(int(when), UTC).isoformat(" ") for when in (rows.time.min(), rows.time.max())
        )
        facts.append(["time (UTC)", f"{first} to {last}"])
    facts.append(["reward", ", ".join(f"{weight:g} per {name}" for name, weight in rows.weights.items())])
    facts.append(["what models see", ", ".join(rows.feature_names) or "item and position alone"])
    facts += [[f"policy {one.name}", "; ".join((one.source, *one.notes))] for one in reading.candidates]
    return facts + [[f"SHA-256 of {path.name}", made] for path, made in zip(rows.files, rows.hashes, strict=True)]
