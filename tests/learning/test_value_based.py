"""CartPole by own DQN and C51 (minutes: slow)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest

from agents import make_agent
from agents.gym_task import GymTask
from agents.training import Stopping

pytestmark = [pytest.mark.slow, pytest.mark.experiments, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SHARED: dict[str, Any] = {
    "num_envs": 8, "discount": 0.99, "gradient_steps": 2, "buffer_size": 50_000, "learning_starts": 1000,
    "target_update_interval": 500, "hidden": 128, "stopping": Stopping(sessions=20),
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "dqn": {
        "total_steps": 100_000, "batch_size": 128, "learning_rate": 1e-3, "exploration_fraction": 0.2, "dueling": True,
        "priority": 0.6,
    },
    "c51": {
        "total_steps": 60_000, "batch_size": 64, "learning_rate": 1e-3, "exploration_fraction": 0.2, "v_min": 0.0,
        "v_max": 50.0, "discount": 0.98, "steps": 3, "segments": 30,
    },
}  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", OWN)
def test_cartpole_is_solved(name: str, seed: int, tmp_path: Path) -> None:
    """The policy of the best judgement (20 episodes after each segment), over 50 episodes of other seeds."""
    task: Any = GymTask(make=lambda: gymnasium.make("CartPole-v1"))
    policy = make_agent(name, **{**SHARED, **OWN[name]}).train(task, seed=seed, folder=tmp_path)
    assert task.judge(policy, 50, seed=99) >= 475
