"""Logged transitions as rows: no session's end is lost or crossed, histories shift, masks are those of the sessions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import Task, make_agent
from agents.baselines import Random
from agents.offline import Offline
from agents.updates import HeldOut
from recgym.env.session import SessionConfig, Sessions
from recgym.rollout import collect
from tests.agents.tiny import LOGGED
from tests.users.small import small_users

pytestmark = [pytest.mark.experiments, pytest.mark.filterwarnings("ignore::UserWarning")]


def masked_task(**changes: Any) -> Task:
    users = small_users(repeats=False)
    sessions = Sessions(users, SessionConfig(max_steps=4, repeats="mask"))
    logged = collect(sessions, Random(num_items=12), num_sessions=40, seed=1, keep=("state", "history"))
    return Task(sessions=sessions, backbone=users.backbone, logged=replace(logged, **changes), history=5)


def test_what_follows_a_step_is_of_the_same_session(task: Task) -> None:
    logged = task.logged
    assert logged is not None and logged.final_state is not None and logged.state is not None
    data = Offline.of(task)
    assert len(data) == logged.num_steps
    assert logged.truncated.any() and logged.terminated.any()
    batch, width = data.at(data.drawn), data.layout.state_width
    last = np.append(np.diff(logged.episode) != 0, True)
    inner = np.flatnonzero(~last)
    assert (batch.after[:, :width][last].numpy() == logged.final_state).all()
    assert (batch.after[:, :width][inner].numpy() == logged.state[inner + 1]).all()
    assert (batch.now[:, :width].numpy() == logged.state).all()
    assert (batch.after[:, -1][last].numpy() == logged.final_context[:, 0]).all()
    assert (batch.going.numpy() == ~logged.terminated).all()
    for step in (0, 7, logged.num_steps - 1):
        rest = [other for other in range(step, logged.num_steps) if logged.episode[other] == logged.episode[step]]
        assert float(batch.to_go[step]) == pytest.approx(float(logged.reward[rest].sum()), abs=1e-5)


@pytest.mark.parametrize("length", [4, 9])
def test_the_history_after_a_step_is_the_one_before_shifted(length: int, task: Task) -> None:
    logged = task.logged
    assert logged is not None
    layout = replace(task.layout(1), history=length, num_feedback=3)
    batch = (data := Offline.of(task, layout=layout)).at(torch.arange(logged.num_steps))
    assert data.layout is layout
    before, after = layout.unpack(batch.now), layout.unpack(batch.after)
    assert before.items is not None and before.feedback is not None
    kept = min(length, 6)
    items = torch.cat([before.items[:, 1:], torch.from_numpy(logged.action)], 1)[:, -kept:]
    feedback = torch.cat([before.feedback[:, 1:], torch.from_numpy(logged.feedback)], 1)[:, -kept:]
    assert after.items is not None and torch.equal(after.items[:, -kept:], items)
    assert after.feedback is not None and torch.equal(after.feedback[:, -kept:], feedback)


def test_masks_are_those_of_the_sessions() -> None:
    task = masked_task()
    logged = task.logged
    assert logged is not None and logged.mask is not None
    data = Offline.of(task)
    batch = data.at(data.drawn)
    before, later = data.layout.unpack(batch.now).mask, data.layout.unpack(batch.after).mask
    assert before is not None and later is not None
    assert torch.equal(before, torch.from_numpy(logged.mask))
    after = logged.mask.copy()
    after[np.arange(len(after)), logged.action[:, 0] - 1] = False
    assert torch.equal(later, torch.from_numpy(after))


def test_without_masks_a_session_shows_nothing_twice() -> None:
    task = masked_task(mask=None)
    logged = task.logged
    assert logged is not None
    data = Offline.of(task)
    found = data.layout.unpack(data.at(data.drawn).after).mask
    assert found is not None
    for step in range(logged.num_steps):
        first = step - int(logged.step[step])
        assert set((~found[step]).nonzero()[:, 0].tolist()) == set((logged.action[first : step + 1, 0] - 1).tolist())


@pytest.mark.parametrize("exposures", [True, False])
def test_slates_stand_in_rows_item_by_item(exposures: bool, tmp_path: Path) -> None:
    """After a session's last step each item of its slate has entered the history, or each that was chosen."""
    users = small_users(exposures=exposures)
    sessions = Sessions(users, SessionConfig(max_steps=3, slate_size=2, repeats="mask"))
    chance = Random(num_items=12, slate_size=2)
    logged = collect(sessions, chance, num_sessions=40, seed=1, keep=("state", "history"))
    task = Task(sessions=sessions, backbone=users.backbone, logged=logged, history=5)
    data = Offline.of(task, layout=task.layout(), slates=True)
    assert torch.equal(data.slates, torch.from_numpy(logged.action - 1))
    batch, layout = data.at(data.drawn), data.layout
    before, after = layout.unpack(batch.now), layout.unpack(batch.after)
    assert before.items is not None and after.items is not None and logged.mask is not None
    assert before.mask is not None and torch.equal(before.mask, torch.from_numpy(logged.mask))
    entered = 0
    for step in np.flatnonzero(np.append(np.diff(logged.episode) != 0, True)).tolist():
        items = before.items[step].tolist()
        for item, feedback in zip(logged.action[step], logged.feedback[step], strict=True):
            if exposures or feedback[0] > 0:
                items, entered = [*items[1:], item], entered + 1
        assert after.items[step].tolist() == items
    assert entered > 0
    with pytest.raises(ValueError, match="slates of 2"):
        Offline.of(task)
    for found in (task, replace(task, logged=replace(logged, mask=None))):
        policy = make_agent("topk-reinforce", **LOGGED).train(found, seed=0, folder=tmp_path)
        assert collect(sessions, policy, num_sessions=5, seed=3).action.shape[1] == 2


