"""Made-up scorecards with known findings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.scorecard import Number, Row, Scorecard


def number(value: float, half: float = 0.1) -> Number:
    return Number(value=value, low=value - half, high=value + half)


def row(policy: str, reward: float, family: str = "trivial", **more: Any) -> Row:
    rivals = {"popularity": 2.0, "backbone-greedy": 1.5, "random": 1.0}
    against = {name: number(reward - other) for name, other in rivals.items() if name != policy}
    return Row(
        policy=policy, family=family, reward=number(reward),  # type: ignore[arg-type]
        discounted=number(reward * 0.9), depth=number(5.0),
        seeds=5 if family == "trained" else 1, against=against,
        difference=None if policy == "backbone-greedy" else number(reward - 1.5),
        rates={"click": number(0.3)}, ranking={"hr@10": number(0.2), "ndcg@10": number(0.1, 0.01)},
        sampled={"hr@10": number(0.6), "ndcg@10": number(0.4)},
        ranking_difference=None if policy == "backbone-greedy" else number(-0.05, 0.01),
        coverage=0.5, gini=0.4, novelty=8.0, diversity=None, popularity=0.7, latency_ms={"p50": 0.1, "p99": 0.3},
        lengths=(3, 2, 1), **more,
    )  # fmt: skip


def card(trained: dict[str, float], **more: Any) -> Scorecard:
    rows = [row("random", 1.0), row("popularity", 2.0), row("backbone-greedy", 1.5)]
    estimate = {"estimator": "IPS", "value": None, "low": None, "high": None, "verdict": "cannot say",
                "warnings": ["no <propensity>"], "effective_sample_size": 3.0}  # fmt: skip
    weak = {**estimate, "estimator": "FQE", "value": 1.2, "low": 1.0, "high": 1.4, "verdict": "weak"}
    curves = (({"step": 10.0, "session_reward": 1.0}, {"step": 20.0, "session_reward": 1.4}),)
    for name, reward in trained.items():
        rows.append(row(name, reward, "trained", ope=(estimate, weak), ope_per_step=(estimate, weak), curves=curves))
    fidelity: dict[str, Any] = {
        "alarms": [], "notes": ["10 test sessions"], "kinds": {"click": {"auc": 0.7, "ece": None}},
        "leave": {"auc": 0.6},
        "reliability": {"click": {"predicted": [0.1, 0.3], "observed": [0.1, 0.25], "count": [5.0, 5.0]}},
        "lengths": {"logged": [3.0, 2.0], "simulated": [2.5, 2.5]}, "mean_length": {"logged": 1.4, "simulated": 1.5},
        "next_item": {"ndcg@10": 0.1, "cold": {
            "unmet items": {"cases": 7, "hr@10": 0.5, "ndcg@10": 0.25, "auc": 0.75}, "rare items": {"cases": 0}}},
    }  # fmt: skip
    shown = ({"policy": "popularity", "steps": [
        {"item": 1, "title": "<script>alert(1)</script>", "category": "A&B", "feedback": {"click": 1.0}, "reward": 1.0,
         "left": True}]},)  # fmt: skip
    made = Scorecard(
        reference="backbone-greedy", reward={"click": 1.0}, discount=0.98, max_steps=50, sessions=100, seeds=(0, 1),
        dataset={"name": "made-up", "users": 3, "items": 4, "steps": 5, "sessions": 2, "kinds": ["click"],
                 "exposures": True, "fingerprint": "abc", "splits": {"train": 4, "test": 1}, "repairs": ["sorted: 2"]},
        logged=number(1.3), fidelity=fidelity, shown=shown, notes=("a caveat",), rows=tuple(rows),
    )  # fmt: skip
    return replace(made, **more)
