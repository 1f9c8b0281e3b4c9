"""What docs/agents.md says: it names every agent, tells apart who learns from logs, and its own agent runs."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

import agents.task
import recgym.policy
from agents import AGENTS, BASELINES, Task, make_agent
from experiments.contest import OFFLINE
from recgym.checks import check_policy
from recgym.policy import load_policy, save_policy
from recgym.random import session_keys

pytestmark = [pytest.mark.experiments, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("| ").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]
TABLE = {row[0].strip("`"): row for row in ROWS if len(row) == 7}


def test_the_table_names_every_agent_and_what_it_learns_from() -> None:
    assert sorted(TABLE) == sorted(AGENTS)
    assert {name for name, row in TABLE.items() if row[4] == "logs"} == set(OFFLINE)
    assert {row[4] for row in TABLE.values()} == {"users", "logs"}


def test_the_front_page_names_every_agent() -> None:
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z0-9-]+)`", front.split("## Agents")[1].split("## ")[0]))
    assert named == {*AGENTS, *BASELINES}
    assert f"[{len(AGENTS)} agents](docs/agents.md)" in front


def test_the_page_s_own_agent_trains_and_reads_back(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "my_agent.py" in block)
    (tmp_path / "my_agent.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(agents.task, "AGENTS", dict(AGENTS))
    monkeypatch.setattr(recgym.policy, "POLICIES", dict(recgym.policy.POLICIES))
    importlib.import_module("my_agent")
    policy = make_agent("best-means", sessions=50).train(task, seed=0, folder=tmp_path)
    save_policy(policy, tmp_path / "policy")
    seen = task.sessions.observe(task.sessions.reset(session_keys(0, 5)), "all")
    again = load_policy(tmp_path / "policy")
    assert again.scores(seen).equal(policy.scores(seen))
    check_policy(again, seen)
    del sys.modules["my_agent"]
