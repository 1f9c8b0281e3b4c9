"""A run folder notes how it was made and says which stage is missing."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.runs import Run, plain
from recgym.files import FormatError


@dataclass(frozen=True)
class _Settings:
    out: Path
    sizes: tuple[int, ...] = (1, 2)


def test_a_stage_notes_settings_time_and_versions(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.stage("fit", _Settings(out=tmp_path)) as notes:
        notes["data_hash"] = "abc"
    config = run.config()
    assert config["stages"]["fit"]["settings"] == {"out": str(tmp_path), "sizes": [1, 2]}
    assert config["stages"]["fit"]["data_hash"] == "abc"
    assert config["versions"]["numpy"].startswith("2")
    events = [json.loads(line)["event"] for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert events == ["fit started", "fit finished"]


def test_an_interrupted_stage_is_not_noted_as_done_and_seconds_add_up_on_resume(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(KeyboardInterrupt), run.stage("fit", {}):
        raise KeyboardInterrupt
    assert run.config()["stages"] == {}
    with run.stage("fit", {}):
        pass
    first = run.config()["stages"]["fit"]["seconds"]
    with run.stage("fit", {}, resumed=True):
        pass
    assert run.config()["stages"]["fit"]["seconds"] >= first


def test_what_is_missing_is_named_with_the_stage_that_makes_it(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(FormatError, match="run `python -m experiments fit`"):
        run.need(run.users, "fit")


def test_a_foreign_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"format": "other"}')
    with pytest.raises(FormatError, match="field 'format' is 'other'"):
        Run(tmp_path).config()


def test_plain_settings_are_json() -> None:
    assert json.dumps(plain({"a": (Path("x"), None, 1.5)})) == '{"a": ["x", null, 1.5]}'
