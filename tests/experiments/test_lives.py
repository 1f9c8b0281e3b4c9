"""The stage of lives: every policy over several sessions, in the learned users and in the truth, and on the page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.fit import Fit
from experiments.lives import MEASURES, read_lives
from experiments.report import render
from experiments.runs import Run
from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.training import TrainingConfig
from recgym.users.config import UserConfig
from recgym.users.storage import load_users, save_users
from tests.experiments.cards import card

pytestmark = pytest.mark.experiments


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The sample log with the shipped users in place of hastily fitted ones."""
    out = tmp_path_factory.mktemp("lives") / "out"
    Fit(
        out=out, backbone=BackboneConfig(width=8, layers=1, length=10), training=TrainingConfig(epochs=1),
        users=UserConfig(epochs=1, ensemble=0),
    )()  # fmt: skip
    shutil.rmtree(out / "users")
    save_users(load_users("sample"), out / "users")
    return Run(out)


def test_lives_are_scored_in_both_worlds_and_shown(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lives", "--out", str(run.folder), "--users", "40", "--horizon-days", "15"]) == 0
    told = capsys.readouterr().out
    assert "lives of 15 days" in told and "popularity" in told
    found = read_lives(run.folder)
    assert [row["policy"] for row in found["rows"]][:2] == ["random", "popularity"]
    for row in found["rows"]:
        for place in ("simulated", "truth"):
            numbers = row[place]
            assert set(numbers) == set(MEASURES)
            assert all(one["low"] <= one["value"] <= one["high"] for one in numbers.values())
            assert 1 <= numbers["sessions"]["value"] < 15
            assert 0 <= numbers["day 7"]["value"] <= numbers["within 7 days"]["value"] + numbers["day 7"]["value"] <= 2
        assert row["truth"]["churned"]["value"] == 0  # the storefront's users always come back
    page = render(card({"a2c": 3.0}), {}, lives=found)
    assert "Lives of 15 days" in page


def test_too_few_users_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="users is 1, expected at least 2"):
        from experiments.lives import Lives

        Lives(out=tmp_path, users=1)
    assert main(["lives", "--out", str(tmp_path)]) == 1
