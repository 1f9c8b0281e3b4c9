"""Where clicks bore, the top-K agent learns to spread them: far above greed, which knows the taste (a minute: slow)."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents import make_agent
from experiments.contest import world_task
from experiments.presets import PRESETS

pytestmark = [pytest.mark.slow, pytest.mark.experiments, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
WORLD = "sardine-slate-topk-bored"


def test_slates_that_do_not_bore_are_learned(tmp_path: Path) -> None:
    task = world_task(WORLD)
    short = {"total_steps": 76_800, "segments": 3}
    policy = make_agent("topk", **{**PRESETS[WORLD]["topk"], **short}).train(task, seed=0, folder=tmp_path)
    found = task.judge(policy, 200, seed=77)
    print(f"{WORLD}: {found}")
    assert found > 270  # random 44, greedy oracle 150, this agent untrained 177
