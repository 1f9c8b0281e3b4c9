"""New items: ridge regression against its closed form, category means exactly, and better rankings of hidden items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recgym.backbones.backbone import BackboneConfig, fingerprint, make_backbone
from recgym.backbones.cold import LEAST_EVENTS, fill_unmet, fit_ridge, item_features
from recgym.backbones.hstu import HSTUConfig
from recgym.backbones.training import TrainingConfig, train_backbone
from recgym.backbones.transrec import into_ball
from recgym.logs import splits
from recgym.logs.sequences import Sequences
from recgym.types import DoubleArray
from recgym.users.next_item import next_item
from tests.backbones.test_ranking import sequences

RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(size=(15, 3)), RNG.normal(size=(15, 2)), RNG.uniform(0.5, 3.0, 15)


def closed_form(x: DoubleArray, y: DoubleArray, weight: DoubleArray, penalty: float) -> DoubleArray:
    """Intercept, then coefficients, by the normal equations with a free intercept, (1 + P, D)."""
    design = np.column_stack([np.ones(len(x)), x])
    ridge = np.diag([0.0] + [penalty] * x.shape[1])
    gram = design.T @ (weight[:, None] * design) + ridge
    found: DoubleArray = np.linalg.solve(gram, design.T @ (weight[:, None] * y)).astype(np.float64)
    return found


def unit_of(x: DoubleArray, weight: DoubleArray) -> float:
    """Mean squared singular value of the centred, weighted features."""
    centred = np.sqrt(weight)[:, None] * (x - weight @ x / weight.sum())
    return float((centred**2).sum() / x.shape[1])


@pytest.mark.parametrize("penalty", [0.0, 0.3, 10.0])
def test_ridge_is_the_normal_equations(penalty: float) -> None:
    found = fit_ridge(X, Y, W, (penalty,))
    assert found.penalty == pytest.approx(penalty * unit_of(X, W))
    wanted = closed_form(X, Y, W, found.penalty)
    np.testing.assert_allclose(found.coefficients, wanted[1:], atol=1e-12)
    np.testing.assert_allclose(found.predict(X), np.column_stack([np.ones(15), X]) @ wanted, atol=1e-12)


def test_the_penalty_is_the_one_that_predicts_left_out_rows_best() -> None:
    y = X @ RNG.normal(size=(3, 2)) + 2 * Y
    grid = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
    unit, error = unit_of(X, W), []
    for penalty in grid:
        total = 0.0
        for out in range(15):
            rest = np.arange(15) != out
            fit = closed_form(X[rest], y[rest], W[rest], penalty * unit)
            total += W[out] * float(((y[out] - fit[0] - X[out] @ fit[1:]) ** 2).sum())
        error.append(total)
    assert 0 < int(np.argmin(error)) < len(grid) - 1
    assert fit_ridge(X, y, W, grid).penalty == pytest.approx(grid[int(np.argmin(error))] * unit)


def test_features_that_say_nothing_leave_the_mean_and_those_that_say_all_are_followed() -> None:
    noise = np.random.default_rng(1).normal(size=(200, 2))
    x = np.eye(4)[np.arange(200) % 4]
    nothing = fit_ridge(x, noise, np.ones(200))
    np.testing.assert_allclose(nothing.predict(x), np.tile(noise.mean(0), (200, 1)), atol=0.15)
    everything = fit_ridge(x, x @ np.arange(8.0).reshape(4, 2), np.ones(200))
    np.testing.assert_allclose(everything.predict(x[:4]), np.arange(8.0).reshape(4, 2), atol=1e-2)
    alone = fit_ridge(np.eye(5), np.arange(5.0)[:, None], np.ones(5), (0.0, 1.0))
    assert alone.penalty > 0  # without a penalty every row would be fitted by itself


def log_of(categories: list[str | None], events: list[int]) -> tuple[Sequences, splits.Roles]:
    """One user who meets item j `events[j]` times, all of it training, then every item once in the test part."""
    met = [item + 1 for item, count in enumerate(events) for _ in range(count)]
    log = sequences([[*met, *range(1, len(events) + 1)]], len(events))
    items = log.items.with_columns(
        category=pl.Series(categories), title=pl.Series([f"T{j}" for j in range(len(events))])
    )
    object.__setattr__(log, "items", items)
    return log, np.array([0] * len(met) + [2] * len(events), np.int8)


def test_new_items_get_their_category_s_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recgym.backbones.cold.fit_ridge.__defaults__", ((0.0,),))
    log, roles = log_of(["a", "b", "a", "b", "a", "b", "b"], [6, 6, 6, 6, 0, 0, LEAST_EVENTS - 1])
    backbone = make_backbone(BackboneConfig(width=4), 7, np.ones(1, np.float32))
    with torch.no_grad():
        backbone.table.bias.copy_(torch.arange(7.0))
    before, bias = backbone.item_vectors().clone(), backbone.item_bias().clone()
    filling = fill_unmet(backbone, log, roles)
    after = backbone.item_vectors()
    assert filling[:3] == (2, 4, 2)
    torch.testing.assert_close(after[4], before[[0, 2]].mean(0))
    torch.testing.assert_close(after[5], before[[1, 3]].mean(0))
    torch.testing.assert_close(backbone.item_bias()[4:6], torch.tensor([1.0, 2.0]))
    untouched = [0, 1, 2, 3, 6]  # the last was met, too seldom to learn from
    assert torch.equal(after[untouched], before[untouched])
    assert torch.equal(backbone.item_bias()[untouched], bias[untouched])
    assert not backbone.table.embedding.weight[0].any()


CONFIGS = [
    HSTUConfig(width=4, length=6, temperature=None),
    *(
        BackboneConfig(model=model, width=4, length=6)
        for model in ("caser", "decoder", "fpmc", "hybrid", "sasrec", "transrec")
    ),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model)
def test_all_vectors_that_score_or_are_read_are_filled(config: BackboneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recgym.backbones.cold.fit_ridge.__defaults__", ((0.0,),))
    log, roles = log_of(["a", "b", "a", "b", "a", "b"], [6, 6, 6, 6, 0, 0])
    backbone = make_backbone(config, 6, np.ones(1, np.float32), seed=2)
    with torch.no_grad():
        backbone.table.bias.copy_(torch.arange(6.0))
    before = [part.detach().clone() for part in (backbone.item_vectors(), backbone.item_bias())]
    read = backbone.table.inputs().detach().clone()
    fill_unmet(backbone, log, roles)
    for old, new in zip(before, (backbone.item_vectors(), backbone.item_bias()), strict=True):
        torch.testing.assert_close(new[4:], torch.stack([old[[0, 2]].mean(0), old[[1, 3]].mean(0)]))
        torch.testing.assert_close(new[:4], old[:4])
    scored = into_ball(read) if config.model == "transrec" else read  # points that are both read and scored by
    expected = torch.stack([scored[[0, 2]].mean(0), scored[[1, 3]].mean(0)])
    torch.testing.assert_close(backbone.table.inputs()[4:].detach(), expected)
    assert not backbone.table.embedding.weight[0].any()


@torch.no_grad()
def test_items_of_a_group_start_near_each_other_where_they_are_read_and_where_they_score() -> None:
    groups = np.arange(400) % 2
    for model in ("gru", "gru4rec", "decoder"):
        config = BackboneConfig(model=model, width=32)
        alone, grouped = (make_backbone(config, 400, np.ones(1, np.float32), groups=of) for of in (None, groups))
        for before, after in (
            (alone.table.inputs(), grouped.table.inputs()),
            (alone.item_vectors(), grouped.item_vectors()),
        ):
            assert float(after.square().mean() / before.square().mean()) == pytest.approx(1, abs=0.3)
            like, other = (torch.nn.functional.cosine_similarity(after[:-by], after[by:]).mean() for by in (2, 1))
            assert float(like) == pytest.approx(0.5, abs=0.15) and float(like) > float(other) + 0.2


def test_without_features_new_items_get_the_mean() -> None:
    log = sequences([[1] * 5 + [2] * 5 + [3]], 4)
    backbone = make_backbone(BackboneConfig(width=4), 4, np.ones(1, np.float32))
    before = backbone.item_vectors().clone()
    filling = fill_unmet(backbone, log, np.array([0] * 10 + [2], np.int8))
    assert filling == (2, 2, 0, np.inf, np.inf)
    torch.testing.assert_close(backbone.item_vectors()[2:], before[:2].mean(0).expand(2, -1))


def test_where_everything_was_met_nothing_changes() -> None:
    log = sequences([[1, 2, 3]], 3)
    backbone = make_backbone(BackboneConfig(width=4), 3, np.ones(1, np.float32))
    before = fingerprint(backbone)
    assert fill_unmet(backbone, log, np.zeros(3, np.int8)).items == 0
    assert fingerprint(backbone) == before


def test_features_describe_items_and_do_not_name_them() -> None:
    category = ["x", "x", "x", "y", "y", None, "z", "z"]
    items = pl.DataFrame({
        "item": list("abcdefgh"), "title": ["t"] * 4 + ["u"] * 4, "category": category,
        "shop": ["s", "t"] * 4, "code": [f"c{j}" for j in range(8)],
    })  # fmt: skip
    found = item_features(items)
    assert found.names == ("category=x", "category=y", "category=z", "shop=s", "shop=t")
    assert found.left_out == ("code",)
    assert found.values[5, :3].tolist() == [0, 0, 0]


def test_of_many_categories_the_commonest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recgym.backbones.cold._MOST_VALUES", 2)
    items = pl.DataFrame({"item": list("abcdef"), "category": ["x", "y", "z", "x", "y", "w"]})
    assert item_features(items).names == ("category=x", "category=y")


def test_categories_in_digits_are_names_and_prices_are_amounts() -> None:
    items = pl.DataFrame({"item": [f"i{j}" for j in range(40)], "category": [str(100 + j % 20) for j in range(40)]})
    items = items.with_columns(price=pl.Series(np.arange(40.0)))
    found = item_features(items)
    assert found.names == (*(f"category={100 + j}" for j in range(20)), "price")
    assert found.values[:, :20].sum() == 40
    assert float(found.values[:, 20].std()) == pytest.approx(1, abs=1e-5)


def hidden_items_log(seed: int) -> tuple[Sequences, splits.Roles, DoubleArray]:
    """300 users who stay in the category of their last choice; a fifth of the items comes out after the training part.

    Items of one category are alike but for their popularity. Returns the log, its roles, and the items' release (N,).
    """
    rng = np.random.default_rng(seed)
    per, groups, users, steps = 10, 5, 300, 30
    released = np.tile((np.arange(per) >= 8).astype(np.float64), groups)  # (N,) 1: after the training part
    lists = []
    for _ in range(users):
        group, own = int(rng.integers(groups)), []
        for step in range(steps):
            group = group if rng.random() < 0.9 else int(rng.integers(groups))
            there = 8 if step < 24 else per
            own.append(group * per + int(rng.integers(there)) + 1)
        lists.append(own)
    log = sequences(lists, per * groups)
    object.__setattr__(log, "items", log.items.with_columns(category=pl.Series([f"g{j // per}" for j in range(50)])))
    roles = np.tile(np.repeat(np.array([0, 1, 2], np.int8), [24, 3, 3]), users)
    return log, roles, released


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_filling_ranks_hidden_items_better(seed: int, tmp_path: Path) -> None:
    log, roles, released = hidden_items_log(seed)
    config = BackboneConfig(width=16, layers=1, length=8, dropout=0.1)
    settings = TrainingConfig(epochs=8, batch_size=64, learning_rate=1e-2, fill_unmet=False, seed=seed)
    trained = train_backbone(log, roles, config, settings, folder=tmp_path)
    assert trained.filling.items == 0
    unfilled = next_item(trained.backbone, log, roles)
    filling = fill_unmet(trained.backbone, log, roles)
    filled = next_item(trained.backbone, log, roles)
    assert (filling.items, filling.features) == (released.sum(), 5)
    before, after = unfilled["cold"]["unmet items"], filled["cold"]["unmet items"]
    assert before["cases"] == after["cases"] == int(released[log.item[roles == splits.TEST] - 1].sum()) > 100
    assert after["auc"] > before["auc"] + 0.2
    assert after["ndcg@10"] > before["ndcg@10"] + 0.2
    assert filled["ndcg@10"] > unfilled["ndcg@10"]


def test_training_fills_and_a_resumed_run_fills_alike(tmp_path: Path) -> None:
    log, roles, _ = hidden_items_log(0)
    config, settings = BackboneConfig(width=8, layers=1, length=8), TrainingConfig(epochs=1, batch_size=64)
    whole = train_backbone(log, roles, config, settings, folder=tmp_path)
    again = train_backbone(log, roles, config, settings, folder=tmp_path, resume=True)
    assert whole.filling.items == 10 and again.filling == whole.filling
    assert fingerprint(again.backbone) == fingerprint(whole.backbone)
    plain = make_backbone(config, log.num_items, log.feedback_scale)
    saved = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["best"]
    plain.load_state_dict(saved)  # type: ignore[attr-defined]
    fill_unmet(plain, log, roles)
    assert fingerprint(plain) == fingerprint(whole.backbone)
