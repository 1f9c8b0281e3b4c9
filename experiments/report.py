"""The report: one self-contained page, verdict first, with the scorecard's numbers and nothing from elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from experiments import trust
from experiments.audit import read_audit
from experiments.lives import MEASURES, read_lives
from experiments.lives import table as lives_table
from experiments.ope.report import LogReport, write_log_report
from experiments.ope.run_page import FOLDER, write_run_pages
from experiments.plots import ladder_plot, plots, to_svg
from experiments.runs import Run
from experiments.scorecard import Number, Row, Scorecard, read_scorecard
from experiments.verdict import best_trivial, verdict
from recgym.files import read_json, write_bytes

Table = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html from the scorecard of a run folder; or, with --logs, judge policies on logs alone."""

    out: Path
    """Run folder; with --logs, the folder to write into."""
    alone: Annotated[LogReport, tyro.conf.arg(name="")] = field(default_factory=LogReport)
    """What to ask of logs alone."""

    def __call__(self) -> None:
        """Run the stage."""
        if self.alone.logs is not None:
            print(f"report: {write_log_report(self.alone, self.out).resolve()}")
            return
        if self.alone.policies:
            raise ValueError("--policies are judged on a log: give it by --logs")
        print(f"report: {write_report(Run(self.out)).resolve()}")


def write_report(run: Run) -> Path:
    """Write `report.html` into the run folder.

    Raises:
        FormatError: the scorecard is missing (with the command that makes it) or foreign.
    """
    card = read_scorecard(run.need(run.scorecard, "evaluate"))
    audit = read_audit(run.folder) if (run.folder / "audit.json").exists() else None
    ladder = read_json(run.ladder, format="recgym-ladder", version=1) if run.ladder.exists() else None
    lives = read_lives(run.folder) if (run.folder / "lives.json").exists() else None
    if run.appraisal.exists():
        write_run_pages(run, card, _facts(card), audit, ladder)
    write_bytes(run.report, render(card, run.config(), audit, ladder, lives, logs=run.appraisal.exists()).encode())
    return run.report


