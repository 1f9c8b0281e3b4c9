"""Had the logger a choice? One that shows the same item whenever the context is the same leaves nothing to weigh."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recgym.ope.behaviour import Choices, check_propensities
from recgym.types import DoubleArray, IntArray

CERTAIN = 0.99
"""A propensity from which an item counts as shown without a choice."""
MOST, SOME = 0.8, 0.05
"""Shares of such rows from which the logger is (almost) deterministic, or partly so. An estimate is unsure where the
choice turns: of a logger without any, linear in three features, it was certain in 90% of 3,000 rows."""
REPEATS = 100
"""Fewest repetitions of contexts that tell anything: none that differs puts the chance of one below 3% (95% bound)."""
SLIPS = 0.01
"""Share of repetitions that may differ, as where a deterministic logger changed during the log."""


@dataclass(frozen=True, kw_only=True)
class Determinism:
    """Whether the logger had a choice."""

    verdict: Literal["deterministic", "partly", "stochastic", "unknown"]
    repeats: int
    """Rows beyond the first of each context (features and allowed items)."""
    changes: int
    """Those of them that do not show their context's most frequent item."""
    certain_share: float
    """Share of rows with a propensity of at least `CERTAIN`; nan where no propensities are given."""
    words: tuple[str, ...]
    """What follows for estimates; empty where the logger is stochastic."""


def determinism(choices: Choices, propensity: DoubleArray | None = None) -> Determinism:
    """Tell a logger that always shows the same item in the same context from one that explores.

    Deterministic: at least `REPEATS` rows repeat a context and at most `SLIPS` of them change the item; or `MOST` rows
    have a propensity of about 1. Partly: `SOME` have. Unknown: too few repetitions, and no propensities.

    Args:
        choices: The log. An item that depends on what the features do not hold looks like chance.
        propensity: (n,) of what was shown, logged or cross-fitted; None: judge by repetitions alone.

    Raises:
        ValueError: A propensity is not in (0, 1], or there is not one for each row.
    """
    context = _contexts(choices)  # (n,)
    pairs, count = np.unique(np.stack([context, choices.item]), axis=1, return_counts=True)  # (2, P), (P,)
    most = np.zeros(int(context.max()) + 1, dtype=np.int64)
    np.maximum.at(most, pairs[0], count)
    repeats, changes = len(context) - len(most), len(context) - int(most.sum())
    share, doubt = math.nan, math.nan
    if propensity is not None:
        check_propensities(propensity=propensity)
        if len(propensity) != len(context):
            raise ValueError(f"propensity must be ({len(context)},), one a row, got {propensity.shape}")
        share, doubt = float((propensity >= CERTAIN).mean()), float((1 - propensity).mean())
    verdict, words = _judge(repeats, changes, share, doubt)
    return Determinism(verdict=verdict, repeats=repeats, changes=changes, certain_share=share, words=words)


def _judge(
    repeats: int, changes: int, share: float, doubt: float
) -> tuple[Literal["deterministic", "partly", "stochastic", "unknown"], tuple[str, ...]]:
    enough, varied = repeats >= REPEATS, changes > SLIPS * repeats
    due = 2 * doubt * repeats  # at most, as a context shown m times has m - 1 repetitions
    if share >= MOST and enough and changes > due + 3 * math.sqrt(due) + SLIPS * repeats:
        return "unknown", (
            f"{share:.0%} of the propensities are about 1, yet {changes} of {repeats} repetitions of a context show "
            "another item: the propensities are not those of these rows, or the features lack what the logger saw; "
            "check how both are logged",
        )
    if share >= MOST or (enough and not varied):
        seen = f"{repeats - changes} of {repeats} repetitions of a context show its usual item"
        if share >= MOST:
            seen = f"{share:.0%} of what it shows has a probability of about 1"
        return "deterministic", (
            f"the logger is (almost) deterministic: {seen}. What users would have done with other items was not seen, "
            "so importance weighting (IPS, SNIPS, the correction in DR) cannot answer, whether propensities are logged "
            "or estimated. What can: fitted Q (the direct method), with the warning that it extrapolates; or logging "
            "with exploration: a random allowed item in a small share of impressions, and its probability",
        )
    if share >= SOME:
        return "partly", (
            f"{share:.0%} of what the logger shows has a probability of about 1: in those contexts importance "
            "weighting knows nothing of other items; explore there too, or ask about the other contexts alone",
        )
    if math.isnan(share) and not enough:
        return "unknown", (
            f"only {repeats} rows repeat a context, too few to see whether the logger would have chosen otherwise "
            f"(at least {REPEATS}); log propensities, or estimate them (cross_fitting.cross_fit) and judge by those",
        )
    return "stochastic", ()


def _contexts(choices: Choices) -> IntArray:
    """The distinct pairs of features and allowed items numbered, (n,); a mask counts by a random 64-bit sum."""
    found = np.unique(choices.features, axis=0, return_inverse=True)[1].reshape(-1)
    if choices.mask is not None:
        draws = np.random.default_rng(0).integers(-(2**62), 2**62, choices.num_items)
        parts = choices.parts(np.arange(len(found)))
        code = np.concatenate([seen.mask @ draws for _, seen in parts if seen.mask is not None])
        found = np.unique(np.stack([found, code]), axis=1, return_inverse=True)[1].reshape(-1)
    return found.astype(np.int64)
