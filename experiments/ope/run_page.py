"""The page of what a run's logged test sessions say, with what the simulator says and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import trust
from experiments.ope.page import write_pages
from experiments.ope.words import Fields, appraisals
from experiments.runs import Run
from experiments.scorecard import Number, Scorecard
from recgym.files import read_json

FOLDER = "logs"
"""In the run folder."""


def write_run_pages(
    run: Run, card: Scorecard, facts: list[tuple[str, str]], audit: Fields | None, ladder: Fields | None
) -> list[Path]:
    """Write the pages of `appraisal.json` into the run's folder `logs`.

    Args:
        run: where `evaluate` has left its appraisal.
        card: the scorecard of the same evaluation, for rankings and the simulator.
        facts: what the log and the settings were.
        audit: of exploitation, where it was run.
        ladder: the ladder's figures, where they are.

    Raises:
        FormatError: the appraisal is foreign or damaged.
    """
    found = read_json(run.appraisal, format="recgym-appraisal", version=1)
    return write_pages(_document(found, run.config(), card, facts, audit, ladder), run.folder / FOLDER)


def _document(
    found: Fields,
    config: Fields,
    card: Scorecard,
    facts: list[tuple[str, str]],
    audit: Fields | None,
    ladder: Fields | None,
) -> Fields:
    """The appraisal with all that stands beside it."""
    named = {one["policy"] for one in appraisals(found)[0]["policies"]}
    rows = [row for row in card.rows if row.policy in named]
    stages = config.get("stages", {})
    return {
        **found,
        "source": {"reward": _unit(card.reward), "facts": [list(fact) for fact in facts]},
        "provenance": {
            "command": config.get("command"), "commit": config.get("commit"), "versions": config.get("versions"),
            "seconds": {name: stage["seconds"] for name, stage in stages.items()},
        },
        "notes": [
            f"Policies were trained on earlier sessions of the same log; today's ranker is {card.reference}. Of a "
            "trained policy, the first seed is judged.",
            *card.notes,
            *found.get("notes", []),
        ],
        "ranking": {
            row.policy: {name: _fields(row.ranking[name]) for name in ("ndcg@10", "hr@10") if name in row.ranking}
            for row in rows if row.ranking
        },
        "simulator": {row.policy: _fields(row.reward) for row in rows if row.reward.known},
        "simulator_trust": _trust(card, audit, ladder),
    }  # fmt: skip


def _unit(reward: Mapping[str, float]) -> str:
    """What a unit of reward is: one kind of feedback in the plural, or reward."""
    kinds = [name for name, weight in reward.items() if weight]
    return f"{kinds[0]}s" if len(kinds) == 1 and reward[kinds[0]] == 1 else "reward"


def _fields(number: Number) -> dict[str, float | None]:
    ends = number.interval
    return {"value": number.value, "low": ends[0] if ends else None, "high": ends[1] if ends else None}


def _trust(card: Scorecard, audit: Fields | None, ladder: Fields | None) -> dict[str, Any]:
    """May policies of different kinds be ranked by it, and what else was found."""
    found = trust.findings(card, audit, ladder)
    apart = next(one for one in found if one.question.startswith("Rank policies of different kinds"))
    words = [f"{one.question}: {one.answer}. {one.why}" for one in found]
    words += trust.alarms(card, audit)
    return {"verdict": f"to rank policies of different kinds: {apart.answer}", "words": words}
