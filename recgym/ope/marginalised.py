"""Marginalised importance weights, for large catalogues: what kind of item was shown instead of which item.

With item embeddings e (categories, clusters) the weight of a row compares how often target and logger show the logged
*kind*, w(x, e) = p(e | x, pi) / p(e | x, mu). It varies far less than pi / mu and needs the logger to cover kinds, not
items. It is right where an item matters through its embedding only; OffCEM lets a model carry the rest.

Targets and loggers are (n, N) probabilities; column j is item j + 1. Rows are independent: large logs go by chunks.
"""

from __future__ import annotations

import numpy as np

from recgym.ope.one_step import ips
from recgym.ope.one_step_models import doubly_robust_terms, expected_model
from recgym.ope.rows import Numbers, check_distributions, check_items, check_rows, check_weights, refuse
from recgym.types import BoolArray, DoubleArray, IntArray


def marginal_weights(target: DoubleArray, logger: DoubleArray, likelihood: Numbers) -> DoubleArray:
    """w(x_i, e_i) = sum_a p(e_i | x_i, a) pi(a | x_i) / sum_a p(e_i | x_i, a) mu(a | x_i), (n,).

    Args:
        target: (n, N) pi(a | x_i).
        logger: (n, N) mu(a | x_i).
        likelihood: (n, N) p(e_i | x_i, a), of the embedding that row i logged, under each item.

    Raises:
        ValueError: Probabilities are none, shapes differ, or the logger can never have shown what a row logged.

    Source: Saito and Joachims (2022), "Off-policy evaluation for large action spaces via embeddings".
    """
    check_distributions(target=target, logger=logger)
    given = likelihood.astype(np.float64)
    check_rows(dimensions=2, target=target, likelihood=given)
    refuse("likelihood", given, given < 0, "not negative")
    shown = np.einsum("ij,ij->i", logger, given)
    refuse("the logger's probability of the logged embedding", shown, ~(shown > 0), "positive")
    weights: DoubleArray = np.einsum("ij,ij->i", target, given) / shown
    return weights


def category_likelihood(category: Numbers, item: IntArray) -> BoolArray:
    """Whether each item is of the logged item's category, (n, N): p(e_i | a) where an item has one embedding.

    Args:
        category: (N,) category of each item, or (N, D) for D categories that must all agree.
        item: (n,) logged item ids, 1..N.
    """
    code = _codes(category)  # (N,)
    check_items(item, rows=len(item), num_items=len(code))
    same: BoolArray = code[item - 1][:, None] == code
    return same


def category_weights(target: DoubleArray, logger: DoubleArray, category: Numbers, item: IntArray) -> DoubleArray:
    """pi(c(a_i) | x_i) / mu(c(a_i) | x_i), (n,): `marginal_weights` where c(a) is the one category of an item."""
    return marginal_weights(target, logger, category_likelihood(category, item))


def estimated_likelihood(embedding: Numbers, item: IntArray, *, num_items: int, smoothing: float = 0.0) -> DoubleArray:
    """p(e_i | a) counted in the log, (n, N): (#(a, e) + smoothing #(e) / n) / (#(a) + smoothing).

    For embeddings that vary from one showing of an item to the next (a price band, a position), and not with x.

    Args:
        embedding: (n,) or (n, D) categories logged with each row.
        item: (n,) logged item ids, 1..N.
        num_items: Items N.
        smoothing: How many rows the log's overall frequencies count for in each item.

    Raises:
        ValueError: An item was never logged and there is no smoothing: its embedding is unknown.
    """
    check_items(item, rows=len(embedding), num_items=num_items)
    if not 0 <= smoothing < np.inf:
        raise ValueError(f"smoothing must be finite and not negative, got {smoothing}")
    code = _codes(embedding)  # (n,)
    counts = np.zeros((num_items, int(code.max()) + 1))
    np.add.at(counts, (item - 1, code), 1.0)
    size = counts.sum(axis=1, keepdims=True) + smoothing
    if not size.all():
        raise ValueError(
            f"item {int(size.argmin()) + 1} is never logged, so its embedding is unknown; "
            "set smoothing above 0, or leave the item out of the catalogue"
        )
    likelihood: DoubleArray = ((counts + smoothing * counts.sum(axis=0) / len(code)) / size)[:, code].T
    return likelihood


def posterior_weights(ratios: DoubleArray, posterior: DoubleArray) -> DoubleArray:
    """w(x_i, e_i) = sum_a mu(a | x_i, e_i) pi(a | x_i) / mu(a | x_i), (n,): the same weights from a classifier.

    Args:
        ratios: (n, N) pi / mu of every item.
        posterior: (n, N) estimated probability that the logger showed each item, given context and embedding.

    Source: Saito and Joachims (2022), the estimate of marginal weights by a model of mu(a | x, e).
    """
    check_distributions(posterior=posterior)
    check_weights(ratios, dimensions=2, name="ratios", posterior=posterior)
    weights: DoubleArray = np.einsum("ij,ij->i", posterior, ratios)
    return weights


def mips(
    target: DoubleArray, logger: DoubleArray, category: Numbers, item: IntArray, reward: DoubleArray
) -> DoubleArray:
    """w(x_i, c(a_i)) r_i, (n,): unbiased if reward depends on context and category alone (no direct effect).

    Embeddings that are no fixed category of the item: `ips(marginal_weights(...), reward)`.

    Source: Saito and Joachims (2022).
    """
    return ips(category_weights(target, logger, category, item), reward)


def off_cem(
    target: DoubleArray, logger: DoubleArray, cluster: Numbers, item: IntArray, reward: DoubleArray, q: DoubleArray
) -> DoubleArray:
    """OffCEM, w(x_i, c(a_i)) (r_i - q(x_i, a_i)) + sum_a pi(a | x_i) q(x_i, a), (n,).

    Unbiased if the model is right about differences between items of one cluster (local correctness); weights repair
    what it gets wrong about whole clusters. One item a cluster is doubly robust; one cluster for all items is the
    direct method plus the model's mean error.

    Args:
        target: (n, N) pi(a | x_i).
        logger: (n, N) mu(a | x_i).
        cluster: (N,) or (N, D) cluster of each item.
        item: (n,) logged item ids, 1..N.
        reward: (n,) rewards.
        q: (n, N) the model for all items.

    Source: Saito, Ren and Joachims (2023), "Off-policy evaluation for large action spaces via conjunct effect
        modeling".
    """
    weights, v = category_weights(target, logger, cluster, item), expected_model(target, q)
    return doubly_robust_terms(weights, reward, q[np.arange(len(item)), item - 1], v)


def _codes(category: Numbers) -> IntArray:
    """Rows of (M,) or (M, D) numbered by their distinct values, (M,)."""
    table = category.reshape(len(category), -1)
    if not table.size:
        raise ValueError(f"categories must not be empty, got shape {category.shape}")
    if table.dtype.kind == "f":
        check_rows(dimensions=2, category=table)
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
