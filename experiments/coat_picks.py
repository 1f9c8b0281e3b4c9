"""What rules pick of the items that chance showed, and how far their promise is from the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from recgym.ope.intervals import Interval, bootstrap_ratio, paired_bootstrap
from recgym.types import DoubleArray

PICKS = (1, 3)
"""How many of the exposed items a policy may choose."""
Numbers = dict[str, Any]


class Pick(NamedTuple):
    """The items that a rule picked for U users in S fits, means over the picked."""

    promised: DoubleArray  # (S, U) what the rule itself believed of them, stars
    predicted: DoubleArray  # (S, U) what the simulated users would rate them
    true: DoubleArray  # (S, U)


def pick_best(
    exposed: DoubleArray, stars: DoubleArray, popular: DoubleArray, pessimism: float
) -> dict[str, dict[str, Pick]]:
    """Every rule's best k of the exposed items, by "best k" and name of the rule.

    Args:
        exposed: (S, E + 1, U, K) beliefs, the simulated heads first.
        stars: (U, K) the true ratings.
        popular: (U, K) mean of the chosen ratings of each item.
        pessimism: standard deviations taken from the mean by the wary rules.
    """
    mean, together, doubt = exposed[:, 0], exposed.mean(1), exposed.std(1, ddof=1)  # (S, U, K)
    everywhere = np.broadcast_to(stars, mean.shape)
    scores = {
        "item mean": np.broadcast_to(popular, mean.shape),
        "model": mean, f"model - {pessimism:g} sd": mean - pessimism * doubt,
        "ensemble mean": together, f"ensemble mean - {pessimism:g} sd": together - pessimism * doubt,
        "truth": everywhere,
    }  # fmt: skip
    found = {}
    for k in PICKS:
        rules = {"random": Pick(mean.mean(2), mean.mean(2), everywhere.mean(2))}
        for name, score in scores.items():
            best = np.argsort(-score, axis=2, kind="stable")[:, :, :k]
            rules[name] = Pick(*(np.take_along_axis(one, best, 2).mean(2) for one in (score, mean, everywhere)))
        found[f"best {k}"] = rules
    return found


def judge_picks(rules: Mapping[str, Pick]) -> dict[str, Numbers]:
    """Promise against truth of every rule, and what it adds to the model's.

    `over` is by the rule's own promise, so that pessimism lowers it by the doubt taken off, whatever is picked. `curse`
    is what the simulated users would rate the picks, minus the truth, beyond the same on all exposures: what picking
    added to the bias. A pessimism that picks better known items lowers it too.
    """
    users = _owners(rules["model"].true)
    return {
        name: {
            "promised": float(pick.promised.mean()),
            "predicted": float(pick.predicted.mean()),
            "true": paired(pick.true, np.zeros_like(pick.true), users),
            "over": paired(pick.promised, pick.true, users),
            "over_percent": _percent(pick.promised - pick.true, pick.true, users),
            "against_model": paired(pick.true, rules["model"].true, users),
            "against_item_mean": paired(pick.true, rules["item mean"].true, users),
            "curse": paired(pick.predicted - pick.true, rules["random"].predicted - rules["random"].true, users),
            "curse_against_model": paired(
                pick.predicted - pick.true, rules["model"].predicted - rules["model"].true, users
            ),
        }
        for name, pick in rules.items()
    }


def propensities_gain(picked: Mapping[str, Mapping[str, Mapping[str, Pick]]]) -> dict[str, Numbers]:
    """Of the model's picks, with inverse propensities minus without: true stars, and how far the promise is off."""
    if len(picked) < 2:
        return {}
    without, weighed = picked.values()
    found = {}
    for k, rules in without.items():
        before, after = rules["model"], weighed[k]["model"]
        users = _owners(before.true)
        found[k] = {
            "true": paired(after.true, before.true, users),
            "over": paired(after.promised - after.true, before.promised - before.true, users),
        }
    return found


def _owners(outcomes: DoubleArray) -> Any:
    """User of each of (S, U) outcomes."""
    return np.broadcast_to(np.arange(outcomes.shape[1]), outcomes.shape)


def paired(first: DoubleArray, second: DoubleArray, users: Any) -> Numbers:
    """Mean difference of (S, ...) outcomes: bootstrap over users with all their fits, and the value of each fit."""
    found = paired_bootstrap(first.ravel(), second.ravel(), users.ravel(), seed=0)
    return _numbers(found, (first - second).reshape(len(first), -1).mean(1))


def _percent(over: DoubleArray, true: DoubleArray, users: Any) -> Numbers:
    found = bootstrap_ratio(100 * over.ravel(), true.ravel(), users.ravel(), seed=0)
    return _numbers(found, 100 * over.mean(1) / true.mean(1))


def _numbers(found: Interval, by_fit: DoubleArray) -> Numbers:
    return {"value": found.value, "low": found.low, "high": found.high, "by_fit": by_fit.tolist()}
