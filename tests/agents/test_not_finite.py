"""Losses that are not finite: every agent stops, names the term and saves the batch; other numbers may be unknown."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from agents import AGENTS, Task, make_agent
from agents.checkpoints import CHECKPOINT
from recgym.users.learned import LearnedUsers
from tests.agents.known import Constant, Known
from tests.agents.known import task as known_task
from tests.agents.tiny import TINY

pytestmark = [
    pytest.mark.experiments,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_every_agent_names_the_term_and_saves_the_batch(
    name: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert task.logged is not None
    broken = np.full_like(task.logged.reward, np.nan)
    feedback = np.full_like(task.logged.feedback, np.nan)
    logged = replace(task.logged, reward=broken, feedback=feedback)
    step = LearnedUsers.step

    def poisoned(users: LearnedUsers, *arguments: object) -> object:
        state, response = step(users, *arguments)  # type: ignore[arg-type]
        return state, response._replace(feedback=response.feedback * math.nan)

    monkeypatch.setattr(LearnedUsers, "step", poisoned)
    fields = {**TINY[name], "workers": 1} if name == "a3c" else TINY[name]
    if name == "decision-transformer":  # learns no value: a history that is not finite is what can go wrong
        assert task.logged.history is not None
        logged = replace(logged, reward=task.logged.reward, history=np.full_like(task.logged.history, np.nan))
    if name == "bc":
        assert task.logged.state is not None
        logged = replace(logged, state=np.full_like(task.logged.state, np.nan))
    with pytest.raises(FloatingPointError, match=r"the loss term '.+' is nan: the batch is in .*bad-batch.safetensors"):
        make_agent(name, **fields).train(replace(task, logged=logged), seed=0, folder=tmp_path)
    batch = safetensors.torch.load_file(tmp_path / "bad-batch.safetensors")
    assert any(not bool(part.isfinite().all()) for part in batch.values() if part.is_floating_point())
    assert not (tmp_path / CHECKPOINT).exists()


class Nothing(Constant):
    """A reward of 0 at every step: there is no variance to explain."""

    def reward(self, action: int) -> float:
        return 0.0


@pytest.mark.parametrize("name", ["a2c", "maskable-ppo", "ppo", "recurrent-ppo", "trpo"])
def test_a_number_that_is_unknown_stops_nothing(name: str, tmp_path: Path) -> None:
    def one() -> Known:
        return Nothing(1, 2)

    make_agent(name, **{**TINY[name], "discount": 0.0, "gae_lambda": 1.0}).train(
        known_task(one), seed=0, folder=tmp_path
    )
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["train/explained_variance"] is None
