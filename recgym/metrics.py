"""Metrics of rankings and of what was shown, as pure functions of numpy arrays.

A rank is 1 for the item scored highest. Every next-item question has one target, so recall at k equals the hit rate
at k, and precision at k is the hit rate divided by k: neither has a function of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recgym.types import DoubleArray, IntArray

Numbers = npt.NDArray[Any]


def hit_rate(ranks: Numbers, k: int) -> DoubleArray:
    """HR@k of each question, 1[rank <= k]: (Q,) -> (Q,) float64 of 0 and 1. With one target this is recall at k.

    Args:
        ranks: (Q,) rank of each target, from 1. Half ranks (ties shared) are allowed.
        k: Length of the list, in items.

    Raises:
        ValueError: A rank or `k` is below 1, or a rank is not a number.
    """
    return (_ranks(ranks, k) <= k).astype(np.float64)


def ndcg(ranks: Numbers, k: int) -> DoubleArray:
    """NDCG@k of each question with one target, 1[rank <= k] / log2(1 + rank): (Q,) -> (Q,) float64 in [0, 1].

    The ideal list has the target first and gain 1, so the normaliser is 1.

    Args:
        ranks: (Q,) rank of each target, from 1.
        k: Length of the list, in items.

    Raises:
        ValueError: A rank or `k` is below 1, or a rank is not a number.

    Source: Järvelin and Kekäläinen (2002), "Cumulated gain-based evaluation of IR techniques", with one relevant item.
    """
    checked = _ranks(ranks, k)
    return np.where(checked <= k, 1.0 / np.log2(1.0 + checked), 0.0)


def spearman(first: Numbers, second: Numbers) -> float:
    """Spearman's rank correlation of two lists (P,): Pearson's correlation of their ranks, ties at their mean rank.

    Raises:
        ValueError: lists of other shapes, or of fewer than two.

    Source: Spearman (1904), "The proof and measurement of association between two things".
    """
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise ValueError(f"expected two lists of one length of at least 2, got shapes {first.shape}, {second.shape}")
    ranks = [mean_ranks(np.asarray(values, np.float64)) for values in (first, second)]
    if ranks[0].std() == 0 or ranks[1].std() == 0:
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def mean_ranks(values: Numbers) -> DoubleArray:
    """Ranks from 1, ties at their mean, (P,)."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    found: DoubleArray = (np.cumsum(count) - (count - 1) / 2)[place]
    return found


def exposure_counts(shown: Numbers, num_items: int) -> IntArray:
    """How often each item was shown: ids 1..N of any shape, 0 ignored -> (N,) int64.

    Raises:
        ValueError: An id is negative or above `num_items`.
    """
    ids = np.asarray(shown).ravel()
    if ids.size and (ids.min() < 0 or ids.max() > num_items):
        raise ValueError(f"item ids must lie in 0..{num_items}, got {ids.min()}..{ids.max()}")
    counts: IntArray = np.bincount(ids.astype(np.int64), minlength=num_items + 1)[1:].astype(np.int64)
    return counts


def coverage(counts: Numbers) -> float:
    """Share of the catalogue that was shown at all, |{j : count_j > 0}| / N.

    Args:
        counts: (N,) exposures of each item.

    Source: Herlocker et al. (2004), "Evaluating collaborative filtering recommender systems", section 4.2.1.
    """
    return float(np.mean(_counts(counts) > 0))


def gini(counts: Numbers) -> float:
    """Inequality of exposure, sum_j (2j - N - 1) c_(j) / (N sum_j c_j), with c sorted upwards.

    It is 0 where all items are shown equally and (N - 1) / N where one item is all that is shown.

    Args:
        counts: (N,) exposures of each item, not all 0.

    Raises:
        ValueError: Nothing was shown, so that inequality is undefined.

    Source: Fleder and Hosanagar (2009), "Blockbuster culture's next rise or fall", section 4.
    """
    ordered = np.sort(_counts(counts))  # (N,)
    num_items, total = len(ordered), ordered.sum()
    if total == 0:
        raise ValueError("gini of exposure needs at least one shown item, got counts that are all 0")
    place = 2.0 * np.arange(1, num_items + 1) - num_items - 1  # (N,)
    return float(place @ ordered / (num_items * total))


