"""Sequences of a replay and what DRQN learns from them: consecutive steps, memories, values in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from agents.drqn import DRQN
from agents.gym_task import GymTask
from agents.recurrence import Memory
from agents.replay import Replay
from agents.sequences import SequenceRing
from recgym.policy import recalled
from recgym.types import Observation

pytestmark = [pytest.mark.experiments, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_sequences_of_a_replay_are_consecutive_and_start_with_their_memory() -> None:
    replay = Replay(24, 2, 1)
    ring = SequenceRing(replay, 1)
    for step in range(31):  # the ring has gone round twice
        number = torch.tensor([[float(step)], [100.0 + step]])
        fresh = torch.tensor([step % 5 == 0, step % 7 == 0])
        ends = torch.tensor([step % 5 == 4, step % 7 == 6])
        ring.note(Memory(number + 0.25, number + 0.5), fresh)
        cut = ends & torch.tensor([False, True])
        replay.add(
            row=number, action=torch.full((2, 1), step), reward=number[:, 0], left=ends & ~cut, cut=cut,
            last=number[cut] + 0.75, feedback=torch.zeros(2, 1, 1),
        )  # fmt: skip
    batch = ring.sample(500, 4)
    row = batch.row[..., 0]
    assert batch.row.shape == (5, 500, 1)
    assert ((row[1:] - row[:-1]) == 1).all()
    assert set(row[0].tolist()) == {*range(19, 27), *range(119, 127)}
    torch.testing.assert_close(batch.memory(), Memory(batch.row[0] + 0.25, batch.row[0] + 0.5))
    assert (batch.action[..., 0] == row[:-1] % 100).all()
    assert (batch.reward == row[:-1]).all()
    first = row < 100
    assert (batch.fresh == torch.where(first, row % 5 == 0, (row - 100) % 7 == 0)).all()
    assert (batch.left == (first & (row % 5 == 4))[:-1]).all()
    expected = (~first & ((row - 100) % 7 == 6))[:-1].nonzero()
    assert (batch.cut == expected).all()
    torch.testing.assert_close(batch.last[:, 0], row[batch.cut[:, 0], batch.cut[:, 1]] + 0.75)
    with pytest.raises(ValueError, match="holds 12 steps of each session, expected more than 12"):
        ring.sample(1, 12)


class Ticks(gymnasium.Env[Any, Any]):
    """Reward 1 at every step; the episode ends with the third, by itself or by the clock."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, terminates: bool) -> None:
        self.terminates = terminates

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        over = self.step_number == 3
        return np.zeros(1, np.float32), 1.0, over and self.terminates, over and not self.terminates, {}


@pytest.mark.parametrize(("terminates", "burn_in"), [(True, 3), (False, 3), (False, 0)])
def test_values_of_a_constant_reward(terminates: bool, burn_in: int, tmp_path: Path) -> None:
    """1 / (1 - 1/2) = 2 where the clock ends the episode; 1, 1.5 and 1.75 before its end where it ends by itself."""
    agent = DRQN(
        total_steps=1_200, num_envs=10, learning_starts=200, target_update_interval=60, learning_rate=1e-2,
        discount=0.5, batch_size=8, length=5, burn_in=burn_in, memory=8, hidden=8, gradient_steps=2, segments=2,
    )  # fmt: skip
    task: Any = GymTask(make=lambda: Ticks(terminates))
    policy: Any = agent.train(task, seed=0, folder=tmp_path)
    values, memory = [], None
    for step in range(3):
        observation = recalled(policy, Observation(torch.tensor([[step / 100]]), state=torch.zeros(1, 1)), memory)
        memory = observation.memory
        values.append(float(policy.scores(observation).mean()))
    np.testing.assert_allclose(values, [1.75, 1.5, 1.0] if terminates else [2, 2, 2], atol=0.12)
