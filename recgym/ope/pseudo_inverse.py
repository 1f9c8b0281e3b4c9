"""The pseudo-inverse estimator: one reward for a whole slate, taken to be a sum over slots of what each item adds.

A slate of K slots over N items is a vector 1_s of K N zeros and ones, 1 at place (k - 1) N + j - 1 where slot k shows
item j. If reward is linear in it, weights that match all (slot, item) frequencies are enough: K N of them, not N^K.

Source: Swaminathan, Krishnamurthy, Agarwal, Dudík, Langford, Jose and Zitouni (2017), "Off-policy evaluation for slate
recommendation".
"""

from __future__ import annotations

import numpy as np

from recgym.ope.rows import check_distributions, check_rows, check_weights, refuse
from recgym.types import DoubleArray, IntArray

_TOLERANCE = 1e-8


def slate_moments(slates: IntArray, probability: DoubleArray, num_items: int) -> tuple[DoubleArray, DoubleArray]:
    """A policy's marginals E[1_s], (K, N), and second moments Gamma = E[1_s 1_s^T], (K N, K N), slate by slate.

    Args:
        slates: (M, K) every slate that the policy can show in one context, item ids 1..N; or slates drawn from it.
        probability: (M,) their probabilities; 1 / M for drawn ones.
        num_items: Items N.
    """
    check_distributions(probability=probability[None])
    shown = _indicators(slates, num_items)  # (M, K N)
    if len(shown) != len(probability):
        raise ValueError(f"slates and probability must have one length, got {len(shown)} and {len(probability)}")
    marginal = (probability @ shown).reshape(slates.shape[1], num_items)
    return marginal, (shown * probability[:, None]).T @ shown


def uniform_moments(num_slots: int, num_items: int) -> DoubleArray:
    """Gamma of the uniform logger of slates without repeats, (K N, K N).

    1 / N on the diagonal; 1 / (N (N - 1)) for two items in two slots; 0 for one item twice or two items in one slot.
    """
    if not 1 <= num_slots <= num_items:
        raise ValueError(f"slates without repeats need 1 <= slots <= items, got {num_slots} slots, {num_items} items")
    same, other = np.eye(num_items) / num_items, 0.0 * np.eye(num_items)
    if num_items > 1:
        other = (1 - np.eye(num_items)) / (num_items * (num_items - 1))
    slots = np.eye(num_slots)
    moments: DoubleArray = np.kron(slots, same) + np.kron(1 - slots, other)
    return moments


def pseudo_inverse_weights(slate: IntArray, target: DoubleArray, moments: DoubleArray) -> DoubleArray:
    """w_i = E_pi[1_s | x_i]^T Gamma^+ 1_(s_i), (n,), for a slate's whole reward: the estimate is the mean of w_i r_i.

    Weights may be negative. Self-normalised, the estimate is sum w r / sum w.

    Args:
        slate: (n, K) items shown, ids 1..N.
        target: (n, K, N) the target's probability of each item in each slot.
        moments: (K N, K N) the logger's Gamma in every context, or (n, K N, K N) in each.

    Raises:
        ValueError: The target puts items where no combination of the logger's slates can stand for them, or a row
            shows a slate that the logger never shows.
    """
    check_distributions(dimensions=3, target=target)
    num_rows, num_slots, num_items = target.shape
    size = num_slots * num_items
    if moments.shape not in ((size, size), (num_rows, size, size)):
        raise ValueError(f"moments must be ({size}, {size}), or one such a row, got {moments.shape}")
    check_rows(dimensions=moments.ndim, moments=moments)
    if slate.shape != (num_rows, num_slots):
        raise ValueError(f"slate must be ({num_rows}, {num_slots}), got {slate.shape}")
    shown, wanted = _indicators(slate, num_items), target.reshape(num_rows, size)
    inverse = np.linalg.pinv(moments, rcond=1e-10, hermitian=True)
    spanned = moments @ inverse  # onto what the logger's slates span
    for name, vector in (("target", wanted), ("slate", shown)):
        missing = np.abs(vector - np.einsum("...jk,...k->...j", spanned, vector)).max(axis=1)
        words = "a mix of slates that the logger shows (distance 0)"
        refuse(name, missing, missing > _TOLERANCE * size, words)
    weights: DoubleArray = np.einsum("ij,ij->i", wanted, np.einsum("...jk,...k->...j", inverse, shown))
    return weights


def factored_weights(ratios: DoubleArray) -> DoubleArray:
    """1 + sum_k (pi_k / mu_k - 1), (n,): `pseudo_inverse_weights` where the logger fills slots independently.

    Args:
        ratios: (n, K) marginal pi / mu of each slot, from `slates.slot_ratios`.
    """
    check_weights(ratios, dimensions=2, name="ratios")
    weights: DoubleArray = 1 + (ratios - 1).sum(axis=1)
    return weights


def pseudo_inverse(weights: DoubleArray, reward: DoubleArray) -> DoubleArray:
    """w_i r_i, (n,), of pseudo-inverse weights (which may be negative) and the reward of whole slates."""
    check_rows(weights=weights, reward=reward)
    return weights * reward


def _indicators(slates: IntArray, num_items: int) -> DoubleArray:
    """(M, K) item ids -> (M, K N) zeros and ones."""
    if slates.ndim != 2 or not slates.size:
        raise ValueError(f"slates must be (M, K) and not empty, got {slates.shape}")
    refuse("slates", slates, ~((slates >= 1) & (slates <= num_items)), f"item ids in 1..{num_items}")
    shown = np.zeros((*slates.shape, num_items))
    np.put_along_axis(shown, slates[:, :, None] - 1, 1.0, axis=2)
    return shown.reshape(len(slates), -1)
