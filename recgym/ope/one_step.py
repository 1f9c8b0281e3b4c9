"""One-step (contextual bandit) estimators that weigh logged rewards: each row is one impression, one item, one reward.

Throughout, w_i = pi(a_i | x_i) / mu(a_i | x_i), (n,), is `weights.step_ratios`: the target's chance of the logged item
over the logger's. A linear estimator returns the terms (n,) whose mean is the estimate; a ratio estimator returns
(numerators, denominators), whose sums are divided. `intervals.bootstrap_mean` and `bootstrap_ratio` take them as they
are. All functions raise ValueError for arrays of different shapes, for numbers that are not finite and for negative
weights, with row and value. Estimators that use a reward model are in `one_step_models`.
"""

from __future__ import annotations

import numpy as np

from recgym.ope.rows import check_rows, check_weights, refuse
from recgym.types import DoubleArray


def ips(weights: DoubleArray, reward: DoubleArray) -> DoubleArray:
    """w_i r_i, (n,): its mean is unbiased wherever the logger shows all that the target shows.

    This is `importance.per_decision` for episodes of one step. With the weights of `clipped_weights` or
    `sub_gaussian_weights` it is clipped or sub-Gaussian IPS, with those of `marginalised.category_weights` MIPS.

    Source: Horvitz and Thompson (1952), "A generalization of sampling without replacement from a finite universe".
    """
    check_weights(weights, reward=reward)
    return weights * reward


def self_normalised(weights: DoubleArray, reward: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """SNIPS, sum_i w_i r_i / sum_i w_i: numerators w r (n,) and denominators w (n,).

    Raises:
        ValueError: All weights are 0, so that there is nothing to divide by.

    Source: Swaminathan and Joachims (2015), "The self-normalized estimator for counterfactual learning".
    """
    terms = ips(weights, reward)
    _check_any(weights)
    return terms, weights.copy()


def clipped_weights(weights: DoubleArray, limit: float) -> DoubleArray:
    """min(w_i, limit), (n,): no row counts more than `limit`; too low where rewards are positive. inf clips nothing.

    Source: Ionides (2008), "Truncated importance sampling".
    """
    check_weights(weights)
    if not limit > 0:
        raise ValueError(f"limit must be positive, got {limit}")
    return np.minimum(weights, limit)


def sub_gaussian_weights(weights: DoubleArray, mixing: float) -> DoubleArray:
    """w_i / (1 - mixing + mixing w_i), (n,): smooth, bounded by 1 / mixing; mixing 0 leaves the weights as they are.

    Source: Metelli, Russo and Restelli (2021), "Subgaussian and differentiable importance sampling for off-policy
        evaluation and learning", the harmonic correction (their s = -1).
    """
    check_weights(weights)
    if not 0 <= mixing < 1:
        raise ValueError(f"mixing must lie in [0, 1), got {mixing}")
    return weights / (1 - mixing + mixing * weights)


def acceptance(weights: DoubleArray, bound: float) -> DoubleArray:
    """w_i / bound, (n,): the chance with which replay keeps row i, so that kept rows are the target's own.

    Args:
        weights: (n,) pi / mu of the logged item.
        bound: The greatest pi / mu that any item can have, logged or not: N max pi for a logger uniform over N.

    Raises:
        ValueError: A weight exceeds the bound.
    """
    check_weights(weights)
    if not 0 < bound < np.inf:
        raise ValueError(f"bound must be positive and finite, got {bound}")
    refuse("weights", weights, weights > bound * (1 + 1e-9), f"at most the bound {bound}")
    return np.minimum(weights / bound, 1.0)


def replay(weights: DoubleArray, reward: DoubleArray, *, bound: float, seed: int) -> tuple[DoubleArray, DoubleArray]:
    """Mean reward of accepted rows: numerators kept_i r_i and denominators kept_i, both (n,), kept_i 0 or 1.

    Row i is kept with probability w_i / bound. For a uniform logger and a target that always shows one item these are
    the rows where the two agree, without chance; for a stochastic target it is rejection sampling.

    Args:
        weights: (n,) pi / mu of the logged item.
        reward: (n,) rewards.
        bound: See `acceptance`.
        seed: Seed of the draws.

    Raises:
        ValueError: No row is accepted: there is no estimate, and 0 would be a lie.

    Source: Li, Chu, Langford and Wang (2011), "Unbiased offline evaluation of contextual-bandit-based news article
        recommendation algorithms"; von Neumann (1951) for the rejection.
    """
    check_weights(weights, reward=reward)
    chance = acceptance(weights, bound)
    kept = (np.random.default_rng(seed).random(len(weights)) < chance).astype(np.float64)
    if not kept.any():
        raise ValueError(
            f"replay accepts none of {len(weights)} rows ({chance.sum():.3g} expected at bound {bound:.3g}), so it has "
            "no estimate; log more, or weigh rows (ips, self_normalised) instead of rejecting them"
        )
    return kept * reward, kept


def difference(
    weights: DoubleArray, production: DoubleArray, reward: DoubleArray, *, baseline: float = 0.0
) -> DoubleArray:
    """(w_i - p_i) (r_i - baseline), (n,): its mean is the target's value minus production's, for any fixed baseline.

    What the two policies share cancels row by row, so this varies less than two estimates apart.

    Args:
        weights: (n,) the target's pi / mu.
        production: (n,) production's pi / mu; ones where production logged the data.
        reward: (n,) rewards.
        baseline: What both policies are taken to earn anyway; `best_baseline` gives the least variance.

    Source: Jeunen and Ustimenko (2024), "Delta-OPE: Off-policy estimation with pairs of policies"; a control variate,
        as in Owen (2013), "Monte Carlo theory, methods and examples", section 8.9.
    """
    check_weights(weights, production=production, reward=reward)
    check_weights(production, name="production")
    return (weights - production) * (reward - baseline)


def best_baseline(weights: DoubleArray, reward: DoubleArray, *, production: DoubleArray | None = None) -> float:
    """Cov(d r, d) / Var(d) with d = w - p: the baseline that leaves `difference` the least variance in this log.

    Without `production` d = w, the best constant model q = v = baseline of `one_step_models.doubly_robust_terms`. The
    same rows chose it, so the estimate has a bias of order 1 / n. Where d never varies, all baselines are as good and
    the mean reward is returned.

    Source: Gupta, Jeunen, Oosterhuis and de Rijke (2024), "Optimal baseline corrections for off-policy contextual
        bandits".
    """
    other = np.zeros_like(weights) if production is None else production
    check_weights(weights, production=other, reward=reward)
    apart = weights - other
    if np.ptp(apart) <= 1e-12 * max(weights.max(), other.max()):  # rounding is no variation
        return float(reward.mean())
    centred = apart - apart.mean()
    return float(centred @ (apart * reward)) / float(centred @ centred)


def _check_any(weights: DoubleArray) -> None:
    check_rows(weights=weights)
    if not weights.any():
        raise ValueError(
            f"weights are 0 in all {len(weights)} rows: the target never shows what was logged, "
            "so a self-normalised estimate is 0 / 0; log what the target would show"
        )
