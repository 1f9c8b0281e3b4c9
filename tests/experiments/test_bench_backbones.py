"""The tables of the backbones: intervals by hand, the command on a tiny log."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.bench import backbones_data, backbones_runs, backbones_speed
from experiments.bench.backbones import BackbonesBench
from experiments.bench.backbones_data import Data, of_lists
from experiments.bench.backbones_peer import running_peer
from experiments.bench.backbones_recipes import Recipe, recipes_of
from experiments.bench.backbones_runs import Ran
from experiments.bench.backbones_tables import make_rows
from recgym.backbones.backbone import BACKBONES
from recgym.backbones.baselines import BASELINES
from recgym.backbones.training import TrainedBackbone, TrainingConfig, train_backbone
from recgym.files import FormatError
from recgym.ope.intervals import seeds_and_users

CYCLE = of_lists([[(start + step) % 7 + 1 for step in range(6)] for start in range(20)], "cycle")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample log is twenty users around a circle of seven items."""
    monkeypatch.setitem(backbones_data.READERS, "sample", lambda folder: Data(CYCLE, repeats=True))


def ran(name: str, seed: int, ranks: list[float], *, curve: tuple[float, ...] = ()) -> Ran:
    rows = [{"epoch": k, "ndcg@10": quality, "seconds": k + 1.0} for k, quality in enumerate(curve)]
    return Ran(name, "bpr, 1", "8 x 1", seed, {"full": np.array(ranks)}, rows, 9.0)


def test_intervals_and_differences_are_those_computed_by_hand() -> None:
    """NDCG of ranks 1, 3 and 11 is 1, 1/2 and 0; Student's t at 97.5% is 3.18245 with 3 and 12.7062 with 1 degree."""
    first = [ran("first", 0, [1, 3, 1, 3], curve=(0.1, 0.3)), ran("first", 1, [3, 3, 1, 1], curve=(0.2, 0.1))]
    second = [ran("second", 0, [11, 3, 11, 3])]
    third = [ran("third", 0, [1, 1, 1, 3]), ran("third", 1, [1, 3, 1, 1])]
    rows = make_rows([first, second, third], np.arange(4), "full", cutoff=10, reach=0.2)
    half = 3.18245 * np.std([0.75, 0.5, 1, 0.75], ddof=1) / 2
    np.testing.assert_allclose([rows[0].ndcg.low, rows[0].ndcg.high], [0.75 - half, 0.75 + half], atol=1e-5)
    assert rows[0].over_seeds is not None and rows[0].over_seeds.low == rows[0].over_seeds.high == 0.75
    assert rows[0].difference is None and rows[1].over_seeds is None
    assert (rows[0].epochs, rows[0].reached, rows[1].epochs) == (1.5, 1.5, 0)
    assert rows[1].difference is not None
    both = seeds_and_users(np.array([[-1, 0, -1, 0], [-0.5, 0, -1, -0.5]]), np.arange(4))  # with each of two trainings
    assert rows[1].difference == both
    alone = make_rows([second, first], np.arange(4), "full", cutoff=10, reach=0.2)[1].difference
    assert alone is not None and (alone.low, alone.high) == (-both.high, -both.low)
    assert rows[1].difference.value == -0.5
    assert rows[1].hr == 0.5
    assert rows[2].difference is not None and rows[2].over_seeds is not None
    np.testing.assert_allclose(rows[2].difference.value, 0.125)
    assert make_rows([first], np.arange(4), "full", cutoff=10, reach=0.25)[0].reached == np.inf
    once = [ran("once", 1, [11, 3, 11, 3], curve=(0.1,))]  # with the training from the same seed
    assert make_rows([first, once], np.arange(4), "full", cutoff=10, reach=0.2)[1].difference == seeds_and_users(
        np.array([[-0.5, 0, -1, -0.5]]), np.arange(4)
    )


