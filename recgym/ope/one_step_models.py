"""One-step estimators with a reward model: the direct method and the doubly robust family.

The model predicts q_i = q(x_i, a_i), (n,), for the logged item and v_i = sum_a pi(a | x_i) q(x_i, a), (n,), for the
target. It must not have been fitted on the same rows (cross-fitting), or the correction corrects too little.
Weights w_i = pi / mu are those of `weights.step_ratios`. Bad input raises ValueError with row and value.
"""

from __future__ import annotations

import math

import numpy as np

from recgym.ope.one_step import self_normalised, sub_gaussian_weights
from recgym.ope.rows import check_rows, check_weights
from recgym.types import DoubleArray


def expected_model(target: DoubleArray, q: DoubleArray) -> DoubleArray:
    """v_i = sum_a pi(a | x_i) q(x_i, a), (n,), from the target's probabilities (n, N) and the model's q (n, N)."""
    check_weights(target, dimensions=2, name="target", q=q)
    values: DoubleArray = np.einsum("ij,ij->i", target, q)
    return values


def direct_method(v: DoubleArray) -> DoubleArray:
    """v_i, (n,): what the model says the target earns. No weights, and no way to notice that the model is wrong.

    Source: Beygelzimer and Langford (2009), "The offset tree for learning with partial labels".
    """
    check_rows(v=v)
    return v.copy()


def doubly_robust_terms(weights: DoubleArray, reward: DoubleArray, q: DoubleArray, v: DoubleArray) -> DoubleArray:
    """v_i + w_i (r_i - q_i), (n,): unbiased if the weights are right, whatever the model; or if the model is right.

    Args:
        weights: (n,) pi / mu of the logged item.
        reward: (n,) rewards.
        q: (n,) the model at the logged item.
        v: (n,) the model's expectation under the target.

    Source: Dudík, Langford and Li (2011), "Doubly robust policy evaluation and learning".
    """
    check_weights(weights, reward=reward, q=q, v=v)
    return v + weights * (reward - q)


def self_normalised_doubly_robust(
    weights: DoubleArray, reward: DoubleArray, q: DoubleArray, v: DoubleArray
) -> tuple[DoubleArray, DoubleArray]:
    """SNDR, mean(v) + sum_i w_i (r_i - q_i) / sum_i w_i: numerators (n, 2) and denominators (n, 2).

    The estimate is the sum of the two column ratios, as `intervals.bootstrap_ratio` takes it: v over 1, w (r - q)
    over w.

    Raises:
        ValueError: All weights are 0, so that there is nothing to divide by.

    Source: Thomas and Brunskill (2016), "Data-efficient off-policy policy evaluation for reinforcement learning",
        weighted doubly robust, for one step.
    """
    check_weights(weights, reward=reward, q=q, v=v)
    above, below = self_normalised(weights, reward - q)
    return np.stack([v, above], axis=1), np.stack([np.ones(len(v)), below], axis=1)


def switch_weights(weights: DoubleArray, threshold: float) -> DoubleArray:
    """w_i where w_i <= threshold, else 0, (n,)."""
    check_weights(weights)
    if not threshold >= 0:
        raise ValueError(f"threshold must not be negative, got {threshold}")
    return np.where(weights <= threshold, weights, 0.0)


def switch_doubly_robust(
    weights: DoubleArray, reward: DoubleArray, q: DoubleArray, v: DoubleArray, *, threshold: float
) -> DoubleArray:
    """v_i + w_i 1[w_i <= threshold] (r_i - q_i), (n,): the model alone where weights are large.

    Threshold inf is doubly robust, 0 is the direct method.

    Source: Wang, Agarwal and Dudík (2017), "Optimal and adaptive off-policy evaluation in contextual bandits", SWITCH
        with the doubly robust estimator below the threshold.
    """
    return doubly_robust_terms(switch_weights(weights, threshold), reward, q, v)


def optimistic_weights(weights: DoubleArray, strength: float) -> DoubleArray:
    """Weights strength w_i / (w_i^2 + strength), (n,), at most sqrt(strength) / 2: inf leaves w, 0 leaves nothing."""
    check_weights(weights)
    if not strength >= 0:
        raise ValueError(f"strength must not be negative, got {strength}")
    if strength == 0:
        return np.zeros_like(weights)
    return weights.copy() if math.isinf(strength) else strength * weights / (weights**2 + strength)


def optimistic_doubly_robust(
    weights: DoubleArray, reward: DoubleArray, q: DoubleArray, v: DoubleArray, *, strength: float
) -> DoubleArray:
    """DRos, v_i + strength w_i / (w_i^2 + strength) (r_i - q_i), (n,): weights shrunk where they are large.

    Strength (lambda in the paper) inf is doubly robust, 0 is the direct method.

    Source: Su, Dimakopoulou, Krishnamurthy and Dudík (2020), "Doubly robust off-policy evaluation with shrinkage",
        optimistic shrinkage.
    """
    return doubly_robust_terms(optimistic_weights(weights, strength), reward, q, v)


def sub_gaussian_doubly_robust(
    weights: DoubleArray, reward: DoubleArray, q: DoubleArray, v: DoubleArray, *, mixing: float
) -> DoubleArray:
    """v_i + w_i / (1 - mixing + mixing w_i) (r_i - q_i), (n,); see `one_step.sub_gaussian_weights`.

    Source: Metelli, Russo and Restelli (2021).
    """
    return doubly_robust_terms(sub_gaussian_weights(weights, mixing), reward, q, v)
