"""The audit on Coat: made-up folders whose answer is known, rules against closed forms, and the real files."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.__main__ import STAGES
from experiments.coat_audit import USERS, CoatAudit, audit_coat
from experiments.coat_log import coat_log, last_roles, read_coat_data
from experiments.coat_picks import judge_picks, pick_best
from experiments.coat_table import conclusions
from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.training import TrainingConfig
from recgym.logs.pivot import build_sequences
from recgym.logs.splits import TEST, TRAIN, VALIDATION
from recgym.types import DoubleArray

USERS_MADE, ITEMS_MADE, SHOWN = 150, 60, 8
SMALL: dict[str, Any] = {
    "backbone": BackboneConfig(width=8, layers=1, length=12),
    "training": TrainingConfig(epochs=2),
    "users": replace(USERS, epochs=8, width=8, leave_width=4, item_width=2, batch_size=128),
}


def write(path: Path, matrix: Any) -> None:
    path.write_text("\n".join(" ".join(f"{value:g}" for value in row) for row in matrix) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings without taste, of which users choose fives eight times as often as ones; features that say nothing."""
    folder = tmp_path_factory.mktemp("coat")
    rng = np.random.default_rng(0)
    stars = rng.integers(1, 6, (USERS_MADE, ITEMS_MADE))
    chance = np.array([0, 0.1, 0.2, 0.3, 0.5, 0.8])[stars]
    chosen = rng.random(stars.shape) < chance
    shown = np.argsort(rng.random(stars.shape), 1) < SHOWN
    write(folder / "train.ascii", stars * chosen)
    write(folder / "test.ascii", stars * shown)
    write(folder / "propensities.ascii", chance)
    write(folder / "user_features.ascii", np.eye(2, dtype=int)[rng.integers(2, size=USERS_MADE)])
    (folder / "user_features_map.txt").write_text("gender:men\ngender:women\n")
    write(folder / "item_features.ascii", np.eye(2, dtype=int)[rng.integers(2, size=ITEMS_MADE)])
    (folder / "item_features_map.txt").write_text("jackettype:pea\njackettype:rain\n")
    return folder


@pytest.fixture(scope="module")
def audited(made: Path) -> dict[str, Any]:
    return audit_coat(made, seeds=2, ensemble=2, **SMALL)


def test_self_selection_of_high_ratings_is_found_as_bias_on_random_exposures(audited: dict[str, Any]) -> None:
    selection = audited["stars_chosen"] - audited["stars_exposed"]
    assert selection > 0.6
    alike, weighed = (audited["fits"][name]["beliefs"] for name in ("all ratings alike", "inverse propensities"))
    bias, shape = alike["bias_exposed"], alike["bias_held_out"]["value"]
    assert abs(shape) < 0.4  # log-normal amounts on five stars: not the audit's business, so taken off
    assert bias["value"] - shape == pytest.approx(selection, abs=0.2) and bias["low"] > 0.3
    assert len(bias["by_fit"]) == 2 and np.mean(bias["by_fit"]) == pytest.approx(bias["value"])
    assert -0.4 < weighed["bias_exposed"]["value"] < 0.15
    assert weighed["bias_held_out"]["value"] < shape - 0.5  # the price: choices are misjudged
    assert abs(alike["correlation"]) < 0.1  # there is no taste to find
    assert audited["propensities_gain"]["best 1"]["over"]["high"] < 0


def test_the_truth_is_the_ceiling_and_chance_has_no_curse(audited: dict[str, Any], made: Path) -> None:
    stars = np.sort(read_coat_data(made).stars.double().numpy(), 1)
    for fit in audited["fits"].values():
        for k in (1, 3):
            rules = fit["picks"][f"best {k}"]
            assert rules["truth"]["true"]["value"] == pytest.approx(stars[:, -k:].mean())
            assert rules["truth"]["over"]["value"] == 0
            assert rules["random"]["true"]["value"] == pytest.approx(stars.mean())
            assert rules["random"]["curse"]["value"] == 0
            assert all(row["true"]["value"] <= rules["truth"]["true"]["value"] for row in rules.values())
            assert rules["model"]["promised"] >= rules["random"]["promised"]
            assert rules["model"]["promised"] == pytest.approx(rules["model"]["predicted"])
            over, true = rules["model"]["over"]["value"], rules["model"]["true"]["value"]
            assert rules["model"]["over_percent"]["value"] == pytest.approx(100 * over / true)


