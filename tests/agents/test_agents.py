"""Every registered agent: the same seed gives the same policy, a kill changes nothing, the folder reads back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from agents import AGENTS, Task, make_agent, register_agent
from agents.task import agent_class
from agents.training import Stopping
from recgym.checks import check_policy
from recgym.files import FormatError
from recgym.policy import load_policy, save_policy
from recgym.random import session_keys
from recgym.types import Observation
from tests.agents.killing import train_killed
from tests.agents.tiny import TINY

pytestmark = [
    pytest.mark.experiments,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(params=sorted(AGENTS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def weights(policy: Any) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in policy.tensors().items()}


def observation(task: Task, *, masked: bool = False) -> Observation:
    seen = task.sessions.observe(task.sessions.reset(session_keys(5, 9)), "all")
    mask = torch.arange(12).expand(9, -1) % 2 == 0
    return seen._replace(mask=mask) if masked else seen


def test_the_same_seed_gives_the_same_weights_and_another_does_not(name: str, task: Task, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first, second, third = (
        weights(make_agent(name, **TINY[name]).train(task, seed=seed, folder=tmp_path / str(place)))
        for place, seed in enumerate((0, 0, 1))
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], third[key]) for key in first)


def test_a_killed_run_resumes_to_the_same_weights(name: str, task: Task, tmp_path: Path) -> None:
    agent = make_agent(name, **TINY[name])
    whole = weights(agent.train(task, seed=0, folder=tmp_path / "whole"))
    resumed = weights(train_killed(agent, task, tmp_path / "killed"))
    for key, tensor in whole.items():
        torch.testing.assert_close(resumed[key], tensor, atol=1e-6, rtol=0, msg=key)
    curves = [(tmp_path / folder / "log.jsonl").read_text() for folder in ("whole", "killed")]
    assert [json.loads(line)["step"] for line in curves[0].splitlines()] == [
        json.loads(line)["step"] for line in curves[1].splitlines()
    ]


@pytest.mark.parametrize("name", ["dqn", "ppo", "bcq", "a3c"])
def test_a_killed_run_keeps_its_best_judgement(name: str, task: Task, tmp_path: Path) -> None:
    """Stopping early and the policy that was judged best are the same, wherever the run was killed."""
    agent = make_agent(name, **TINY[name], stopping=Stopping(sessions=20, patience=2))
    whole = weights(agent.train(task, seed=0, folder=tmp_path / "whole"))
    expected = (tmp_path / "whole" / "log.jsonl").read_text()
    for after in range(1, len(expected.splitlines())):
        folder = tmp_path / f"killed-{after}"
        resumed = weights(train_killed(agent, task, folder, rows=after))
        for key, tensor in whole.items():
            torch.testing.assert_close(resumed[key], tensor, atol=1e-6, rtol=0, msg=key)
        judged = [
            [json.loads(line)["judged_reward"] for line in text.splitlines()]
            for text in (expected, (folder / "log.jsonl").read_text())
        ]
        assert judged[0] == pytest.approx(judged[1])


def test_a_checkpoint_of_another_run_is_refused(name: str, task: Task, tmp_path: Path) -> None:
    agent = make_agent(name, **TINY[name])
    agent.train(task, seed=0, folder=tmp_path)
    with pytest.raises(FormatError, match="a run with other settings .seed 0 -> 1"):
        agent.train(task, seed=1, folder=tmp_path, resume=True)


def test_the_policy_keeps_its_contract_and_its_folder(name: str, task: Task, tmp_path: Path) -> None:
    policy = make_agent(name, **TINY[name]).train(task, seed=0, folder=tmp_path)
    save_policy(policy, tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    for masked in (False, True):
        seen = observation(task, masked=masked)
        check_policy(policy, seen)
        keys = session_keys(1, 9)
        assert torch.equal(policy.act(seen, keys), again.act(seen, keys))
        assert torch.equal(policy.probabilities(seen), again.probabilities(seen))
    assert again.name == name
    assert (tmp_path / "log.jsonl").exists()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_unknown_agents_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="splits into even batches of at most 16 as batches of one only"):
        make_agent("maskable-ppo", num_envs=17, rollout=1, batch_size=16)
    with pytest.raises(ValueError, match="no agent is called 'sac'; known: a2c, "):
        make_agent("sac")
    with pytest.raises(ValueError, match="already registered"):
        register_agent("dqn", "elsewhere:Agent")
    for name, field in (
        ("dqn", "num_envs"),
        ("ppo", "epochs"),
        ("a2c", "rollout"),
        ("cql", "updates"),
        ("epsilon-greedy", "total_steps"),
        ("linucb", "limit"),
        ("linear-ts", "draws"),
    ):
        with pytest.raises(ValueError, match=f"{field} is 0"):
            make_agent(name, **{field: 0})
    for name in AGENTS:
        fields = {field.name for field in dataclasses.fields(agent_class(name))}  # type: ignore[arg-type]
        for field, wrong in (("choice", "best"), ("temperature", 0.0), ("segments", 0), ("target_update_interval", 0)):
            if field in fields:
                with pytest.raises(ValueError, match=f"{field} is {wrong!r}"):
                    make_agent(name, **{field: wrong})
