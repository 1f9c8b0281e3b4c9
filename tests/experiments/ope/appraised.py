"""Documents for the page, appraised from logs of worlds whose values are known."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from recgym.ope.appraisal import Appraisal, AppraisalConfig, appraise
from recgym.ope.diagnostics import Question
from recgym.ope.evidence import Evidence, gather
from recgym.ope.fqe import Values
from recgym.ope.weights import cumulative_weights, step_ratios, target_probabilities
from recgym.types import DoubleArray
from tests.ope import bandits
from tests.ope.worlds import LOGGER, TARGET, Tabular, log, value

CONFIG = AppraisalConfig(question=Question(replicates=200))
BANDIT = {
    "new": bandits.TARGET,
    "close": 0.98 * bandits.LOGGER + 0.02 * bandits.TARGET,
    "worst": np.array([[0.97, 0.01, 0.01, 0.01], [0.01, 0.97, 0.01, 0.01]]),
}
"""Chance of each item by context, (2, 4): better than the logger, hardly different, worse."""
SESSIONS = {
    "new": TARGET,
    "close": Tabular(((0.49, 0.3, 0.21), (0.21, 0.4, 0.39))),
    "stubborn <b>list</b>": Tabular(((0.02, 0.03, 0.95), (0.95, 0.03, 0.02))),
}


def true_value(table: DoubleArray) -> float:
    """Expected reward of an impression."""
    return float(bandits.CONTEXTS @ (table * bandits.CLICK).sum(axis=1))


def bandit_evidence(name: str, *, count: int = 6000, weighted: bool = True) -> Evidence:
    """Impressions of the bandit, three of each user."""
    rows, table = bandits.drawn(count, seed=3), BANDIT[name]
    model = Values(q=rows.q, v=(table * bandits.MODEL).sum(axis=1)[rows.context], v_next=np.zeros(count))
    return Evidence(
        policy=name, per="step", reward=rows.reward, episode=np.arange(count), user=np.arange(count) // 3,
        ratios=table[rows.context, rows.item - 1] / bandits.LOGGER[rows.context, rows.item - 1] if weighted else None,
        values=model if weighted else None,
    )  # fmt: skip


def document(*found: Appraisal) -> dict[str, Any]:
    """What `appraisal.json` holds of these."""
    return {
        "format": "recgym-appraisal", "version": 1,
        "source": {"reward": "clicks", "facts": [["logs", "world.parquet"], ["SHA-256", "ab" * 32]]},
        "provenance": {"command": "python -m experiments report", "commit": "0" * 40, "versions": {"numpy": "2"},
                       "seconds": 1.5},
        "appraisals": [jsonable(asdict(one)) for one in found],
        "notes": ["Made from a world whose values are known."],
    }  # fmt: skip


@cache
def bandit(*names: str, count: int = 6000) -> Appraisal:
    """These policies of the bandit."""
    return appraise([bandit_evidence(name, count=count) for name in names or BANDIT], CONFIG)


@cache
def full() -> dict[str, Any]:
    """Sessions and impressions of the session world, with every optional section."""
    logged = log(600, seed=4, users=200)
    chances = {name: target_probabilities(policy, logged) for name, policy in SESSIONS.items()}
    ratios = {name: step_ratios(chance, logged.propensity) for name, chance in chances.items()}
    kinds = np.where(logged.user < 60, "heavy", "new").tolist()
    appraisals = []
    for per, every in (("session", kinds), ("step", [kinds[one] for one in logged.episode])):
        seen = [gather(logged, chance, policy=name, per=per, words=()) for name, chance in chances.items()]  # type: ignore[arg-type]
        segments = {"user": every, "hour": ["day" if place % 3 else "night" for place in range(len(every))]}
        appraisals.append(appraise(seen, CONFIG, segments=segments))
    made = document(*appraisals)
    edges = np.linspace(-2, 1, 13)
    truths = {name: value(policy) for name, policy in (*SESSIONS.items(), ("production", LOGGER))}
    made |= {
        "ranking": {
            name: {key: _near(share, 0.02) for key in ("ndcg@10", "hr@10")}
            for name, share in zip(truths, (0.31, 0.34, 0.12, 0.3), strict=True)
        },
        "simulator": {name: _near(truth, 0.08) for name, truth in truths.items()},
        "simulator_trust": {"verdict": "with care", "words": ["It reacts as the logged users do."]},
        "folds": {name: _folds(name) for name in SESSIONS},
        "overlap": {
            name: {
                "edges": edges.tolist(),
                "counts": np.histogram(np.log10(np.maximum(ratio, 0.01)), edges)[0].tolist(),
                "step_ess": _sizes(cumulative_weights(ratio, logged.episode), logged.step),
            }
            for name, ratio in ratios.items()
        },
        "controls": {
            "new": [{"name": "mean weight", "expected": 1.0, "passed": True, "words": "as it should be",
                     **_near(float(ratios["new"].mean()), 0.05)}],
            "close": [{"name": "reward before the choice", "expected": 0.0, "passed": False,
                       "words": ["it should be 0: the weights carry what was known before"], **_near(0.2, 0.1)}],
        },
        "disagreement": {"stubborn <b>list</b>": ["its estimators differ by more than their intervals"]},
    }  # fmt: skip
    return made


def _near(value: float, reach: float) -> dict[str, float]:
    return {"value": value, "low": value - reach, "high": value + reach}


def _folds(name: str) -> list[dict[str, Any]]:
    found = []
    for fold in range(4):
        part = log(150, seed=20 + fold)
        seen = gather(part, target_probabilities(SESSIONS[name], part), policy=name, per="session")
        one = appraise([seen], CONFIG).policies[0].estimate
        found.append(
            {"label": f"week {fold + 1}", "value": one.value, "low": one.low, "high": one.high, "episodes": 150,
             "mean_weight": float(seen.weights.mean())}
        )  # fmt: skip
    return jsonable(found)  # type: ignore[no-any-return]


def _sizes(weights: DoubleArray, step: Any) -> list[float]:
    found = []
    for first, last in pairwise(range(9)):
        part = weights[(step >= first) & (step < last)]
        found.append(float(part.sum() ** 2 / (part**2).sum()) if len(part) else 0.0)
    return [one for one in found if one > 0]


def jsonable(one: Any) -> Any:
    """Lists for tuples, None for what is not finite."""
    if isinstance(one, dict):
        return {key: jsonable(part) for key, part in one.items()}
    if isinstance(one, (list, tuple)):
        return [jsonable(part) for part in one]
    return None if isinstance(one, float) and not math.isfinite(one) else one
