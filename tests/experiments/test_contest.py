"""Contests: what stands is kept, differences are paired, tables hold the band; in known worlds and in learned users."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from agents import AGENTS
from agents.distributional import DistributionalPolicy, Quantiles
from agents.layout import Layout
from agents.networks import ItemScorer
from experiments.bench.agents import AgentsBench, table
from experiments.contest import OFFLINE, Contest, configured, row, world_task
from experiments.learned_contest import _row as learned_row
from experiments.runs import Run
from experiments.scoring import find_policies
from experiments.train import Train
from recgym.backbones.backbone import fingerprint
from recgym.env.session import SessionConfig, Sessions
from recgym.files import FormatError
from recgym.policy import PolicyError, save_policy
from recgym.random import session_keys
from recgym.rollout import collect
from simulators.coat import Coat
from tests.users.small import small_users

pytestmark = [pytest.mark.experiments, pytest.mark.filterwarnings("ignore")]
QUICK = {"total-steps": "256", "num-envs": "8", "rollout": "8", "segments": "2", "stopping.sessions": "0"}
WORLD = "long-term-satisfaction-repaired"


def test_a_contest_keeps_what_it_has_and_prints_the_band(tmp_path: Path, capsys: Any) -> None:
    contest = Contest(out=tmp_path, agents=("a2c",), settings=QUICK, seeds=2, sessions=20, processes=1)
    rows = contest.in_world(WORLD)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("returns.npy")}
    again = contest.in_world(WORLD)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("returns.npy")} == before
    assert rows["a2c"]["reward"] == again["a2c"]["reward"]
    assert rows["a2c"]["steps"] == 256
    stopped, whole = (contest.folder(WORLD, "a2c", seed) / "result.json" for seed in range(2))
    stopped.unlink()
    resumed = contest.in_world(WORLD)["a2c"]
    assert resumed["reward"] == rows["a2c"]["reward"] and json.loads(stopped.read_text())["seconds"] is None
    assert resumed["minutes"] == json.loads(whole.read_text())["seconds"] / 60
    assert list(rows) == ["random", "myopic", "rule", "best known", "a2c"]
    assert rows["best known"]["minus rule"].value > 0
    text = table(WORLD, rows, contest)
    assert "| **a2c** |" in text and "| best known |" in text and "myopic" in text
    Train(agents=("a2c",), out=tmp_path / "train", world=WORLD, seeds=1, settings=QUICK, processes=1)()
    assert "| **a2c** |" in capsys.readouterr().out


def test_differences_are_paired() -> None:
    users = np.random.default_rng(0).normal(size=500) * 10
    band = {name: users + shift for name, shift in (("random", 0.0), ("myopic", 1), ("rule", 2), ("best known", 3))}
    found = row(np.stack([users + 2.5, users + 2.5]), band)
    assert found["minus rule"].value == pytest.approx(0.5)
    assert found["minus rule"].high - found["minus rule"].low < 1e-6 < found["reward"].high - found["reward"].low


def test_choices_of_the_same_people_do_not_count_as_more_people() -> None:
    """Each person asked four times, with the same answers, is one person; the interval is as wide as if asked once."""
    people = np.arange(40, dtype=np.float64)

    def figures(times: int) -> dict[str, Any]:
        answers = np.repeat(np.random.default_rng(0).random(40), times)
        parts = dict.fromkeys(("trained in", "independent", "ndcg@10", "hr@10"), answers)
        return {**parts, "coverage": np.ones(1), "user": np.repeat(people, times), "asked": np.repeat(people, times)}

    for seeds in (1, 3):
        once, often = (learned_row([figures(times)] * seeds, figures(times)) for times in (1, 4))
        for key in ("ndcg@10", "independent"):
            assert often[key].low == pytest.approx(once[key].low, abs=1e-9)
            assert often[key].high - often[key].low > 0.05


def test_settings_are_those_of_the_command_line() -> None:
    agent = configured("ppo", {"hidden": 8}, {"total-steps": "123", "stopping.sessions": "7"})
    assert (agent.hidden, agent.total_steps, agent.stopping.sessions) == (8, 123, 7)
    assert configured("dqn", {}, {"dueling": "True", "double": "False"}).dueling
    with pytest.raises(ValueError, match="do not fit the agent 'ppo'; its fields are total-steps, "):
        configured("ppo", {}, {"no-such-field": "1"})
    with pytest.raises(ValueError, match="do not fit the agent 'ppo'"):
        Train(out=Path("nowhere"), agents=("ppo",), settings={"hidden": "wide"})
    with pytest.raises(ValueError, match="a world is met as it was published"):
        Train(out=Path("nowhere"), world=WORLD, max_steps=5)


def test_worlds_become_tasks_with_the_history_that_agents_read() -> None:
    task = world_task("sardine-single-item-bored-inf", logged=5)
    assert task.layout().history == task.history == 40
    assert world_task("sardine-single-item-bored-inf", history=7).layout().history == 7
    assert task.logged is not None and task.logged.items is not None
    assert np.isfinite(task.logged.propensity).all()
    assert task.item_features is not None and task.item_features.shape == (1000, 10)
    assert task.item_categories is not None
    assert torch.equal(task.item_categories, task.item_features.argmax(1))  # the main topic, numbered by name
    assert task.scorer().items.shape == (1000, 10)
    assert world_task(WORLD).item_features is None
    with pytest.raises(ValueError, match="say where with --path"):
        world_task("coat")


def test_coats_ratings_are_sessions_of_the_users(real_data: Any) -> None:
    folder = real_data / "coat"
    task = world_task("coat", path=folder, logged=1)
    logged, users = task.logged, task.sessions.users
    assert isinstance(users, Coat)
    assert logged is not None and logged.state is not None and logged.items is not None
    assert logged.num_episodes == users.num_users
    assert set(np.bincount(logged.episode).tolist()) == {24}
    assert task.item_features is not None and world_task("coat", path=folder).item_features is None
    torch.testing.assert_close(task.item_features.norm(dim=1), torch.ones(users.num_items))
    assert logged.truncated.sum() == logged.num_episodes and not logged.terminated.any()
    inner = np.flatnonzero(~logged.truncated)
    assert (logged.items[inner + 1, -1] == logged.action[inner, 0]).all()  # the history grows by what was rated
    fresh = users.visible(users.reset(session_keys(0, 1))).vector.shape[1]
    assert logged.state.shape[1] == fresh


def test_agents_that_learn_from_logs_get_logs() -> None:
    from dataclasses import fields

    from agents.task import agent_class

    counted = {name for name in AGENTS if "updates" in {one.name for one in fields(agent_class(name))}}  # type: ignore[arg-type]
    assert counted == set(OFFLINE)


def test_every_kind_of_policy_is_scored_with_slates_of_the_asked_size(tmp_path: Path) -> None:
    run, users = Run(tmp_path), small_users()
    wide = ItemScorer(Layout(num_items=12, state_width=8), outputs=5)
    policy = DistributionalPolicy(scorer=wide, reading=Quantiles(num=5), name="qrdqn")
    save_policy(policy, run.policy("qrdqn", 0), encoder=fingerprint(users.backbone))
    loaded: Any = SimpleNamespace(users=users, sequences=SimpleNamespace(num_items=12))
    (found,) = find_policies(run, loaded, "qrdqn", 3)
    assert collect(Sessions(users, SessionConfig(slate_size=3)), found, num_sessions=4, seed=0).action.shape[1] == 3
    loaded.sequences.num_items = 13
    with pytest.raises(PolicyError, match=r"reads items 12, state 8, but here are items 13 \(for .*policy.json"):
        find_policies(run, loaded, "qrdqn", 3)


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no agent is called 'sac'"):
        Contest(out=tmp_path, agents=("sac",))
    with pytest.raises(ValueError, match="no world is called 'mars'"):
        AgentsBench(worlds=("mars",))
    with pytest.raises(ValueError, match="no world is called 'mars'"):
        Train(out=tmp_path, world="mars")
    with pytest.raises(FormatError):
        AgentsBench(runs=(tmp_path,))()