@pytest.mark.usefixtures("tiny")
def test_the_command_writes_tables_and_a_second_run_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["bench", "backbones", "--data", "sample", "--models", "sasrec", "gru", "--seeds", "2", "--epochs", "2",
               "--threads", "1", "--protocol", "full", "sampled-uniform", "--out", str(tmp_path)]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "sample" / "published-repeats"
    tables = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert set(tables) == {f"{name}.{end}" for name in ("full", "sampled-uniform") for end in ("md", "csv", "json")}
    for name, word in (("full", "full ranking"), ("sampled-uniform", "sampled: 100 uniform")):
        assert tables[f"{name}.md"].decode() in printed
        title = tables[f"{name}.md"].decode().splitlines()[0]
        assert word in title and "leave-one-out, validation item in the test input" in title
        rows = list(csv.DictReader(tables[f"{name}.csv"].decode().splitlines()))
        assert [row["model"] for row in rows] == ["sasrec", "gru"]
        about = json.loads(tables[f"{name}.json"])
        assert f"### {about['protocol']}" == title
        assert float(rows[1]["ndcg_value"]) == about["rows"][1]["ndcg_value"]
        assert len(about["curves"]) == 4

    def never(*_: object, **__: object) -> None:
        raise AssertionError("what is there must not be done again")

    monkeypatch.setattr(backbones_runs, "train_backbone", never)
    again = BackbonesBench(
        models=("sasrec", "gru"), seeds=2, epochs=2, threads=1, protocol=("full", "sampled-uniform"), out=tmp_path
    )
    again()
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == tables
    with pytest.raises(FormatError, match=r"seed-0/run\.json: of another run"):
        replace(again, bf16=True)()


