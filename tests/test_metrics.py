"""Metrics by hand, and what must hold for any ranks and exposures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recgym import metrics

RANKS = st.lists(st.integers(1, 60), min_size=1, max_size=30)
COUNTS = st.lists(st.integers(0, 50), min_size=2, max_size=20).filter(any)


def test_hit_rate_and_ndcg_by_hand() -> None:
    ranks = np.array([1, 3, 10, 11])
    assert metrics.hit_rate(ranks, 10).tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(metrics.ndcg(ranks, 10), [1, 0.5, 1 / math.log2(11), 0])
    with pytest.raises(ValueError, match="ranks start at 1"):
        metrics.ndcg(np.array([0]), 5)
    with pytest.raises(ValueError, match="k must be at least 1"):
        metrics.hit_rate(ranks, 0)


@given(RANKS, st.integers(1, 50))
def test_longer_lists_never_hurt_and_ndcg_lies_below_the_hit_rate(ranks: list[int], k: int) -> None:
    array = np.array(ranks)
    for metric in (metrics.hit_rate, metrics.ndcg):
        assert (metric(array, k) <= metric(array, k + 1)).all()
    gain = metrics.ndcg(array, k)
    assert ((gain >= 0) & (gain <= metrics.hit_rate(array, k))).all()


@given(COUNTS)
def test_gini_is_the_mean_difference(counts: list[int]) -> None:
    array = np.array(counts, np.float64)
    pairs = np.abs(array[:, None] - array[None, :]).sum() / (2 * len(array) ** 2 * array.mean())
    assert metrics.gini(array) == pytest.approx(pairs, abs=1e-9)
    assert 0 <= metrics.gini(array) <= 1 - 1 / len(array) + 1e-9
    assert metrics.gini(np.ones(5)) == pytest.approx(0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=25))
def test_diversity_equals_the_mean_over_pairs(pairs: list[tuple[int, int]]) -> None:
    groups, items = (np.array(column) for column in zip(*pairs, strict=True))
    categories = np.array([0, 0, 1, 1, 2, 2])
    vectors = np.random.default_rng(0).normal(size=(6, 4))
    found = metrics.diversity(groups, items, categories=categories)
    by_angle = metrics.diversity(groups, items, vectors=vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for group in range(int(groups.max()) + 1):
        here = items[groups == group] - 1
        all_pairs = list(itertools.permutations(range(len(here)), 2))
        if not all_pairs:
            assert np.isnan(found[group])
            continue
        differ = np.mean([categories[here[i]] != categories[here[j]] for i, j in all_pairs])
        angle = np.mean([1 - unit[here[i]] @ unit[here[j]] for i, j in all_pairs])
        assert found[group] == pytest.approx(differ)
        assert by_angle[group] == pytest.approx(angle)


def test_exposure_by_hand() -> None:
    counts = metrics.exposure_counts(np.array([[1, 2], [1, 0]]), 4)
    assert counts.tolist() == [2, 1, 0, 0]
    assert metrics.coverage(counts) == 0.5
    popularity = np.array([6, 1, 0, 0])
    bits = -np.log2(np.array([7, 2, 1, 1]) / 11)
    assert metrics.novelty(np.array([1, 1, 2]), popularity) == pytest.approx((2 * bits[0] + bits[1]) / 3)
    assert metrics.popularity_percentile(np.array([1]), popularity) == pytest.approx(0.875)
    assert metrics.popularity_percentile(np.array([3]), popularity) == pytest.approx(0.25)
    with pytest.raises(ValueError, match=r"item ids must lie in 0\.\.4, got 5\.\.5"):
        metrics.exposure_counts(np.array([5]), 4)
    with pytest.raises(ValueError, match="all 0"):
        metrics.gini(np.zeros(3))
    with pytest.raises(ValueError, match="exactly one"):
        metrics.diversity(np.array([0]), np.array([1]))
