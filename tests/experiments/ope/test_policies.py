"""Policies from columns, tables, functions, logs and folders: the probabilities that they say, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from agents.baselines import BackboneGreedy, Popularity, Random
from experiments.ope.log import read_rows
from experiments.ope.policies import Candidate, candidate, sources
from experiments.ope.rows import LoggedRows
from recgym.backbones.backbone import BackboneConfig, fingerprint, make_backbone, save_backbone
from recgym.backbones.encoding import encode_sessions
from recgym.files import FormatError
from recgym.logs.log import LogError
from recgym.policy import PolicyError, save_policy
from recgym.types import DoubleArray
from tests.experiments.ope.logs import ITEMS, OTHER, drawn, write

pytestmark = [pytest.mark.experiments, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
ALL = np.arange(60)


@pytest.fixture
def rows(tmp_path: Path) -> LoggedRows:
    return read_rows(write(drawn(20).table, tmp_path / "log.csv"), keep=None, probabilities=("prob_other",))


def made(entry: str, rows: LoggedRows, **more: Path) -> Candidate:
    return candidate(sources([entry])[0], rows, **more)


def chosen(entry: str, rows: LoggedRows, **more: Path) -> DoubleArray:
    target = made(entry, rows, **more).target
    assert target is not None
    if target.knows_all:
        every = target.distribution(ALL).double().numpy()
        np.testing.assert_allclose(every.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(every[ALL, rows.item - 1], target.chosen(), atol=1e-6)
    return target.chosen()


def table(probability: DoubleArray = OTHER) -> pl.DataFrame:
    cells = [(item, slot + 1, probability[slot, place]) for slot in range(2) for place, item in enumerate(ITEMS)]
    return pl.DataFrame(cells, schema=["item", "position", "probability"], orient="row")


def test_names_are_given_or_derived(tmp_path: Path) -> None:
    write(table(), tmp_path / "bts.csv")
    found = sources(["new=column:prob_new", "column:prob_old", "uniform", f"{tmp_path}/bts.csv", "shop.rules:best"])
    assert [one.name for one in found] == ["new", "prob_old", "uniform", "bts", "best"]
    assert [one.column for one in found] == ["prob_new", "prob_old", None, None, None]
    assert [one.called for one in found] == [False] * 4 + [True]
    with pytest.raises(ValueError, match="two policies are called 'uniform'"):
        sources(["uniform", "uniform"])
    with pytest.raises(ValueError, match="needs --policies"):
        sources([])


def test_simple_rules(rows: LoggedRows) -> None:
    np.testing.assert_array_equal(chosen("uniform", rows), np.full(60, 0.25))
    shares = (np.bincount(rows.item, minlength=5)[1:] - 1) / 59  # each row counted without itself
    np.testing.assert_allclose(chosen("frequencies", rows), shares[rows.item - 1], atol=1e-12)
    np.testing.assert_array_equal(chosen("column:prob_other", rows), drawn(20).other)
    assert made("logged", rows).target is None
    more = read_rows(rows.files[0], catalogue=(*ITEMS, "elder"))
    np.testing.assert_array_equal(chosen("uniform", more), np.full(60, 0.2))
    np.testing.assert_array_equal(chosen("uniform:shown", more), np.full(60, 0.25))
    with pytest.raises(ValueError, match=r"policy 'x': 'nowhere' is no file, folder or known form"):
        made("x=nowhere", rows)


def test_uniform_over_a_part_of_the_catalogue_is_said(tmp_path: Path) -> None:
    """60 rows of 1,000 items: nearly all are shown once, so nearly all of what the logger shows is not in the log."""
    names = [f"i{one}" for one in range(1000)]
    item = np.random.default_rng(0).choice(names, 60)
    path = write(drawn(20).table.with_columns(item=pl.Series(item)), tmp_path / "log.csv")
    (note,) = made("uniform", read_rows(path)).notes
    once = (np.unique(item, return_counts=True)[1] == 1).sum() / 60
    assert f"about {once:.0%} of what the logger shows is none of them" in note and "--catalogue" in note
    assert made("uniform", read_rows(path, catalogue=names)).notes == ()
    assert made("uniform", read_rows(write(drawn(20).table, path))).notes == ()


@pytest.mark.parametrize("name", ["other.csv", "other.parquet"])
def test_a_table_by_position_is_the_column_it_stands_for(rows: LoggedRows, tmp_path: Path, name: str) -> None:
    np.testing.assert_allclose(chosen(str(write(table(), tmp_path / name)), rows), drawn(20).other, atol=1e-15)
    alone = table().filter(pl.col("position") == 1).drop("position")
    found = chosen(str(write(alone, tmp_path / name)), rows)
    np.testing.assert_allclose(found, OTHER[0, rows.item - 1], atol=1e-15)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("probability", "0.3", "position '1': the probabilities sum to 1.2, not to 1"),
        ("probability", "-0.1", "row 2, field 'probability': '-0.1' is not a probability from 0 to 1"),
        ("probability", "much", "row 2, field 'probability': 'much' is not a probability from 0 to 1"),
        ("item", "elder", "row 2, field 'item': 'elder' is not an item of the log; .*--catalogue"),
        ("item", "bread", "row 3, field 'item': 'bread' is not new: it stands in an earlier row of the same position"),
        ("position", "9", "row 2, field 'position': '9' is not one of the log's: 1, 2"),
    ],
)
def test_a_table_that_is_no_distribution_is_named(
    rows: LoggedRows, tmp_path: Path, column: str, value: str, message: str
) -> None:
    cells = table().cast(pl.String)
    first = pl.int_range(pl.len()) == 0
    wrong = cells.with_columns(pl.when(first).then(pl.lit(value)).otherwise(column).alias(column))
    with pytest.raises(LogError, match=re.escape(f"{tmp_path}/new.csv, ") + message):
        made(str(write(wrong, tmp_path / "new.csv")), rows)


def test_a_table_says_what_it_and_the_log_do_not_share(tmp_path: Path) -> None:
    log = write(drawn(20).table, tmp_path / "log.csv")
    rows = read_rows(log, catalogue=(*ITEMS, "elder"))
    cells = pl.DataFrame({"item": ["apple", "elder"], "probability": [0.75, 0.25]})
    found = made(str(write(cells, tmp_path / "new.csv")), rows)
    assert "up to 25.0% of what the policy shows was never shown in the log: elder" in found.notes[0]
    assert (
        "3 items of the log are not in the table and count as never shown by the policy: bread, cocoa" in found.notes[1]
    )
    with pytest.raises(LogError, match="the table is by position, but the log has none"):
        made(f"{write(table(), tmp_path / 'slots.csv')}", read_rows(write(drawn(4).table.drop("position"), log)))


RULES = """
import numpy as np
from tests.experiments.ope.logs import OTHER

