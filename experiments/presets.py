"""Settings of the agents in the known worlds of `bench agents`: what differs from their defaults, and why.

Sessions there are long and hidden state pays late, so discounts are near 1 and rollouts cover whole sessions. SB3
clips the actor's and the critic's gradients together: where returns are large, the critic's weight is small, or little
is left for the actor.
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
_ON_POLICY: dict[str, Any] = {
    "num_envs": 128, "total_steps": 100_000, "discount": 0.99, "choice": "greedy", "stopping": _BEST,
}  # fmt: skip
_WHOLE: dict[str, Any] = {**_ON_POLICY, "rollout": 60}
_PROXIMAL: dict[str, Any] = {**_WHOLE, "batch_size": 1280, "learning_rate": 1e-3}
_OFF_POLICY: dict[str, Any] = {
    "num_envs": 64, "total_steps": 60_000, "discount": 0.97, "learning_rate": 1e-3, "gradient_steps": 4,
    "learning_starts": 4_000, "final_epsilon": 0.05, "stopping": _BEST,
}  # fmt: skip
_VALUE: dict[str, Any] = {**_OFF_POLICY, "target_update_interval": 1_000}
_LOGGED: dict[str, Any] = {"discount": 0.97, "choice": "greedy"}
_SATISFACTION: dict[str, dict[str, Any]] = {
    "epsilon-greedy": {},
    "linucb": {},
    "linear-ts": {},
    "dqn": {**_VALUE, "steps": 5},
    "c51": {**_VALUE, "steps": 5, "v_min": 0.0, "v_max": 800.0},
    "qrdqn": {**_VALUE, "steps": 5},
    "drqn": _VALUE,
    "reinforce": _WHOLE,
    "a2c": {**_ON_POLICY, "rollout": 20},
    "a3c": {**_ON_POLICY, "rollout": 20},
    "trpo": _WHOLE,
    "ppo": _PROXIMAL,
    "maskable-ppo": _PROXIMAL,
    "recurrent-ppo": _PROXIMAL,
    "slateq": {**_VALUE, "steps": 5},
    "topk": {**_WHOLE, "batch_size": 1280},
    "wolpertinger": {**_OFF_POLICY, "steps": 5},
    "bc": {},
    "cql": _LOGGED,
    "bcq": {"discount": 0.97},
    "iql": _LOGGED,
    "sqn": {},
    "sa2c": {},
    "topk-reinforce": {"discount": 0.97, "choice": "greedy"},
}
_EVOLUTION: dict[str, dict[str, Any]] = {
    "slateq": {
        "num_envs": 512, "discount": 1.0, "value_scale": 100, "total_steps": 800_000, "gradient_steps": 4,
        "batch_size": 1024, "steps": 60, "target_update_interval": 20_000, "final_epsilon": 0.1,
        "buffer_size": 800_000, "anneal": True, "stopping": Stopping(sessions=512),
    },
    "ppo": {
        "num_envs": 512, "rollout": 100, "total_steps": 1_500_000, "discount": 0.998, "batch_size": 2_048,
        "value_weight": 1e-4, "learning_rate": 1e-3, "anneal": True, "choice": "greedy", "stopping": _BEST,
    },
}  # fmt: skip
_COAT: dict[str, Any] = {
    "num_envs": 512, "rollout": 30, "discount": 0.95, "gae_lambda": 0.9, "batch_size": 2560, "epochs": 4, "hidden": 128,
    "value_weight": 1e-3, "anneal": True, "stopping": _BEST, "choice": "greedy",
}  # fmt: skip
_RATED: dict[str, Any] = {"choice": "greedy", "learning_rate": 1e-3, "updates": 600}
_VALUED: dict[str, Any] = {**_RATED, "discount": 0.0}
_SARDINE: dict[str, Any] = {
    "num_envs": 256, "rollout": 20, "batch_size": 512, "epochs": 2, "discount": 0.95, "gae_lambda": 0.9, "hidden": 64,
    "learning_rate": 3e-3, "click_rate": 5e-3, "entropy_weight": 0.001, "value_scale": 30.0, "choice": "softmax",
}  # fmt: skip
_SINGLE: dict[str, Any] = {
    **_SARDINE, "rollout": 50, "total_steps": 409_600, "discount": 0.99, "gae_lambda": 0.95, "learning_rate": 5e-4,
    "click_rate": 3e-3, "anneal": True, "choice": "greedy", "stopping": Stopping(sessions=500),
}  # fmt: skip
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "long-term-satisfaction-repaired": _SATISFACTION,
    "interest-evolution": _EVOLUTION,
    "coat": {
        "ppo": {**_COAT, "total_steps": 3_000_000, "learning_rate": 2e-3, "entropy_weight": 0.005},
        "bc": _RATED,
        "bcq": {**_VALUED, "threshold": 0.2, "hidden": 16},
        "cql": _VALUED,
        "iql": _VALUED,
        "decision-transformer": _RATED,
        "sqn": _RATED,
        "sa2c": {**_RATED, "warm_up": 300},
        "topk-reinforce": _VALUED,
    },
    "coat-no-quit": {
        "ppo": {**_COAT, "total_steps": 1_500_000, "learning_rate": 1e-3, "entropy_weight": 0.02},
    },
    "sardine-slate-topk-bored": {
        "topk": {**_SARDINE, "total_steps": 204_800},
    },
    "sardine-slate-topk-bored-inf": {
        "topk": {**_SARDINE, "total_steps": 204_800},
    },
    "sardine-single-item-bored-inf": {
        "topk": _SINGLE,
    },
}
"""Fields of the agents' configs that differ from the defaults, by world and agent."""

_CAREFUL: dict[str, Any] = {"choice": "greedy", "learning_rate": 1e-4, "updates": 1_000}
LEARNED: dict[str, dict[str, Any]] = {
    "dqn": {},
    "reinforce": {},
    "a2c": {},
    "ppo": {},
    "bc": _CAREFUL,
    "cql": {"choice": "greedy"},
    "bcq": {"choice": "greedy"},
    "iql": {"choice": "greedy"},
    "sqn": _CAREFUL,
    "sa2c": {**_CAREFUL, "warm_up": 500, "second_learning_rate": 1e-4},
}
"""The same in learned users: what starts from the backbone and learns from the same logs takes small steps."""
