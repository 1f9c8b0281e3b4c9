"""Neighbours by hand, and against the plain loops of the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recgym.backbones.knn import item_knn, nearest_items, vsknn
from recgym.logs.sequences import Sequences
from recgym.types import DoubleArray
from tests.backbones.test_baselines import LOG, ROLES, asked, random_log


def test_similar_items_of_the_history_add_up() -> None:
    scores = asked(item_knn(LOG, ROLES, shrinkage=1.0, decay=0.5), [2, 1])
    to_3 = 2 / (8**0.5 + 1) + 0.5 * 1 / (6**0.5 + 1)  # 1 and 3 share two of their 4 and 2 users, 2 and 3 one
    to_2 = 3 / (12**0.5 + 1)
    torch.testing.assert_close(scores[0, :3], torch.tensor([0.5 * to_2, to_2, to_3]))
    scores = asked(item_knn(LOG, ROLES, neighbours=1, shrinkage=0.0), [1])
    assert (scores[0] > 0).tolist() == [False, True, *[False] * 5]


def test_nearest_items_are_the_largest_cosines() -> None:
    log = random_log(50, 15)
    held = np.zeros((50, 15))
    held[log.user_of_step, log.item - 1] = 1
    together, count = held.T @ held, held.sum(0)
    cosine = together / (np.sqrt(np.outer(count, count)) + 2)
    np.fill_diagonal(cosine, 0)
    ids, values = nearest_items(log.user_of_step, log.item.astype(np.int64), 15, neighbours=6, shrinkage=2.0)
    best = np.argsort(-cosine, axis=1, kind="stable")[:, :6]
    expected = np.take_along_axis(cosine, best, 1)
    np.testing.assert_array_equal(ids, np.where(expected > 0, best + 1, 0))
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def plain_vsknn(log: Sequences, history: list[int], neighbours: int, sample: int, idf: float) -> DoubleArray:
    """Scores of one history as the paper says it, session after session."""
    sessions = [set(log.item[a:b].tolist()) for a, b in zip(log.offsets[:-1], log.offsets[1:], strict=True)]
    holders = [number for number, items in enumerate(sessions) if items & set(history)]
    newest = sorted(holders, key=lambda number: -log.time[log.offsets[number + 1] - 1])[:sample]
    weight = {item: (place + 1) / len(history) for place, item in enumerate(history)}  # later places overwrite
    similarity = {number: sum(weight[item] for item in sessions[number] & set(history)) for number in newest}
    scores = np.zeros(log.num_items)
    for number in sorted(newest, key=lambda number: -similarity[number])[:neighbours]:
        age = next(age for age, item in enumerate(reversed(history), 1) if item in sessions[number])
        for item in sessions[number]:
            rarity = np.log(len(sessions) / sum(item in items for items in sessions))
            scores[item - 1] += similarity[number] / age * (1 + idf * rarity)
    return scores


@pytest.mark.parametrize(
    ("neighbours", "sample", "idf"), [(100, 1000, 0.0), (4, 1000, 0.0), (100, 7, 2.0), (3, 9, 0.5)]
)
def test_vsknn_is_the_plain_loop(neighbours: int, sample: int, idf: float) -> None:
    log = random_log(60, 40)
    histories = [[3], [4, 9], [7, 7, 2], [1, 2, 1, 5], [25, 11, 3, 24]]
    ranker = vsknn(log, np.zeros(log.num_steps, np.int8), neighbours=neighbours, sample=sample, idf=idf)
    for scores, history in zip(asked(ranker, *histories), histories, strict=True):
        expected = plain_vsknn(log, history, neighbours, sample, idf)
        assert 0 < (expected > 0).sum() < 40
        np.testing.assert_allclose(scores.clamp_min(0), expected, rtol=1e-5)


def test_settings_out_of_range_are_refused() -> None:
    for name in ("neighbours", "sample"):
        with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
            vsknn(LOG, ROLES, **{name: 0})
    with pytest.raises(ValueError, match=r"idf is -1\.0, expected a number of at least 0"):
        vsknn(LOG, ROLES, idf=-1.0)
    with pytest.raises(ValueError, match="neighbours is 0, expected at least 1"):
        item_knn(LOG, ROLES, neighbours=0)
    with pytest.raises(ValueError, match="shrinkage is nan, expected a number of at least 0"):
        item_knn(LOG, ROLES, shrinkage=float("nan"))
    with pytest.raises(ValueError, match=r"decay is 0\.0, expected a number in \(0, 1\]"):
        item_knn(LOG, ROLES, decay=0.0)
