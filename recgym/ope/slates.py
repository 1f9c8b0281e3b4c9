"""Slates and rankings of K slots: estimators that differ in what a slot's reward is taken to depend on.

Arrays are (n, K): row i shows K items, each slot earns a reward. `slot_ratios` divides the target's probability of the
item in each slot by the logger's. "standard" and "cascade" need probabilities given the slots above,
pi(a_k | x, a_1 ... a_(k-1)); "independent" needs each slot's marginal probability, pi(a_k | x).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from recgym.ope.doubly_robust import doubly_robust
from recgym.ope.fqe import Values
from recgym.ope.rows import check_rows, check_weights, refuse
from recgym.types import BoolArray, DoubleArray

Interaction = Literal["standard", "independent", "cascade"]


def slot_ratios(target: DoubleArray, logger: DoubleArray) -> DoubleArray:
    """Ratios pi / mu of each slot, (n, K), from both policies' probabilities of the items shown, (n, K).

    Raises:
        ValueError: A probability is outside [0, 1], or the logger's is 0, or one is missing.
    """
    check_rows(dimensions=2, target=target, logger=logger)
    refuse("target", target, ~((target >= 0) & (target <= 1)), "a probability in [0, 1]")
    refuse("logger", logger, ~((logger > 0) & (logger <= 1)), "a propensity in (0, 1]")
    return target / logger


def slate_weights(ratios: DoubleArray, interaction: Interaction | BoolArray) -> DoubleArray:
    """The weight of each slot's reward, (n, K): prod of rho_j over the slots j that reward k depends on.

    "standard": all slots. "cascade": the slots down to k (reward interaction, RIPS). "independent": slot k alone. Or a
    table (K, K) of bool, True at [k, j] where reward k depends on slot j; it is unbiased if the slots left out neither
    change reward k nor how the policies fill the slots kept in.

    Source: standard and independent: Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen (2018), "Offline
        evaluation of ranking policies with click models" (list and item-position estimators); cascade: McInerney,
        Brost, Chandar, Mehrotra and Carterette (2020), "Counterfactual evaluation of slate recommendations with
        sequential reward interactions".
    """
    check_weights(ratios, dimensions=2, name="ratios")
    slots = ratios.shape[1]
    if isinstance(interaction, str):
        tables = {
            "standard": np.ones((slots, slots), np.bool_),
            "cascade": np.tri(slots, dtype=np.bool_),
            "independent": np.eye(slots, dtype=np.bool_),
        }
        if interaction not in tables:
            raise ValueError(f"interaction must be one of {', '.join(tables)}, or a table, got {interaction!r}")
        depends = tables[interaction]
    else:
        depends = interaction
    if depends.shape != (slots, slots) or depends.dtype != np.bool_:
        raise ValueError(f"interaction must be ({slots}, {slots}) bool, got {depends.shape} {depends.dtype}")
    return np.stack([ratios[:, row].prod(axis=1) for row in depends], axis=1)


def slate_terms(weights: DoubleArray, reward: DoubleArray, slot_weight: DoubleArray | None = None) -> DoubleArray:
    """sum_k alpha_k w_ik r_ik of each slate, (n,).

    Args:
        weights: (n, K) from `slate_weights`.
        reward: (n, K) reward of each slot.
        slot_weight: (K,) alpha, what a slot's reward counts for (1 / log2(k + 1) for DCG); ones if None.
    """
    terms: DoubleArray = self_normalised_slate_terms(weights, reward, slot_weight)[0].sum(axis=1)
    return terms


def self_normalised_slate_terms(
    weights: DoubleArray, reward: DoubleArray, slot_weight: DoubleArray | None = None
) -> tuple[DoubleArray, DoubleArray]:
    """sum_k alpha_k sum_i w_ik r_ik / sum_i w_ik: numerators alpha w r and denominators w, (n, K) each."""
    check_weights(weights, dimensions=2, reward=reward)
    return weights * _scaled(reward, slot_weight), weights.copy()


def cascade_doubly_robust(
    ratios: DoubleArray, reward: DoubleArray, q: DoubleArray, v: DoubleArray, slot_weight: DoubleArray | None = None
) -> DoubleArray:
    """Cascade-DR, sum_k w_1:k (alpha_k r_k - q_k) + w_1:k-1 v_k of each slate, (n,), w_1:k = rho_1 ... rho_k.

    It is `doubly_robust` with slots for steps: unbiased for any model where each reward depends on its slot and those
    above.

    Args:
        ratios: (n, K) pi / mu of each slot given the slots above.
        reward: (n, K) reward of each slot.
        q: (n, K) the model's Q_k: sum of alpha r from slot k to the last, given the items down to k, the target filling
            the rest.
        v: (n, K) its expectation over slot k's item under the target, given the slots above.
        slot_weight: (K,) alpha; ones if None.

    Source: Kiyohara, Saito, Matsuhiro, Narita, Shimizu and Yamamoto (2022), "Doubly robust off-policy evaluation for
        ranking policies under the cascade behavior model".
    """
    check_weights(ratios, dimensions=2, name="ratios", reward=reward, q=q, v=v)
    following = np.concatenate([v[:, 1:], np.zeros((len(v), 1))], axis=1)
    values = Values(q=q.ravel(), v=v.ravel(), v_next=following.ravel())
    slate = np.repeat(np.arange(len(ratios)), ratios.shape[1])
    return doubly_robust(ratios.ravel(), _scaled(reward, slot_weight).ravel(), values, slate, 1.0)


def _scaled(reward: DoubleArray, slot_weight: DoubleArray | None) -> DoubleArray:
    if slot_weight is None:
        return reward
    if slot_weight.shape != reward.shape[1:]:
        raise ValueError(f"slot_weight must be {reward.shape[1:]}, one number a slot, got {slot_weight.shape}")
    check_rows(slot_weight=slot_weight)
    return reward * slot_weight