def test_shares_of_the_sessions(task: Task) -> None:
    data = Offline.of(task)
    best = data.best(0.25)
    chosen = best.episode[best.drawn].unique()
    assert len(chosen) == 15
    others = np.setdiff1d(np.arange(60), chosen.numpy())
    assert data.returns[chosen].min() >= data.returns[torch.from_numpy(others)].max()
    torch.manual_seed(0)
    training, test = data.split(0.2)
    ours, theirs = (set(part.episode[part.drawn].tolist()) for part in (training, test))
    assert len(theirs) == 12 and ours | theirs == set(range(60)) and not ours & theirs
    assert len(training) + len(test) == len(data)
    with pytest.raises(ValueError, match="holds 0 of 60 sessions out"):
        data.split(0.001)


def test_held_out_sessions_choose_the_network(task: Task, tmp_path: Path) -> None:
    settings = {"updates": 400, "batch_size": 64, "segments": 10, "learning_rate": 0.05, "held_out": 0.2, "patience": 1}
    make_agent("bc", **settings).train(task, seed=0, folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [row["held_out_loss"] for row in rows if "held_out_loss" in row]
    assert losses == [*sorted(losses[:-1], reverse=True), losses[-1]] and losses[-1] >= losses[-2]
    assert len(losses) < 10 and all("train/cloning" not in row for row in rows[len(losses) :])
    torch.manual_seed(0)
    network = torch.nn.Linear(1, 1)
    held = HeldOut(Offline.of(task), 0.2, 1)
    for value in (2.0, 1.0, 3.0, 0.0):
        with torch.no_grad():
            network.bias.fill_(value)
        held.judge(network, lambda batch: network(batch.reward.unsqueeze(1) * 0)[:, 0])
    assert held.over and float(held.pick(network).bias) == 1.0
    assert float(network.bias) == 0.0


def test_what_a_log_must_hold(task: Task) -> None:
    logged = task.logged
    assert logged is not None
    for changes, message in (
        ({"state": None}, "no state"),
        ({"action": np.ones((logged.num_steps, 2), np.int64)}, "slates of 2"),
        ({"action": logged.action + 12}, "the task has 12"),
    ):
        with pytest.raises(ValueError, match=message):
            Offline.of(replace(task, logged=replace(logged, **changes)))
    with pytest.raises(ValueError, match="the task has none"):
        Offline.of(replace(task, logged=None))
    with pytest.raises(ValueError, match="have no history"):
        Offline.of(replace(task, history=4, logged=replace(logged, items=None)))
    few = replace(masked_task().layout(1), shown=1)
    with pytest.raises(ValueError, match="rows hold 1"):
        Offline.of(masked_task(), layout=few)


@pytest.mark.parametrize("name", ["bc", "cql", "bcq", "iql", "sqn", "sa2c", "decision-transformer", "topk-reinforce"])
def test_every_agent_learns_from_a_log_with_masks_and_history(name: str, tmp_path: Path) -> None:
    task = masked_task()
    policy = make_agent(name, **LOGGED).train(task, seed=0, folder=tmp_path)
    found = collect(task.sessions, policy, num_sessions=20, seed=3)
    for episode in range(20):
        items = found.action[found.episode == episode, 0]
        assert len(set(items.tolist())) == len(items)