def beliefs(noise: DoubleArray, spread: DoubleArray) -> DoubleArray:
    """Two sets of heads, (S, 2, U, K): the first says 3 + noise, the second differs by `spread`."""
    return np.stack([3 + noise, 3 + noise + spread], 1)


def test_the_curse_of_the_best_of_sixteen_is_that_of_normal_order_statistics() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 4000, 16))
    stars = np.full((4000, 16), 3.0)
    found = pick_best(beliefs(noise, np.zeros_like(noise)), stars, stars, 1.0)
    assert found["best 1"]["random"].promised.mean() == pytest.approx(3, abs=0.03)
    best, three = judge_picks(found["best 1"]), judge_picks(found["best 3"])
    assert best["model"]["over"]["value"] == pytest.approx(1.766, abs=0.03)  # E max of 16 standard normals
    assert three["model"]["over"]["value"] == pytest.approx((1.766 + 1.285 + 0.990) / 3, abs=0.03)
    assert best["model"]["over"]["low"] < 1.766 < best["model"]["over"]["high"]
    assert best["model"]["over_percent"]["value"] == pytest.approx(100 * 1.766 / 3, abs=1)
    assert best["model"]["against_item_mean"]["value"] == 0
    assert best["model - 1 sd"]["over"]["value"] == pytest.approx(best["model"]["over"]["value"])  # no doubt, no change


def test_pessimism_helps_exactly_where_doubt_knows_the_error() -> None:
    """Half of the items are known and differ; of the other half the heads know nothing, and disagree as much."""
    rng = np.random.default_rng(1)
    stars = rng.integers(1, 6, (1000, 8)).astype(np.float64)
    noise = np.where(np.arange(8) < 4, 0, rng.normal(size=(1, 1000, 8)) * 2)
    mean = stars + noise
    told = np.stack([mean, mean + 100 * (noise != 0)], 1)
    rules = judge_picks(pick_best(told, stars, stars * 0, 1.0)["best 1"])
    wary = rules["model - 1 sd"]
    assert wary["over"]["value"] == 0  # it keeps to what is known
    assert wary["true"]["value"] == pytest.approx(stars[:, :4].max(1).mean())
    assert rules["model"]["over"]["value"] > 0.5
    assert wary["curse_against_model"]["high"] < 0
    told = np.stack([mean, mean + 100 * (noise == 0)], 1)  # doubt where nothing is wrong
    rules = judge_picks(pick_best(told, stars, stars * 0, 1.0)["best 1"])
    assert rules["model - 1 sd"]["against_model"]["high"] < 0


def test_the_log_holds_choices_only_in_a_made_up_order(made: Path) -> None:
    data = read_coat_data(made)
    chosen, shown = (np.loadtxt(made / f"{name}.ascii") for name in ("train", "test"))
    both = (chosen > 0) & (shown > 0)
    assert data.overlap == both.sum() > 0
    assert np.array_equal(data.chosen.numpy(), chosen * ~both)
    assert np.array_equal(np.take_along_axis(shown, data.exposed.numpy(), 1), data.stars.numpy())
    first, again, other = (build_sequences(coat_log(data, seed)) for seed in (0, 0, 1))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert [kind.name for kind in first.kinds] == ["consume", "rating"] and not first.exposures
    assert f": {data.overlap} " in first.notes[0]
    assert first.num_sessions == first.num_steps == (data.chosen > 0).sum()
    assert first.profile_names == ("gender=men", "gender=women") and first.categories is not None
    rows, columns = first.user_of_step, first.item - 1
    assert np.array_equal(first.feedback[:, 1], data.chosen.numpy()[rows, columns])
    assert data.chance is not None
    share = (data.chance / data.chance.sum(1, keepdim=True)).double().numpy()
    np.testing.assert_allclose(first.propensity, share[rows, columns])
    roles = last_roles(first.offsets)
    mine = roles[first.offsets[3] : first.offsets[4]]
    assert mine[-5:].tolist() == [VALIDATION] * 3 + [TEST] * 2 and set(mine[:-5]) == {TRAIN}
    early = [np.mean(columns[first.offsets[:-1] + place]) for place in range(5)]
    assert max(early) - min(early) < 0.35 * ITEMS_MADE  # the order is not that of the columns


