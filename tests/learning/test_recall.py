"""A cue at the first step, asked for four steps later: agents with a memory answer it, those without cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents import make_agent
from agents.gym_task import GymTask
from tests.agents.cue import Cue

pytestmark = [pytest.mark.slow, pytest.mark.experiments, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
OFF_POLICY: dict[str, Any] = {
    "total_steps": 6_000, "num_envs": 16, "gradient_steps": 2, "learning_starts": 640, "target_update_interval": 400,
    "learning_rate": 3e-3, "hidden": 16, "segments": 4,
}  # fmt: skip
ON_POLICY: dict[str, Any] = {
    "total_steps": 24_000, "num_envs": 16, "rollout": 40, "batch_size": 160, "epochs": 6, "learning_rate": 5e-3,
    "hidden": 16, "entropy_weight": 0.01, "discount": 0.95, "choice": "greedy", "segments": 4,
}  # fmt: skip
SETTINGS: dict[str, tuple[dict[str, Any], bool]] = {
    "drqn": ({**OFF_POLICY, "batch_size": 16, "length": 8, "burn_in": 0, "memory": 16}, True),
    "dqn": ({**OFF_POLICY, "batch_size": 64}, False),
    "recurrent-ppo": ({**ON_POLICY, "memory": 16}, True),
    "ppo": (ON_POLICY, False),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", list(SETTINGS))
def test_only_a_memory_recalls_the_cue(name: str, seed: int, tmp_path: Path) -> None:
    settings, remembers = SETTINGS[name]
    task: Any = GymTask(make=Cue)
    policy = make_agent(name, **settings).train(task, seed=seed, folder=tmp_path)
    earned = task.judge(policy, 500, 99)
    assert earned == 1.0 if remembers else abs(earned - 0.5) < 0.1


def test_a_burn_in_recalls_the_cue_too(tmp_path: Path) -> None:
    """Sequences that begin after the cue learn what to do with a memory that only the burn-in has made."""
    task: Any = GymTask(make=Cue)
    settings = {**SETTINGS["drqn"][0], "burn_in": 3, "length": 5}
    assert task.judge(make_agent("drqn", **settings).train(task, seed=0, folder=tmp_path), 500, 99) == 1.0