@pytest.mark.usefixtures("tiny")
def test_a_run_that_was_stopped_ends_with_the_numbers_it_would_have_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BackbonesBench(models=("sasrec",), epochs=2, threads=1, out=tmp_path / "whole")
    settings()
    with monkeypatch.context() as stopped:
        stopped.setattr(backbones_runs, "ranker_of", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            BackbonesBench(models=("sasrec",), epochs=2, threads=1, out=tmp_path / "stopped")()
    BackbonesBench(models=("sasrec",), epochs=2, threads=1, out=tmp_path / "stopped")()
    whole, stopped_ranks = (
        np.load(tmp_path / name / "sample/published-repeats/sasrec/seed-0/full.npy") for name in ("whole", "stopped")
    )
    np.testing.assert_array_equal(whole, stopped_ranks)


@pytest.mark.usefixtures("tiny")
def test_a_table_with_more_epochs_goes_on_and_ranks_again(tmp_path: Path) -> None:
    whole = BackbonesBench(models=("sasrec",), epochs=3, threads=1, out=tmp_path / "whole")
    whole()
    longer = replace(whole, out=tmp_path / "longer")
    replace(longer, epochs=1, protocol=("full", "sampled-uniform"))()
    folders = [tmp_path / name / "sample/published-repeats/sasrec/seed-0" for name in ("whole", "longer")]
    assert len(json.loads((folders[1] / "run.json").read_text())["curve"]) == 1
    longer()
    np.testing.assert_array_equal(*(np.load(folder / "full.npy") for folder in folders))
    assert len(json.loads((folders[1] / "run.json").read_text())["curve"]) == 3
    assert not (folders[1] / "sampled-uniform.npy").exists()  # it was of the shorter training
    with pytest.raises(FormatError, match="trained for 3 epochs already, longer than epochs 2"):
        replace(longer, epochs=2)()


@pytest.mark.usefixtures("tiny")
def test_every_row_of_the_table_runs(tmp_path: Path) -> None:
    BackbonesBench(epochs=1, threads=1, out=tmp_path)()
    table = tmp_path / "sample" / "published-repeats" / "full.csv"
    rows = {row["model"]: row for row in csv.DictReader(table.read_text().splitlines())}
    assert list(rows) == [name for name in (*recipes_of("sample"), *BASELINES) if not name.startswith("p5")]
    assert next(iter(rows)) == "sasrec"
    assert float(rows["markov-history"]["hr"]) == float(rows["sequential-rules"]["hr"]) == 1
    assert rows["popularity"]["size"] == "-" and "shared" in rows["esasrec"]["loss"]
    assert rows["transrec"]["loss"] == "bpr, 1, penalty 0.01" and "weight decay 0.5" in rows["decoder"]["loss"]


@pytest.mark.usefixtures("tiny")
def test_some_rows_are_trained_from_every_seed_and_others_once(tmp_path: Path) -> None:
    BackbonesBench(models=("sasrec", "gru"), seeds=2, repeated=("sasrec",), epochs=1, threads=1, out=tmp_path)()
    folder = tmp_path / "sample/published-repeats"
    assert [row["seeds"] for row in csv.DictReader((folder / "full.csv").read_text().splitlines())] == ["2", "1"]
    assert not (folder / "gru" / "seed-1").exists()


@pytest.mark.usefixtures("tiny")
def test_a_plot_of_lengths_has_a_row_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BackbonesBench(part="lengths", lengths=(2, 4), epochs=1, threads=1, out=tmp_path)()
    out = capsys.readouterr().out
    assert [line.split(" | ")[1:3] for line in out.splitlines() if line.startswith("| sasrec")] == [
        ["newest window", "2"], ["newest window", "4"], ["sliding windows", "2"], ["sliding windows", "4"],
    ]  # fmt: skip
    assert (tmp_path / "sample/published-repeats/lengths.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("bf16", [False, True])
def test_speed_has_a_row_for_each_training(
    bf16: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()

    def train(*args: Any, **rest: Any) -> TrainedBackbone:
        found.add(args[3].bf16)
        return train_backbone(*args, **rest)

    monkeypatch.setattr("experiments.bench.backbones_speed.train_backbone", train)
    BackbonesBench(part="speed", rounds=1, threads=1, catalogue=0, bf16=bf16)()
    out = capsys.readouterr().out
    assert found == {bf16} and ("bfloat16" in out) == bf16
    assert all(label in out for label in backbones_speed.TRAININGS)
    assert "20 users ranked among 7 items" in out


PEER = {
    "model.py": """
import torch
class SASRec(torch.nn.Module):
    def __init__(self, users, items, args):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(users, items + 1))
    def forward(self, users, history, right, wrong):
        return self.bias[0, right], self.bias[0, wrong]
""",
    "utils.py": """
import pathlib
import numpy as np
def data_partition(name):
    users, items = np.loadtxt(f"data/{name}.txt", int).max(0)
    return {}, {}, {}, users, items
class WarpSampler:
    def __init__(self, train, users, items, **settings):
        self.items = items
    def next_batch(self):
        return np.ones((4, 1, 2), int)
    def close(self):
        pathlib.Path(__file__).with_name("closed").touch()
""",
}


def test_the_peer_is_run_by_epochs_and_ends_its_workers(tmp_path: Path) -> None:
    for name, text in PEER.items():
        (tmp_path / name).write_text(text)
    with running_peer(tmp_path, CYCLE, 1) as peer:
        assert peer.epoch() > 0 and peer.epoch() > 0
    assert (tmp_path / "closed").exists()
    (tmp_path / "utils.py").write_text("raise ImportError('no sampler')")
    with pytest.raises(ValueError, match="SASRec.pytorch does not start"), running_peer(tmp_path, CYCLE, 1):
        pass
    with pytest.raises(ValueError, match=r"no model\.py and utils\.py"), running_peer(tmp_path / "no", CYCLE, 1):
        pass


def test_recipes_are_of_all_registered_models_and_take_the_users_of_the_log() -> None:
    for data in backbones_data.READERS:
        recipes = recipes_of(data)
        assert {recipe.model for recipe in recipes.values()} - {"p5"} == set(BACKBONES)
        for recipe in recipes.values():
            config = recipe.config(CYCLE)
            assert config.model == recipe.model
            assert getattr(config, "num_users", 20) == 20
        assert recipes["caser"].config(CYCLE).num_users == 20  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no recipes for 'netflix'"):
        recipes_of("netflix")
    with pytest.raises(TypeError, match="wings"):
        Recipe(model="gru", sizes={"wings": 2}, training=TrainingConfig()).config(CYCLE)


@pytest.mark.usefixtures("tiny")
def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seeds is 0"):
        BackbonesBench(seeds=0)
    with pytest.raises(ValueError, match=r"lengths \(0,\)"):
        BackbonesBench(lengths=(0,))
    with pytest.raises(ValueError, match="epochs is 0"):
        BackbonesBench(epochs=0)
    with pytest.raises(ValueError, match="no row of quality is called 'lstm'; there are .*sasrec"):
        BackbonesBench(models=("lstm",), out=tmp_path)()
    with pytest.raises(ValueError, match="no row of quality is called 'lstm'"):
        BackbonesBench(repeated=("lstm",), out=tmp_path)()
