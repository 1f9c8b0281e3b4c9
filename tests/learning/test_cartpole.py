"""Own agents balance CartPole-v1 within 200,000 steps (minutes: slow)."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import pytest

from agents import make_agent
from agents.gym_task import GymTask

pytestmark = [pytest.mark.slow, pytest.mark.experiments, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.mark.parametrize("seed", [0, 1])
def test_reinforce_balances_the_pole(seed: int, tmp_path: Path) -> None:
    task = GymTask(make=lambda: gymnasium.make("CartPole-v1"))
    agent = make_agent(
        "reinforce", total_steps=190_000, num_envs=8, rollout=0, learning_rate=0.01, baseline_steps=5,
        max_gradient=0.2, discount=0.99, entropy_weight=0.0, choice="greedy", segments=10,
    )  # fmt: skip
    policy = agent.train(task, seed=seed, folder=tmp_path)  # type: ignore[arg-type]
    found = task.judge(policy, 100, seed=77)
    print(f"CartPole-v1, REINFORCE, seed {seed}: {found}")
    assert found >= 475
