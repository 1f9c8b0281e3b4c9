"""A training that is killed and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents import Task
from agents.learning import LearningCurve


def train_killed(agent: Any, task: Task, folder: Path, *, rows: int = 2) -> Any:
    """The policy of a training with seed 0 that was interrupted after `rows` rows of its curve, then resumed."""
    add = LearningCurve.add

    def killed(curve: LearningCurve, row: Any) -> None:
        if len(curve.rows) == rows:
            raise KeyboardInterrupt
        add(curve, row)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LearningCurve, "add", killed)
        agent.train(task, seed=0, folder=folder)
    return agent.train(task, seed=0, folder=folder, resume=True)