def other(batch):
    assert batch.items == ("apple", "bread", "cocoa", "dates") and batch.columns["age"].dtype.is_integer()
    return OTHER[batch.columns["position"].to_numpy() - 1]

def double(batch):
    found = OTHER[batch.position]
    found[batch.rows == 7] *= 2
    return found

def missing(batch):
    found = OTHER[batch.position]
    found[batch.rows == 7, 1] = np.nan
    return found

def narrow(batch):
    return OTHER[batch.position][:, :3]

def broken(batch):
    return batch.columns["height"]
"""


def test_a_function_is_asked_for_rows(rows: LoggedRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_rules.py").write_text(RULES)
    monkeypatch.syspath_prepend(tmp_path)
    np.testing.assert_array_equal(chosen("shop_rules:other", rows), drawn(20).other)
    with pytest.raises(
        ValueError, match=r"policy 'double' must give .* got sum 2 and minimum 0\.\d+ for .*log.csv, row 9"
    ):
        chosen("shop_rules:double", rows)
    with pytest.raises(ValueError, match=r"policy 'missing' must give .* sum nan and minimum nan for .*log.csv, row 9"):
        chosen("shop_rules:missing", rows)
    with pytest.raises(ValueError, match=r"policy 'narrow' must give \(60, 4\) probabilities .* got \(60, 3\)"):
        chosen("shop_rules:narrow", rows)
    with pytest.raises(ValueError, match=r"policy 'broken': shop_rules:broken failed on .*log.csv, row 2 and 59 more"):
        chosen("shop_rules:broken", rows)
    with pytest.raises(ValueError, match="policy 'none': no function 'none' in a module 'shop_rules'"):
        made("shop_rules:none", rows)


def test_another_log_gives_its_mean_distribution_by_position(rows: LoggedRows, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tables = np.array([[[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]], [[0.7, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, 0.4]]])
    size = 20_000
    slot, mood = rng.integers(0, 2, size), rng.integers(0, 2, size)  # two distributions by turns at each position
    mean = tables.mean(axis=1)  # (2, 4)
    given = tables[slot, mood]
    item = (rng.random(size)[:, None] > given.cumsum(axis=1)[:, :-1]).sum(axis=1)
    log = pl.DataFrame({
        "timestamp": np.arange(size), "item_id": np.array(ITEMS)[item], "position": slot + 1, "click": 0,
        "propensity_score": given[np.arange(size), item],
    })  # fmt: skip
    (tmp_path / "bts").mkdir()
    write(log, tmp_path / "bts" / "men.csv")
    found = made(f"{tmp_path}/bts", rows)
    assert found.name == "bts" and found.target is not None
    assert "taken without its context" in found.notes[0]
    expected = mean[rows.position, rows.item - 1]
    np.testing.assert_allclose(found.target.chosen(), expected, atol=0.01)  # the plain mean would be off by 0.08
    with pytest.raises(LogError, match=r"field 'item_id': '\w+' is not in the catalogue"):
        made(f"{tmp_path}/bts", read_rows(write(drawn(1, length=1).table, tmp_path / "short.csv")))


def test_a_recgym_policy_is_asked_at_the_logs_own_histories(rows: LoggedRows, tmp_path: Path) -> None:
    save_policy(Random(num_items=4), tmp_path / "random" / "seed-0")
    np.testing.assert_allclose(chosen(f"{tmp_path}/random/seed-0", rows), 0.25, atol=1e-7)
    assert made(f"{tmp_path}/random/seed-0", rows).name == "random"
    save_policy(Popularity(counts=torch.tensor([1.0, 5, 2, 0])), tmp_path / "popularity")
    np.testing.assert_array_equal(chosen(f"{tmp_path}/popularity", rows), rows.item == 2)
    save_policy(Random(num_items=7), tmp_path / "seven")
    with pytest.raises(PolicyError, match="reads items 7, but here are items 4"):
        made(f"{tmp_path}/seven", rows)
    (tmp_path / "random" / "seed-0" / "policy.json").write_text("{}")
    with pytest.raises(FormatError):
        made(f"{tmp_path}/random/seed-0", rows)


def test_a_policy_of_states_needs_its_encoder(rows: LoggedRows, tmp_path: Path) -> None:
    backbone = make_backbone(BackboneConfig(width=8, layers=1, length=10), 4, np.ones(1, np.float32))
    save_backbone(backbone, tmp_path / "backbone")
    save_policy(BackboneGreedy.of(backbone), tmp_path / "greedy", encoder=fingerprint(backbone))
    with pytest.raises(PolicyError, match="reads states of the encoder .* --encoder"):
        made(f"{tmp_path}/greedy", rows)
    found = chosen(f"{tmp_path}/greedy", rows, encoder=tmp_path / "backbone")
    states = encode_sessions(backbone, rows.sequences(), np.arange(20)).before
    best = backbone.scores(states).detach().argmax(dim=1).numpy()
    np.testing.assert_array_equal(found, rows.item == best + 1)
    other = make_backbone(BackboneConfig(width=8, layers=1, length=10), 5, np.ones(1, np.float32))
    save_backbone(other, tmp_path / "other")
    with pytest.raises(PolicyError, match="encoder"):
        made(f"{tmp_path}/greedy", rows, encoder=tmp_path / "other")


def test_a_run_that_numbers_items_otherwise_is_refused(rows: LoggedRows, tmp_path: Path) -> None:
    save_policy(Random(num_items=4), tmp_path / "run" / "policies" / "random" / "seed-0")
    (tmp_path / "run" / "log").mkdir()
    path = write(pl.DataFrame({"item": ITEMS[::-1]}), tmp_path / "run" / "log" / "items.parquet")
    with pytest.raises(PolicyError, match=f"numbers 4 items otherwise .* give --catalogue {path}"):
        made(f"{tmp_path}/run/policies/random/seed-0", rows)
    same = read_rows(rows.files[0], catalogue=ITEMS[::-1])
    np.testing.assert_allclose(chosen(f"{tmp_path}/run/policies/random/seed-0", same), 0.25, atol=1e-7)
