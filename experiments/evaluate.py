"""Score every policy of a run on the same users, and put the numbers together with their intervals."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import agents
from experiments.fit import Loaded, load_run, platform
from experiments.ope.document import document
from experiments.ope.run import appraise_run, shown_estimates
from experiments.pool import run_jobs
from experiments.runs import Run, plain
from experiments.scorecard import Number, Row, Scorecard, write_scorecard
from experiments.scoring import ORACLE, Scores, ScoringConfig, find_policies, ranking_steps, score_policy
from experiments.train import learning_curve
from experiments.truth import true_sessions
from recgym.evaluation import session_outcomes
from recgym.files import write_json
from recgym.logs.splits import TEST, TRAIN, VALIDATION, sessions_of
from recgym.ope import Appraisal, Interval, Question, bootstrap_ratio, seeds_and_users, t_interval
from recgym.rollout import collect, logged_transitions

REFERENCE = "backbone-greedy"
"""Today's ranker: what differences are against."""
_EXAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score every policy of a run folder: trivial, trained and, where the world is known, the oracle."""

    out: Path
    """Run folder."""
    reward: dict[str, float] = field(default_factory=dict)
    """Reward weight of each kind of feedback; empty: 1 for the first kind."""
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    """How policies are scored."""
    processes: int = 2
    """Policies scored side by side, one thread each."""
    resume: bool = False
    """Keep the policies that were scored before with the same settings."""

    def __call__(self) -> None:
        """Run the stage."""
        run = Run(self.out)
        loaded = load_run(run)
        names = policy_names(run, loaded, self.scoring)
        folder = run.folder / "evaluation"
        settings = plain({"scoring": self.scoring, "reward": self.reward, "users": _stamp(run)})
        about = folder / "about.json"
        if not (self.resume and about.exists() and json.loads(about.read_text()) == settings):
            for old in folder.glob("*"):
                old.unlink()
            write_json(about, settings)
        waiting = [name for name in names if not (folder / f"{name}.json").exists()]
        with run.stage("evaluate", self, resumed=self.resume):
            jobs = run_jobs(partial(_score, self), waiting, processes=self.processes, description="scoring")
            for name, _ in jobs:
                run.record("scored", policy=name)
            scores = {name: Scores.load(folder, name) for name in names}
            appraisals, diagnosed = self._appraise(loaded, scores)
            card = make_scorecard(run, loaded, self, scores, appraisals)
            write_scorecard(card, run.folder)
            if appraisals:
                write_json(run.appraisal, document(appraisals, diagnosed))
        print(summary(card))

    def _appraise(
        self, loaded: Loaded, scores: dict[str, Scores]
    ) -> tuple[tuple[Appraisal, ...], tuple[dict[str, Any], ...]]:
        """What the logged test sessions say, and against it, where they say what was shown."""
        asked = {name: (one.arrays, one.facts["logs"]) for name, one in scores.items() if "logs" in one.facts}
        if not asked:
            return (), ()
        sessions = platform(loaded.users, reward=self.reward or None, max_steps=self.scoring.max_steps)
        return appraise_run(loaded, sessions, asked, Question(level=self.scoring.level, seed=self.scoring.seed))


def policy_names(run: Run, loaded: Loaded, config: ScoringConfig) -> list[str]:
    """Trivial policies, trained ones that are there, and the oracle where the world is known."""
    trained = sorted(path.name for path in run.policies.glob("*") if path.name not in agents.BASELINES)
    found = [name for name in trained if any((run.policies / name).glob("seed-*/policy.json"))]
    sessions = platform(loaded.users, reward=None, max_steps=1)
    known = true_sessions(loaded.sequences, loaded.users, sessions.config) is not None and config.slate_size == 1
    return [*agents.BASELINES, *found, *([ORACLE] if known else [])]


def make_scorecard(
    run: Run, loaded: Loaded, settings: Evaluate, scores: dict[str, Scores], appraisals: tuple[Appraisal, ...] = ()
) -> Scorecard:
    """All rows with their intervals, and what the report needs beside them."""
    config, sequences = settings.scoring, loaded.sequences
    sessions = platform(
        loaded.users, reward=settings.reward or None, max_steps=config.max_steps, slate_size=config.slate_size
    )
    asked = sequences.user_of_step[ranking_steps(loaded, config)]
    rows = tuple(_row(run, name, scores, asked, config.level, shown_estimates(appraisals, name)) for name in scores)
    test = sessions_of(sequences, loaded.roles, TEST)
    logged = logged_transitions(sequences, test, loaded.users.backbone, sessions.weights)
    outcome = session_outcomes(logged, sequences.kinds, discount=config.discount)
    trained = [row for row in rows if row.family == "trained" and row.reward.known]
    best = max(trained, key=lambda row: row.reward.value, default=None)
    splits = {name: int((loaded.roles == role).sum())
              for name, role in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))}  # fmt: skip
    dataset = {
        "name": sequences.name,
        "users": sequences.num_users,
        "items": sequences.num_items,
        "steps": sequences.num_steps,
        "sessions": sequences.num_sessions,
        "kinds": [kind.name for kind in sequences.kinds],
        "exposures": sequences.exposures,
        "fingerprint": sequences.fingerprint(),
        "splits": splits,
        "repairs": list(sequences.notes),
    }
    return Scorecard(
        level=config.level,
        reference=REFERENCE,
        reward=sessions.weights,
        discount=config.discount,
        max_steps=config.max_steps,
        slate_size=config.slate_size,
        sessions=config.sessions,
        seeds=tuple(range(max((row.seeds for row in rows), default=1))),
        dataset=dataset,
        logged=_number(t_interval(outcome.reward, outcome.user, level=config.level)),
        logged_high=float(np.quantile(outcome.reward, 0.99)),
        fidelity=loaded.fidelity,
        shown=tuple(
            _example(run, loaded, sessions, name, config) for name in (REFERENCE, *([best.policy] if best else []))
        ),
        notes=_notes(loaded, sessions.config.repeats),
        rows=rows,
    )


def _score(settings: Evaluate, name: str) -> None:
    run = Run(settings.out)
    scores = score_policy(run, settings.scoring, settings.reward or None, name)
    scores.save(run.folder / "evaluation", name)


def _row(
    run: Run,
    name: str,
    scores: dict[str, Scores],
    asked: npt.NDArray[np.int64],
    level: float,
    logs: dict[str, list[dict[str, Any]]],
) -> Row:
    """One policy with its intervals, and its differences to the others on the same users."""
    own, today = scores[name].arrays, scores[REFERENCE].arrays
    facts = scores[name].facts
    who = own["user"][0].astype(np.int64)

    def mean(key: str, minus: dict[str, Any] | None = None, users: npt.NDArray[np.int64] = who) -> Number | None:
        if key not in own or (minus is not None and key not in minus):
            return None
        values = own[key] if minus is None else own[key] - minus[key].mean(0)
        return _number(seeds_and_users(values, users, level=level))

    unknown = Number(value=float("nan"))
    ranked = [key for key in own if key.startswith(("hr@", "ndcg@"))]
    trivial = [other for other in scores if other in agents.BASELINES and other != name]
    against = {other: mean("reward", scores[other].arrays) for other in trivial}
    rates = {}
    for key in (key for key in own if key.startswith("kind ")):
        interval = bootstrap_ratio(own[key].mean(0), own["depth"].mean(0), who, seed=0, level=level)
        rates[key.removeprefix("kind ")] = _number(interval)
    seen = {key: facts["exposure"][key] for key in ("coverage", "gini", "novelty", "popularity")}
    seeds = range(int(facts["seeds"]))
    return Row(
        policy=name,
        family="oracle" if name == ORACLE else "trivial" if name in agents.BASELINES else "trained",
        seeds=int(facts["seeds"]),
        reward=mean("reward") or unknown,
        discounted=mean("discounted") or unknown,
        depth=mean("depth") or unknown,
        rates=rates,
        difference=None if name == REFERENCE else mean("reward", today),
        against={other: number for other, number in against.items() if number is not None},
        ranking={key: number for key in ranked if (number := mean(key, users=asked))},
        sampled={key: number for key in ranked if (number := mean(f"sampled {key}", users=asked))},
        ranking_difference=None if name == REFERENCE else mean("ndcg@10", today, asked),
        **{key: float("nan") if value is None else value for key, value in seen.items()},
        diversity=facts["exposure"]["diversity"],
        latency_ms=facts["latency_ms"],
        truth=mean("truth"),
        truth_difference=None if name == REFERENCE else mean("truth", today),
        ope=tuple(logs.get("session", ())),
        ope_per_step=tuple(logs.get("step", ())),
        doubt=facts.get("doubt"),
        lengths=tuple(facts["lengths"]),
        curves=tuple(curve for seed in seeds if (curve := learning_curve(run.policy(name, seed)))),
    )


def _example(run: Run, loaded: Loaded, sessions: Any, name: str, config: ScoringConfig) -> dict[str, Any]:
    """The first simulated session whose length is the median of a few, item by item."""
    policy = find_policies(run, loaded, name, config.slate_size)[0]
    found = collect(sessions, policy, num_sessions=_EXAMPLES, seed=config.seed)
    depth = np.bincount(found.episode)
    typical = int(np.argmin(np.abs(depth - np.median(depth))))
    titles, categories = loaded.users.item_titles, loaded.users.item_categories
    steps = []
    for row in np.flatnonzero(found.episode == typical):
        for slot, item in enumerate(found.action[row].tolist()):
            amounts = zip(loaded.users.kinds, found.feedback[row, slot].tolist(), strict=True)
            steps.append(
                {
                    "item": item,
                    "title": titles[item - 1] if titles else loaded.sequences.items["item"][item - 1],
                    "category": categories[item - 1] if categories else None,
                    "feedback": {kind.name: amount for kind, amount in amounts if amount > 0},
                    "reward": float(found.reward[row]) if slot == 0 else 0.0,
                    "left": bool(found.terminated[row]),
                }
            )
    return {"policy": name, "steps": steps}


def _number(interval: Interval) -> Number:
    return Number(value=interval.value, low=interval.low, high=interval.high)


def _stamp(run: Run) -> dict[str, Any]:
    """What the scores depend on beside the settings: the users and every policy."""
    files = [*sorted(run.policies.glob("*/seed-*/weights.safetensors")), run.users / "weights.safetensors"]
    trained = [path for path in files if path.parts[-3] not in agents.BASELINES]
    return {str(path.relative_to(run.folder)): path.stat().st_mtime for path in trained if path.exists()}


def _notes(loaded: Loaded, repeats: str) -> tuple[str, ...]:
    notes = []
    if repeats == "mask":
        notes.append(
            "Users of this log consume nothing twice: an item that was shown or consumed is not shown again, "
            "and rankings leave out what the user had met before."
        )
    if not loaded.sequences.exposures:
        notes.append(
            "The log holds what was consumed, not what was shown: from it alone nothing can be said of the value of "
            "showing something else, so there are no off-policy estimates."
        )
    elif not np.isfinite(loaded.sequences.propensity).any():
        notes.append(
            "The log has no propensities: importance weighting cannot say anything, and the fitted-Q estimate rests on "
            "its model alone."
        )
    return tuple(notes)


def summary(card: Scorecard) -> str:
    """The scorecard as a plain table."""

    def cell(number: Number | None) -> str:
        if number is None or not number.known:
            return "n/a"
        ends = number.interval
        return f"{number.value:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")

    head = ("policy", "session reward", f"minus {card.reference}", "steps", "NDCG@10", "truth")
    lines = [head] + [
        (row.policy, cell(row.reward), cell(row.difference), cell(row.depth), cell(row.ranking.get("ndcg@10")),
         cell(row.truth))
        for row in card.rows
    ]  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)) for line in lines)