def test_features_and_propensities_may_be_missing(made: Path, tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.ascii").write_text((made / f"{name}.ascii").read_text())
    data = read_coat_data(tmp_path)
    assert data.chance is None and data.users is None and data.items.columns == ["item"]
    assert "propensity" not in coat_log(data, 0).events.columns
    torch.testing.assert_close(data.item_mean, data.item_mean.clamp(1, 5))


def test_the_stage_prints_and_writes(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CoatAudit(
        data=made, seeds=1, out=tmp_path / "audit.json", **(SMALL | {"users": replace(SMALL["users"], epochs=1)})
    )()
    text = capsys.readouterr().out
    for words in ("inverse propensities", "best 3 of 8", "model - 1 sd", "by decile of belief", "true - model"):
        assert words in text
    written = json.loads((tmp_path / "audit.json").read_text())
    assert (written["format"], written["seeds"], written["users"]) == ("recgym-coat-audit", 1, USERS_MADE)
    assert f"{written['stars_chosen']:.2f} stars" in text


def test_conclusions_are_drawn_from_intervals(audited: dict[str, Any]) -> None:
    found = copy.deepcopy(audited)
    row = found["fits"]["all ratings alike"]["picks"]["best 1"]["model - 1 sd"]
    row["against_model"] = {"value": -0.2, "low": -0.3, "high": -0.1}
    row["curse_against_model"] = {"value": 0.1, "low": -0.1, "high": 0.3}
    found["propensities_gain"]["best 3"]["true"] = {"value": 0.2, "low": 0.1, "high": 0.3}
    first, *_, last = conclusions(found)
    assert first == (
        "pessimism, all ratings alike, best 1: true stars less (-0.200 [-0.300, -0.100]), "
        "curse of the picks no clear change (+0.100 [-0.100, +0.300])"
    )
    assert "best 3 more (+0.200 [+0.100, +0.300])" in last


def test_what_cannot_be_audited_is_refused(made: Path, tmp_path: Path) -> None:
    assert CoatAudit in STAGES
    with pytest.raises(FileNotFoundError, match=r"train\.ascii does not exist; `data` should be the folder"):
        CoatAudit(data=tmp_path)()
    with pytest.raises(ValueError, match="seeds is 0, ensemble 4, pessimism 1"):
        audit_coat(made, seeds=0)
    stars = np.full((2, 12), 3)
    write(tmp_path / "train.ascii", stars)
    for shown, message in (
        ([[1] * 2 + [0] * 10, [1] * 3 + [0] * 9], r"test\.ascii, row 2: 3 ratings, expected 2 as in row 1"),
        (np.zeros((2, 12)), r"test\.ascii, row 1: 0 ratings, expected some"),
        ([[1] * 7 + [0] * 5] * 2, r"train\.ascii, row 1: 5 ratings that test\.ascii has not, expected at least 6"),
        ([[1] + [0] * 11] * 2, r"train\.ascii, column 1: 0 ratings"),
    ):
        write(tmp_path / "test.ascii", shown)
        with pytest.raises(ValueError, match=message):
            read_coat_data(tmp_path)


def test_the_real_files_are_audited(real_data: Path) -> None:
    if not (real_data / "coat" / "test.ascii").is_file():
        pytest.skip("no coat/test.ascii among the real logs")
    tiny = SMALL | {"training": TrainingConfig(epochs=1), "users": replace(SMALL["users"], epochs=2, batch_size=512)}
    found = audit_coat(real_data / "coat", seeds=1, ensemble=1, **tiny)
    assert (found["users"], found["items"], found["exposures"], found["left_out"]) == (290, 300, 16, 366)
    assert found["stars_exposed"] == pytest.approx(2.2289, abs=1e-4)  # the mean of the published file
    alike, weighed = (found["fits"][name] for name in ("all ratings alike", "inverse propensities"))
    assert alike["beliefs"]["bias_exposed"]["low"] > 0.2  # choices are 0.38 stars better than chance
    assert weighed["beliefs"]["bias_exposed"]["high"] < alike["beliefs"]["bias_exposed"]["low"]
    assert alike["picks"]["best 1"]["truth"]["true"]["value"] > 4
