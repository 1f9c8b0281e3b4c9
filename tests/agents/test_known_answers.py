"""Value-based agents where the answer is known: constant rewards, identity, a contextual bandit, risk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from agents import make_agent
from agents.gym_task import GymTask
from recgym.random import session_keys
from recgym.types import Observation
from tests.agents import known

pytestmark = pytest.mark.experiments
SETTINGS: dict[str, Any] = {
    "num_envs": 8, "learning_starts": 64, "batch_size": 64, "buffer_size": 2000, "hidden": 16, "learning_rate": 0.01,
    "target_update_interval": 64, "final_epsilon": 0.2, "gradient_steps": 3, "segments": 1,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "dqn": {}, "c51": {"v_min": 0.0, "v_max": 8.0, "atoms": 21}, "qrdqn": {"quantiles": 8},
}  # fmt: skip


def trained(name: str, task: Any, folder: Path, **fields: Any) -> Any:
    return make_agent(name, **{**SETTINGS, **OWN[name], **fields}).train(task, seed=0, folder=folder)


def at(state: int, num_states: int, steps: int = 0) -> Observation:
    """The observation of one state, after so many steps of the episode."""
    return Observation(torch.full((1, 1), steps / 100), state=torch.eye(num_states)[[state]])


@pytest.mark.parametrize(("name", "steps"), [("dqn", 1), ("dqn", 3), ("c51", 1), ("qrdqn", 3)])
def test_the_value_of_a_constant_reward(name: str, steps: int, tmp_path: Path) -> None:
    """1 / (1 - .8) = 5, also in the last step before the episode is cut: a cut is no end."""
    task = known.task(lambda: known.Constant(1, 2))
    policy = trained(name, task, tmp_path, total_steps=2000, discount=0.8, steps=steps)
    for step in (0, 5, 9):
        torch.testing.assert_close(policy.scores(at(0, 1, step)), torch.full((1, 2), 5.0), atol=0.15, rtol=0)


@pytest.mark.parametrize("name", OWN)
def test_identity_is_solved(name: str, tmp_path: Path) -> None:
    policy = trained(name, known.task(lambda: known.Identity(4, 4)), tmp_path, total_steps=1200, discount=0.5)
    seen = Observation(torch.full((4, 1), 0.05), state=torch.eye(4))
    assert policy.act(seen, session_keys(0, 4))[:, 0].tolist() == [1, 2, 3, 4]
    allowed = seen._replace(mask=~torch.eye(4, dtype=torch.bool))
    assert (policy.act(allowed, session_keys(0, 4))[:, 0] != torch.arange(1, 5)).all()


@pytest.mark.parametrize("name", OWN)
def test_a_contextual_bandit_is_solved(name: str, tmp_path: Path) -> None:
    """Values are the arms' chances, as nothing follows."""
    fields = {"v_max": 1.0, "atoms": 11} if name == "c51" else {}
    policy = trained(
        name, known.task(lambda: known.Bandit(3, 4)), tmp_path, total_steps=3200, learning_rate=0.003,
        batch_size=128, final_epsilon=0.5, **fields,
    )  # fmt: skip
    scores = policy.scores(Observation(torch.zeros(3, 1), state=torch.eye(3)))
    chances = torch.from_numpy(known.CHANCES).float()
    assert scores.argmax(1).tolist() == chances.argmax(1).tolist()
    torch.testing.assert_close(scores.max(1).values, chances.max(1).values, atol=0.15, rtol=0)


@pytest.mark.parametrize(("risk", "path", "values"), [("mean", 2, (0.9, 1.8)), ("cvar", 1, (0.9, -0.9))])
def test_risk_chooses_the_path(risk: str, path: int, values: tuple[float, float], tmp_path: Path) -> None:
    """A sure 1, or 5 and -1 with equal chances, one step later: means 1 and 2, of the worst quarter 1 and -1."""
    policy = trained(
        "qrdqn", known.task(lambda: known.TwoPaths(3, 2)), tmp_path, total_steps=2400, discount=0.9, risk=risk,
        final_epsilon=0.5, kappa=0.1,
    )  # fmt: skip
    start = at(0, 3)
    assert policy.act(start, session_keys(0, 1)).tolist() == [[path]]
    torch.testing.assert_close(policy.scores(start), torch.tensor([values]), atol=0.4, rtol=0)


@pytest.mark.parametrize("name", ["topk", "decision-transformer"])
def test_agents_that_read_feedback_say_that_a_plain_environment_has_none(name: str, tmp_path: Path) -> None:
    task: Any = GymTask(make=lambda: gymnasium.make("CartPole-v1"))
    with pytest.raises(ValueError, match="has no users, whose feedback this agent reads"):
        make_agent(name).train(task, seed=0, folder=tmp_path)