def render(
    card: Scorecard,
    config: dict[str, Any],
    audit: dict[str, Any] | None = None,
    ladder: dict[str, Any] | None = None,
    lives: dict[str, Any] | None = None,
    *,
    logs: bool = False,
) -> str:
    """The page as HTML.

    Args:
        card: what `evaluate` found.
        config: what the stages wrote about themselves, as of `Run.config`.
        audit: what the exploitation audit found, where it was run.
        ladder: what the ladder found, where its `ladder.json` stands in the run folder.
        lives: what lives of several sessions brought, where they were lived.
        logs: whether the page of what the logs alone say stands beside it.
    """
    environment = Environment(
        loader=PackageLoader("experiments"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.jinja").render(
        card=card,
        verdict=verdict(card),
        plots=[(title, hint, Markup(svg)) for title, hint, svg in plots(card)],
        tables=[*tables(card), *([_lives(lives)] if lives else [])],
        shown=card.shown,
        fidelity=card.fidelity or {},
        trust=_trust(card, audit, ladder),
        logs=f"{FOLDER}/report.html" if logs else None,
        facts=_facts(card),
        stages=config.get("stages", {}),
        config=config,
        config_json=json.dumps(config.get("stages", {}), indent=1),
    )


def _lives(lives: dict[str, Any]) -> Table:
    """The table of lives."""
    return {
        "title": f"Lives of {lives['days']:g} days",
        "note": "Users leave, and come back or not. Value: reward of all sessions. Day n: share with a session begun "
        "in the 24 hours that start n days after the first. Truth: the world that made the log, where known.",
        "columns": ["policy", "users", *MEASURES],
        "rows": lives_table(lives),
    }


def _trust(card: Scorecard, audit: dict[str, Any] | None, ladder: dict[str, Any] | None) -> dict[str, Any]:
    """What the page's part on trust shows."""
    fidelity = card.fidelity or {}
    places = list(audit["rows"][0]["reward"]) if audit else []
    found: list[Table] = [
        {
            "title": "Held-out calibration",
            "note": "On test sessions, which trained and calibrated nothing. ECE: mean distance of predicted chance "
            "and observed rate over ten groups; noise: what chance alone would make it, were every prediction right.",
            "columns": ["behaviour", "cases", "logged", "simulated", "off by", "ECE", "noise", "tells apart"],
            "rows": trust.calibration(fidelity),
        },
        {
            "title": "Where the ensemble disagrees",
            "note": "Standard deviation over models fitted to resampled sessions, a unit of simulated reward.",
            "columns": ["policy", "disagreement"],
            "rows": trust.doubts(card.rows),
        },
        {
            "title": "Exploitation audit",
            "note": "Reward in the users trained in, in users learned from other people, and in the truth where it is "
            "known; then how much more is earned in the first. Intervals over seeds and users.",
            "columns": ["policy", *places, *(f"more than in {place}" for place in places[1:])],
            "rows": trust.audit_rows(audit) if audit else [],
        },
        {
            "title": "The ladder, measured on a known world",
            "note": "Learned users rank policies as the truth does (Spearman); regret of taking their favourite, as a "
            "share of the way from worst to best; over-estimation of that favourite, and of all policies.",
            "columns": ["logged sessions", "explored", "Spearman", "regret", "over-estimation", "of all"],
            "rows": trust.ladder_rows(ladder) if ladder else [],
        },
    ]
    return {
        "findings": trust.findings(card, audit, ladder),
        "alarms": trust.alarms(card, audit),
        "measures": trust.measures(fidelity),
        "tables": [table for table in found if table["rows"]],
        "plot": Markup(to_svg(ladder_plot(ladder))) if ladder and ladder.get("summary") else None,
    }


def tables(card: Scorecard) -> list[Table]:
    """Every table: title, note, columns and rows of text."""
    rows = sorted(card.rows, key=lambda row: -(row.reward.value if row.reward.known else float("-inf")))
    simple = best_trivial(card)
    other = simple if simple and simple.policy != card.reference else None
    against = f"minus {simple.policy}" if simple else ""
    cutoffs = list(dict.fromkeys(name for row in rows for name in row.ranking))
    kinds = list(dict.fromkeys(name for row in rows for name in row.rates))
    level = f"{card.level:.0%}"
    reward: Table = {
        "title": "Reward per simulated session",
        "note": f"Brackets are {level} intervals over training seeds and users, who are the same for every policy. "
        f"Discounted by {card.discount:g} a step. Truth: the same policy in the world that made the log, where known.",
        "columns": ["policy", "seeds", "reward", f"minus {card.reference}", *([against] if other else []), "discounted",
                    "steps",
                    *(f"{kind} per step" for kind in kinds), "truth", f"truth minus {card.reference}"],
        "rows": [
            [row.policy, str(row.seeds), show(row.reward), show(row.difference),
             *([show(row.against.get(other.policy))] if other else []), show(row.discounted), show(row.depth),
             *(show(row.rates.get(kind)) for kind in kinds), show(row.truth), show(row.truth_difference)]
            for row in rows
        ],
    }  # fmt: skip
    ranking: Table = {
        "title": "Next-item ranking on held-out choices, against all items",
        "note": "HR@k and NDCG@k of one target a question.",
        "columns": ["policy", *(name.upper() for name in cutoffs), f"NDCG@10 minus {card.reference}"],
        "rows": [
            [row.policy, *(show(row.ranking.get(name)) for name in cutoffs), show(row.ranking_difference)]
            for row in rows if row.ranking
        ],
    }  # fmt: skip
    sampled: Table = {
        "title": "The same against 100 sampled negatives",
        "note": "For comparison with published tables only: it can order rankers differently from full ranking.",
        "columns": ["policy", *(name.upper() for name in cutoffs)],
        "rows": [[row.policy, *(show(row.sampled.get(name)) for name in cutoffs)] for row in rows if row.sampled],
    }
    exposure: Table = {
        "title": "What is shown, and how fast",
        "note": "Coverage: share of the catalogue shown. Gini: 0 equal exposure, 1 one item. Novelty in bits. "
        "Diversity within a session. Popularity percentile of what is shown. Latency: one decision, one core.",
        "columns": ["policy", "coverage", "Gini", "novelty", "diversity", "popularity", "p50 ms", "p99 ms"],
        "rows": [
            [row.policy, *(plain(value) for value in (row.coverage, row.gini, row.novelty, row.diversity,
             row.popularity)), plain(row.latency_ms.get("p50")), plain(row.latency_ms.get("p99"))]
            for row in rows
        ],
    }  # fmt: skip
    found = [reward, ranking, sampled, exposure]
    for title, part in (("a whole session", "ope"), ("one impression", "ope_per_step")):
        lines = [_estimate(row, one) for row in rows for one in getattr(row, part)]
        if lines:
            found.append(
                {
                    "title": f"Value of {title}, from the logs alone",
                    "note": "Off-policy estimates on the logged test sessions; ESS: how many logged "
                    "sessions (impressions) the weighted log is worth. First training seed.",
                    "columns": ["policy", "estimator", "value", "ESS", "verdict", "why"],
                    "rows": lines,
                }
            )
    return [table for table in found if table["rows"]]


def show(number: Number | None) -> str:
    """A number with its interval, or n/a."""
    if number is None or not number.known:
        return "n/a"
    ends = number.interval
    return plain(number.value) + (f" [{plain(ends[0])}, {plain(ends[1])}]" if ends else "")


def plain(value: float | None) -> str:
    """Three or four significant digits, or n/a."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return "n/a"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _estimate(row: Row, one: dict[str, Any]) -> list[str]:
    number = Number(value=float("nan") if one["value"] is None else one["value"], low=one["low"], high=one["high"])
    value = "n/a" if one["verdict"] == "cannot say" else show(number)
    size = one.get("effective_sample_size")
    return [row.policy, one["estimator"], value, plain(size), one["verdict"], "; ".join(one.get("warnings") or [])]


def _facts(card: Scorecard) -> list[tuple[str, str]]:
    """What the data and the settings were."""
    data = card.dataset
    rewards = ", ".join(f"{weight:g} per {kind}" for kind, weight in card.reward.items())
    splits = ", ".join(f"{name} {count:,}" for name, count in (data.get("splits") or {}).items())
    logged = show(card.logged) if card.logged else "n/a"
    facts = [
        ("log", f"{data.get('name', 'unknown')}: {data.get('users', 0):,} users, {data.get('items', 0):,} items, "
                f"{data.get('steps', 0):,} steps in {data.get('sessions', 0):,} sessions"),
        ("feedback", ", ".join(data.get("kinds") or [])
         + (" (exposures logged)" if data.get("exposures") else " (no exposures logged)")),
        ("steps by part", splits),
        ("reward", rewards),
        ("logged test sessions earned", logged),
        ("simulated sessions", f"{card.sessions:,} a policy and seed, at most {card.max_steps} steps, "
                               f"{card.slate_size} item{'s' if card.slate_size > 1 else ''} a step"),
        ("data hash (SHA-256)", str(data.get("fingerprint", "unknown"))),
    ]  # fmt: skip
    return [*facts, *(("repair", text) for text in data.get("repairs") or [])]
