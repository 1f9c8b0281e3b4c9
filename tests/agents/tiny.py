"""Settings with which each agent trains in a second, by name."""

from __future__ import annotations

from typing import Any

OFF_POLICY: dict[str, Any] = {
    "total_steps": 256, "num_envs": 8, "learning_starts": 64, "gradient_steps": 2, "batch_size": 16, "segments": 4,
}  # fmt: skip
LOGGED: dict[str, Any] = {"updates": 40, "batch_size": 16, "segments": 4}
PROXIMAL: dict[str, Any] = {
    "total_steps": 256, "num_envs": 8, "rollout": 8, "batch_size": 16, "epochs": 1, "segments": 4,
}  # fmt: skip
TINY: dict[str, dict[str, Any]] = {
    "dqn": {**OFF_POLICY, "dueling": True, "priority": 0.6, "steps": 2},
    "c51": {**OFF_POLICY, "atoms": 11, "priority": 0.5, "steps": 2},
    "qrdqn": {**OFF_POLICY, "quantiles": 8, "risk": "cvar", "optimism": 50.0},
    "ppo": {**PROXIMAL, "anneal": True},
    "drqn": {**OFF_POLICY, "length": 4, "burn_in": 2, "batch_size": 4, "memory": 8},
    "recurrent-ppo": {**PROXIMAL, "batch_size": 32, "memory": 8},
    "a2c": {"total_steps": 256, "num_envs": 8, "rollout": 4, "segments": 4},
    "epsilon-greedy": {"total_steps": 256, "num_envs": 8, "segments": 4},
    "linucb": {"total_steps": 256, "num_envs": 8, "segments": 4},
    "linear-ts": {"total_steps": 256, "num_envs": 8, "segments": 4, "draws": 4},
    "reinforce": {"total_steps": 256, "num_envs": 8, "rollout": 4, "segments": 4},
    "a3c": {"total_steps": 256, "num_envs": 4, "rollout": 4, "workers": 2, "segments": 4},
    "trpo": {"total_steps": 256, "num_envs": 8, "rollout": 8, "batch_size": 16, "segments": 4},
    "maskable-ppo": PROXIMAL,
    "topk-reinforce": {"updates": 40, "batch_size": 16, "segments": 4},
    "slateq": {**OFF_POLICY, "steps": 2, "anneal": True},
    "topk": {**PROXIMAL, "anneal": True},
    "wolpertinger": {**OFF_POLICY, "nearest": 4, "steps": 2},
    "cql": {**LOGGED, "candidates": 5},
    "bc": {**LOGGED, "top_share": 0.5, "held_out": 0.2},
    "bcq": LOGGED,
    "iql": LOGGED,
    "sqn": {**LOGGED, "held_out": 0.2},
    "sa2c": {**LOGGED, "warm_up": 20, "negatives": 3, "held_out": 0.2},
    "decision-transformer": {**LOGGED, "width": 8, "heads": 2, "layers": 1},
}