def novelty(shown: Numbers, popularity: Numbers) -> float:
    """Mean self-information of the items shown, -log2 p(item), in bits; higher is less known.

    p(j) = (c_j + 1) / (sum c + N), so that an item that the reference log never had stays finite.

    Args:
        shown: Item ids 1..N of any shape; 0 is ignored.
        popularity: (N,) interactions of each item in a reference log (the training part).

    Source: Vargas and Castells (2011), "Rank and relevance in novelty and diversity metrics", section 3;
        Laplace smoothing.
    """
    counts = _counts(popularity)
    bits = -np.log2((counts + 1.0) / (counts.sum() + len(counts)))  # (N,)
    return _mean_over_shown(shown, bits)


def popularity_percentile(shown: Numbers, popularity: Numbers) -> float:
    """Mean popularity percentile of the items shown, in [0, 1]; 1/2 for uniform exposure, near 1 for a hit parade.

    The percentile of item j is (|{i : c_i < c_j}| + |{i : c_i = c_j}| / 2) / N: ties share their place.

    Args:
        shown: Item ids 1..N of any shape; 0 is ignored.
        popularity: (N,) interactions of each item in a reference log.
    """
    counts = _counts(popularity)
    ordered = np.sort(counts)
    below, up_to = np.searchsorted(ordered, counts, "left"), np.searchsorted(ordered, counts, "right")
    return _mean_over_shown(shown, (below + up_to) / (2.0 * len(counts)))


def diversity(
    groups: Numbers, items: Numbers, *, categories: Numbers | None = None, vectors: Numbers | None = None
) -> DoubleArray:
    """Mean distance between two different positions of the same list or session, one number a group, in [0, 2].

    The distance is 1[category differs] where `categories` is given, and 1 - cosine where `vectors` is. Over the
    n (n - 1) ordered pairs it has closed forms, so that no pair is enumerated:
    (n^2 - sum_c n_c^2) / (n (n - 1)) and 1 - (|sum_i u_i|^2 - n) / (n (n - 1)) for unit vectors u.

    Args:
        groups: (T,) list or session of each shown item, 0..E-1.
        items: (T,) item ids 1..N.
        categories: (N,) integer category of each item.
        vectors: (N, D) non-zero vector of each item.

    Returns:
        (E,) diversity; nan for a group with fewer than two items.

    Raises:
        ValueError: Not exactly one of `categories` and `vectors` is given, or the shapes disagree.

    Source: Ziegler et al. (2005), "Improving recommendation lists through topic diversification", equation 4.
    """
    if (categories is None) == (vectors is None):
        raise ValueError("diversity needs exactly one of `categories` and `vectors`")
    if groups.shape != items.shape or groups.ndim != 1:
        raise ValueError(f"groups and items must both be (T,), got {groups.shape} and {items.shape}")
    num_groups = int(groups.max()) + 1 if groups.size else 0
    size = np.bincount(groups, minlength=num_groups).astype(np.float64)  # (E,)
    pairs = np.where(size > 1, size * (size - 1), np.nan)  # (E,)
    if categories is not None:
        cells = np.stack([groups, categories[items - 1]])  # (2, T)
        kept, number = np.unique(cells, axis=1, return_counts=True)
        same = np.bincount(kept[0], weights=number.astype(np.float64) ** 2, minlength=num_groups)  # (E,)
        return (size**2 - same) / pairs
    assert vectors is not None
    unit: DoubleArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # (N, D)
    total = np.zeros((num_groups, unit.shape[1]))
    np.add.at(total, groups, unit[items - 1])
    distance: DoubleArray = 1.0 - ((total**2).sum(axis=1) - size) / pairs
    return distance


def _ranks(ranks: Numbers, k: int) -> DoubleArray:
    checked = np.asarray(ranks, dtype=np.float64)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if not np.all(checked >= 1):
        raise ValueError(f"ranks start at 1 (the best), got {checked[~(checked >= 1)][0]}")
    return checked


def _counts(counts: Numbers) -> DoubleArray:
    checked = np.asarray(counts, dtype=np.float64)
    if checked.ndim != 1 or not checked.size or not np.all(checked >= 0):
        raise ValueError(f"counts must be (N,) non-negative numbers with N > 0, got shape {checked.shape}")
    return checked


def _mean_over_shown(shown: Numbers, value: DoubleArray) -> float:
    """Mean of an item's value (N,) over all that was shown; nan where nothing was."""
    counts = exposure_counts(shown, len(value))
    total = counts.sum()
    return float(counts @ value / total) if total else float("nan")
