"""Processes: the same numbers as in this one, errors that arrive, and none that outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import agents.a3c
from agents import Task, make_agent
from agents.workers import can_fork, forked

pytestmark = [
    pytest.mark.experiments,
    pytest.mark.skipif(not can_fork(), reason="no process can be forked here"),
]
FIELDS: dict[str, Any] = {"total_steps": 600, "num_envs": 4, "rollout": 5, "workers": 3, "segments": 2}


def test_processes_in_turns_end_where_one_process_does(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side_by_side = make_agent("a3c", **FIELDS).train(task, seed=0, folder=tmp_path / "many").tensors()
    assert not multiprocessing.active_children()
    monkeypatch.setattr(agents.a3c, "can_fork", lambda: False)
    one_by_one = make_agent("a3c", **FIELDS).train(task, seed=0, folder=tmp_path / "one").tensors()
    for name, tensor in side_by_side.items():
        torch.testing.assert_close(one_by_one[name], tensor, atol=1e-6, rtol=0)
    logs = [(tmp_path / folder / "log.jsonl").read_text().count('"sessions"') for folder in ("many", "one")]
    assert logs == [2, 2]


def test_free_workers_learn_too(task: Task, tmp_path: Path) -> None:
    policy = make_agent("a3c", **FIELDS, order="free").train(task, seed=0, folder=tmp_path)
    fresh = task.scorer(hidden=64).state_dict()
    assert any(not torch.equal(tensor, fresh[name]) for name, tensor in policy.tensors().items() if "outer" in name)
    assert not multiprocessing.active_children()


def test_a_loss_that_is_not_finite_stops_the_run(task: Task, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="worker-[012]: .*the loss term '(policy|value)' is"):
        make_agent("a3c", **{**FIELDS, "learning_rate": 1e30}).train(task, seed=0, folder=tmp_path)
    assert (tmp_path / "bad-batch.safetensors").exists()
    assert not multiprocessing.active_children()


def test_results_and_errors_arrive() -> None:
    assert forked([lambda: {"number": 1}, lambda: {"tensor": torch.ones(2)}])[0] == {"number": 1}

    def killed() -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    def refused() -> dict[str, Any]:
        raise ValueError("no")

    with pytest.raises(RuntimeError, match="worker-1 ended without a result, exit code -9"):
        forked([dict, killed])
    with pytest.raises(RuntimeError, match="worker-0: ValueError: no"):
        forked([refused, dict])
    assert not multiprocessing.active_children()


ORPHANS = """
import os
from agents.workers import Turns, forked
turns = Turns(3)
def work():
    os.write(1, b"x")
    with turns.turn(2):  # never comes: nobody takes the turns before
        return {}
forked([work, work])
"""


def test_workers_end_with_their_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read(2) == b"xx"
        parent.kill()
        assert parent.stdout.read() == b""  # comes to an end once no worker holds the pipe
