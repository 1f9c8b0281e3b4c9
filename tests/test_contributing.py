"""The agent that CONTRIBUTING shows is a whole one."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import agents.learning
import agents.task
import recgym.policy
from agents import Task, make_agent
from recgym.checks import check_policy
from recgym.env.session import SessionConfig, Sessions
from recgym.policy import load_policy, save_policy
from recgym.random import session_keys
from tests.agents.killing import train_killed
from tests.users.small import small_users

pytestmark = [pytest.mark.experiments, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "earners.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(agents.task, "AGENTS", dict(agents.task.AGENTS))
    monkeypatch.setattr(recgym.policy, "POLICIES", dict(recgym.policy.POLICIES))
    monkeypatch.delitem(sys.modules, "earners", raising=False)
    __import__("earners")
    return make_agent("earners", sessions=40)


@pytest.mark.parametrize("slate_size", [1, 2])
def test_it_trains_resumes_and_reads_back(agent: Any, slate_size: int, tmp_path: Path) -> None:
    task = Task(sessions=Sessions(small_users(), SessionConfig(max_steps=5, slate_size=slate_size)))
    whole = agent.train(task, seed=0, folder=tmp_path / "whole")
    resumed = train_killed(agent, task, tmp_path / "killed")
    assert torch.equal(resumed.means, whole.means) and bool((whole.means > 0).any())
    save_policy(whole, tmp_path / "policy")
    again = load_policy(tmp_path / "policy", sizes=task.sessions.sizes)
    seen = task.sessions.observe(task.sessions.reset(session_keys(0, 4)))
    check_policy(again, seen)
    assert torch.equal(again.act(seen, session_keys(1, 4)), whole.act(seen, session_keys(1, 4)))
