"""Rankings apart for new users and new items, by hand; hidden items are judged better once their vectors are filled."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recgym.backbones.backbone import BackboneConfig, make_backbone
from recgym.backbones.training import TrainingConfig, train_backbone
from recgym.logs import splits
from recgym.logs.log import InteractionLog
from recgym.logs.pivot import build_sequences
from recgym.logs.sequences import Sequences
from recgym.users.config import UserConfig
from recgym.users.fidelity import fidelity
from recgym.users.fitting import fit_users, forget
from recgym.users.heads import Heads, HeadShape
from recgym.users.next_item import cold_groups, next_item
from tests.backbones.test_ranking import sequences


def test_groups_by_hand() -> None:
    log = sequences([[1, 1, 1, 1, 1, 2], [1, 2, 3], [3]], 3)
    object.__setattr__(log, "session", np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 3]))
    roles = np.array([0, 0, 0, 0, 0, 0, 2, 2, 2, 2], np.int8)
    found = cold_groups(log, roles, np.array([5, 6, 7, 8, 9]))
    wanted = {
        "first steps": [0, 1, 0, 0, 1],
        "new users": [0, 1, 1, 1, 1],
        "known users": [1, 0, 0, 0, 0],
        "unmet items": [0, 0, 0, 1, 1],
        "rare items": [1, 0, 1, 0, 0],
        "known items": [0, 1, 0, 0, 0],
    }
    assert {name: group.astype(int).tolist() for name, group in found.items()} == wanted


def test_numbers_of_each_group_by_hand() -> None:
    """A backbone whose biases alone rank: item 1, then 2, and so on; NDCG is 1 / log2(1 + rank)."""
    log = sequences([[1] * 6 + [2] * 2, [1, 2, 30, 3]], 30)
    roles = np.array([0] * 8 + [2] * 4, np.int8)
    backbone = make_backbone(BackboneConfig(width=4), 30, np.ones(1, np.float32))
    with torch.no_grad():
        backbone.table.embedding.weight.zero_()
        backbone.table.bias.copy_(-torch.arange(30.0))
    found = next_item(backbone, log, roles)
    gain = {rank: 1 / np.log2(1 + rank) for rank in (1, 2, 3)}
    assert found["ndcg@10"] == pytest.approx((gain[1] + gain[2] + gain[3]) / 4)
    assert found["hr@20"] == found["hr@5"] == 0.75
    cold = found["cold"]
    assert cold["first steps"] == cold["known items"] == {"cases": 1, "hr@10": 1.0, "ndcg@10": 1.0, "auc": 1.0}
    assert cold["unmet items"] == pytest.approx({"cases": 2, "hr@10": 0.5, "ndcg@10": gain[3] / 2, "auc": 27 / 58})
    assert cold["rare items"] == pytest.approx({"cases": 1, "hr@10": 1.0, "ndcg@10": gain[2], "auc": 28 / 29})
    assert cold["new users"]["cases"] == 4 and cold["known users"] == {"cases": 0}


def test_free_coordinates_of_unmet_items_are_forgotten() -> None:
    heads = Heads(HeadShape(num_items=4, state_width=2, num_kinds=1))
    with torch.no_grad():
        heads.item_embedding.fill_(1.0)
    forget(heads, torch.tensor([False, True, False, False, True]))
    assert heads.item_embedding.sum(1).tolist() == [16.0, 0.0, 16.0, 16.0, 0.0]


GROUPS, PER = 4, 10


@cache
def released_late(seed: int, *, exposures: bool) -> tuple[Sequences, splits.Roles]:
    """300 users of one taste each and three sessions of up to twenty random items.

    A fifth of the items come out after the first session, which is the training part. An item of category g is clicked
    with chance 0.1, 0.25, 0.4 or 0.55, and 0.3 more if the user's taste is g.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, str, int, str, float]] = []
    for user in range(300):
        taste = int(rng.integers(GROUPS))
        for session in range(3):
            time = session * 10_000_000 + user * 10_000
            for item in rng.permutation(GROUPS * PER)[:20].tolist():
                time += 10
                if session == 0 and item % PER >= 8:
                    continue
                if exposures:
                    rows.append((f"u{user:03d}", f"i{item:02d}", time, "view", 1.0))
                if rng.random() < 0.1 + 0.15 * (item // PER) + 0.3 * (item // PER == taste):
                    rows.append((f"u{user:03d}", f"i{item:02d}", time, "click", 1.0))
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "behaviour", "value"], orient="row")
    names = [f"i{item:02d}" for item in range(GROUPS * PER)]
    items = pl.DataFrame({"item": names, "category": [f"g{item // PER}" for item in range(GROUPS * PER)]})
    log = build_sequences(InteractionLog(events=frame, items=items, exposures=exposures))
    last = log.time // 10_000_000
    return log, np.asarray(last, np.int8)


def judged(log: Sequences, roles: splits.Roles, folder: Path, seed: int, *, fill: bool) -> dict[str, Any]:
    """Fidelity of users fitted behind a backbone whose new items are filled, or not."""
    config = BackboneConfig(width=16, layers=1, length=20, dropout=0.1)
    training = TrainingConfig(epochs=6, batch_size=32, learning_rate=1e-2, fill_unmet=fill, seed=seed)
    trained = train_backbone(log, roles, config, training, folder=folder)
    assert trained.filling.items == (8 if fill else 0)
    users_config = UserConfig(
        width=16, leave_width=8, item_width=4, epochs=8, batch_size=128, learning_rate=5e-3, ensemble=0, seed=seed
    )
    users = fit_users(log, roles, trained.backbone, users_config)
    unmet = splits.training_events(log, roles) == 0
    assert not users.heads.item_embedding[1:][torch.from_numpy(unmet)].any()
    assert bool(users.heads.item_embedding[1:][torch.from_numpy(~unmet)].any())
    return fidelity(users, log, roles, users_config)


def test_with_exposures_filling_tells_better_what_new_items_bring(tmp_path: Path) -> None:
    """Over three seeds: their chances order and add up better, and they are found among the rest."""
    gains = []
    for seed in range(3):
        log, roles = released_late(seed, exposures=True)
        without, filled = (judged(log, roles, tmp_path / f"{seed}{fill}", seed, fill=fill) for fill in (False, True))
        before, after = without["cold"]["new items"], filled["cold"]["new items"]
        assert before["cases"] == after["cases"] > 1000
        assert abs(after["predicted_rate"] - after["rate"]) < abs(before["predicted_rate"] - before["rate"])
        old, new = without["next_item"]["cold"]["unmet items"], filled["next_item"]["cold"]["unmet items"]
        assert old["cases"] == new["cases"] > 400
        assert new["ndcg@10"] > old["ndcg@10"] + 0.05
        gains.append(after["auc"] - before["auc"])
    assert np.mean(gains) > 0.01, gains


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_exposures_new_items_are_found_among_the_rest(seed: int, tmp_path: Path) -> None:
    log, roles = released_late(seed, exposures=False)
    without, filled = (judged(log, roles, tmp_path / str(fill), seed, fill=fill) for fill in (False, True))
    old, new = without["next_item"]["cold"]["unmet items"], filled["next_item"]["cold"]["unmet items"]
    assert new["ndcg@10"] > old["ndcg@10"] + 0.05
    assert new["auc"] > old["auc"] + 0.2
    assert "cold" not in filled
