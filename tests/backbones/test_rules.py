"""Markov chain and sequential rules against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recgym.backbones.rules import Links, markov_history, sequential_rules
from tests.backbones.test_baselines import LOG, ROLES, asked


def test_the_markov_chain_comes_first_then_the_history_then_popularity() -> None:
    scores = asked(markov_history(LOG, ROLES), [3, 1], [6, 4])
    assert scores[0, [1, 4]].tolist() == [2, 1]  # 1 -> 2 twice, 1 -> 5 once
    best = scores.argsort(1, descending=True) + 1
    assert best[0, :5].tolist() == [2, 5, 1, 3, 4]
    assert best[1, :5].tolist() == [4, 6, 1, 2, 3]  # nothing follows 4 in training


def test_rules_weigh_by_distance_and_age() -> None:
    scores = asked(sequential_rules(LOG, ROLES), [2, 1])
    torch.testing.assert_close(scores[0, 1:5], torch.tensor([2.0, 0.5, 0.5, 1.0]))
    assert scores[0, 0] <= 0
    scores = asked(sequential_rules(LOG, ROLES, reach=2), [2, -1, 1])
    torch.testing.assert_close(scores[0, :5], torch.tensor([0.5, 2.0, 0.5 + 0.5, 0.5 + 0.5, 1 + 0.25]))
    scores = asked(sequential_rules(LOG, ROLES, most=1), [1])
    assert (scores[0] > 0).tolist() == [False, True, *[False] * 5]


def test_links_are_the_product_of_matrices() -> None:
    draws = np.random.default_rng(1)
    row, column, weight = draws.integers(1, 6, 40), draws.integers(1, 5, 40), draws.random(40)
    dense = np.zeros((6, 5))
    np.add.at(dense, (row, column), weight)
    links = Links.of(row, column, weight, 6)
    users, rows, amount = np.array([0, 2, 2]), np.array([3, 1, 3]), np.array([1.0, 2.0, 0.5])
    expected = np.stack([dense[3], np.zeros(5), 2 * dense[1] + 0.5 * dense[3]])[:, 1:]
    np.testing.assert_allclose(links.spread(users, rows, amount, (3, 4)), expected, rtol=1e-6)
    kept = Links.of(row, column, weight, 6, most=2)
    for number in range(6):
        inside = slice(kept.bounds[number], kept.bounds[number + 1])
        best = np.argsort(-dense[number], kind="stable")[: (dense[number] > 0).sum()][:2]
        assert kept.column[inside].tolist() == best.tolist()
        np.testing.assert_allclose(kept.weight[inside], dense[number][best], rtol=1e-6)


@pytest.mark.parametrize("name", ["steps", "reach", "most"])
def test_settings_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
        sequential_rules(LOG, ROLES, **{name: 0})
