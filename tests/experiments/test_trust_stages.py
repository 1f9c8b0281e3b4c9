"""The ladder and the audit as stages, on little: they write what the report reads, and keep what is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import experiments.audit
import experiments.ladder
from agents import make_agent
from experiments.__main__ import main
from experiments.audit import read_audit
from experiments.fit import Fit
from experiments.runs import Run
from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.training import TrainingConfig
from recgym.files import read_json
from recgym.users.config import UserConfig

pytestmark = [
    pytest.mark.experiments,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents, backbones and users of a second or two."""
    small = {"total_steps": 256, "num_envs": 8, "rollout": 4, "segments": 2}
    for module in (experiments.audit, experiments.ladder):
        monkeypatch.setattr(module, "make_agent", lambda name: make_agent(name, **small))
        monkeypatch.setattr(module, "TrainingConfig", lambda seed: TrainingConfig(seed=seed, epochs=1))
        monkeypatch.setattr(module, "UserConfig", lambda **fields: UserConfig(**fields, epochs=1, max_starts=40))


def test_a_rung_is_climbed_once(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["ladder", "--out", str(tmp_path), "--users", "20", "--exploration", "0.5", "--seeds", "1",
               "--agents", "a2c", "--sessions", "30", "--processes", "1"]  # fmt: skip
    assert main(command) == 0
    assert "Spearman" in capsys.readouterr().out
    found = read_json(tmp_path / "ladder.json", format="recgym-ladder", version=1)
    (rung,) = found["rungs"]
    assert len(rung["policies"]) == 11 and "a2c" in rung["policies"]
    assert all(len(pair) == 2 and min(pair) >= 0 for pair in rung["policies"].values())
    assert rung["sessions"] > 50
    assert -1 <= found["summary"][0]["spearman"][0] <= 1
    path = next(tmp_path.glob("*/rung.json"))
    before = path.stat().st_mtime_ns
    assert main([*command, "--resume"]) == 0
    assert path.stat().st_mtime_ns == before


def test_an_audit_judges_in_all_three_worlds(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    Fit(
        out=out, backbone=BackboneConfig(width=8, layers=1, length=10), training=TrainingConfig(epochs=1),
        users=UserConfig(epochs=1, ensemble=0),
    )()  # fmt: skip
    command = ["audit", "--out", str(out), "--seeds", "2", "--sessions", "30", "--ensemble", "1", "--processes", "1"]
    assert main(command) == 0
    assert "a2c, pessimism 1" in capsys.readouterr().out
    found = read_audit(Run(out).folder)
    trained = [row for row in found["rows"] if row["pessimism"] is not None]
    assert [row["pessimism"] for row in trained] == [0.0, 1.0]
    for row in found["rows"]:
        assert list(row["reward"]) == ["trained in", "independent", "truth"]
        assert all(np.isfinite(one["value"]) for one in row["over_estimation"].values())
