"""Whether estimators put policies in the right order, beside the field's habit of picking by NDCG."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.bench.ope_terms import all_terms, asked, estimate, estimators, models_of
from experiments.bench.ope_worlds import Log, Setting
from recgym.ope.intervals import Interval, t_interval
from recgym.types import DoubleArray

HABIT = "pick by NDCG"
SCORES = ("Spearman", "regret@1", "SharpeRatio@3")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One estimator in one world at one size: the mean of each of `SCORES` over logs."""

    world: str
    size: str
    estimator: str
    scores: tuple[Interval, ...]
    missing: float
    """Share of logs in which some policy had no estimate; they are left out."""


def rank(setting: Setting, size: int, logs: int) -> list[Ranked]:
    """Estimate all policies from each log and compare the order with the true one."""
    truth = np.array([setting.world.value(policy) for policy in setting.policies])
    logged = setting.world.value(setting.logger)
    names = (*estimators(setting), HABIT)
    scores = np.full((logs, len(names), len(SCORES)), np.nan)
    for number in range(logs):
        log = setting.world.draw(setting.logger, size, np.random.default_rng((number, size, 1)))
        models, values = models_of(setting, log), np.full((len(names), len(truth)), np.nan)
        for column, policy in enumerate(setting.policies):
            found = all_terms(asked(setting, log, policy, models)).values()
            values[:-1, column] = [np.nan if terms is None else estimate(terms) for terms in found]
            values[-1, column] = ndcg(policy, log)
        for row in np.flatnonzero(np.isfinite(values).all(axis=1)):
            scores[number, row] = (
                spearman(values[row], truth), regret(values[row], truth), sharpe_ratio(values[row], truth, logged, k=3)
            )  # fmt: skip
    return [
        Ranked(
            world=setting.name, size=f"{size:,}", estimator=name, scores=tuple(map(_over_logs, scores[:, row].T)),
            missing=float(np.isnan(scores[:, row, 0]).mean()),
        )
        for row, name in enumerate(names)
    ]  # fmt: skip


def spearman(estimated: DoubleArray, truth: DoubleArray) -> float:
    """Correlation of ranks, ties sharing theirs; 0 where all are tied.

    Source: Spearman (1904), "The proof and measurement of association between two things".
    """
    first, second = (_ranks(values) - (len(values) - 1) / 2 for values in (estimated, truth))
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size else 0.0


def regret(estimated: DoubleArray, truth: DoubleArray) -> float:
    """The best true value less that of the policy estimated best, in units of value."""
    return float(truth.max() - truth[estimated.argmax()])


def sharpe_ratio(estimated: DoubleArray, truth: DoubleArray, logged: float, *, k: int) -> float:
    """(best@k - J(logger)) / std@k: the best true value among the k policies estimated best, over their spread.

    std@k divides by k. It is 0, and the ratio infinite or nan, only where all k have one value.

    Source: Kiyohara et al. (2024), "Towards assessing and benchmarking risk-return tradeoff of off-policy
        evaluation".
    """
    top = truth[np.argsort(-estimated, kind="stable")[:k]]
    return float((top.max() - logged) / top.std())


def ndcg(policy: DoubleArray, log: Log, *, cut: int = 10) -> float:
    """Mean NDCG@cut of the logged items that earned a reward, (S, N) policies ranking by probability."""
    place = np.argsort(np.argsort(-policy, axis=1, kind="stable"), axis=1)  # (S, N) from 0
    gain = np.where(place < cut, 1 / np.log2(place + 2), 0.0)
    liked = log.reward > 0
    return float(gain[log.state[liked], log.item[liked]].mean()) if liked.any() else 0.0


def _ranks(values: DoubleArray) -> DoubleArray:
    below, same = (values[:, None] > values).sum(axis=1), (values[:, None] == values).sum(axis=1)
    ranks: DoubleArray = below + (same - 1) / 2
    return ranks


def _over_logs(scores: DoubleArray) -> Interval:
    known = scores[np.isfinite(scores)]
    if len(known) < 2:
        value = float(known.mean()) if len(known) else np.nan
        return Interval(value=value, low=np.nan, high=np.nan, level=0.95, method="fewer than two logs")
    return t_interval(known, np.arange(len(known)))
