"""Settings of the agents in the known worlds of `bench agents`: what differs from their defaults, and why.

Sessions there are long and hidden state pays late, so discounts are near 1 and rollouts cover whole sessions.
"""

from __future__ import annotations

from typing import Any

from agents.training import Stopping

HISTORY: dict[str, int] = {
    "coat": 30,
    "coat-repaired": 30,
    "coat-no-quit": 30,
    "sardine-single-item-bored-inf": 40,
    "sardine-slate-topk-bored": 100,
    "sardine-slate-topk-bored-inf": 100,
}
"""Items of the visible history that agents read beside the state, by world; where missing, none."""
_BEST = Stopping(sessions=300)
"""Keep the policy that 300 sessions of other users judge best."""
_SESSIONS: dict[str, Any] = {
    "num_envs": 128,
    "rollout": 60,
    "discount": 0.99,
    "batch_size": 1024,
    "learning_rate": 1e-3,
}
_COAT: dict[str, Any] = {
    "num_envs": 512, "rollout": 30, "discount": 0.95, "gae_lambda": 0.9, "batch_size": 2560, "epochs": 4, "hidden": 128,
    "entropy_weight": 0.03, "anneal": True, "stopping": _BEST, "choice": "greedy",
}  # fmt: skip
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "long-term-satisfaction-repaired": {
        "ppo": {**_SESSIONS, "total_steps": 100_000, "choice": "greedy", "stopping": _BEST},
    },
    "coat-no-quit": {
        "ppo": {**_COAT, "total_steps": 1_500_000, "learning_rate": 1e-3},
    },
}
"""Fields of the agents' configs that differ from the defaults, by world and agent."""

LEARNED: dict[str, dict[str, Any]] = {
    "dqn": {},
    "ppo": {},
    "a2c": {},
    "cql": {},
}
"""The same in learned users."""
