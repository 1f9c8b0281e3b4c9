"""How often a nominal 95% interval holds the truth, and what the diagnostics said of the logs in which it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, get_args

import numpy as np

from experiments.bench.ope_terms import BIASED, Terms, all_terms, asked, estimate, estimators, models_of
from experiments.bench.ope_worlds import SHIFTS, Setting, settings
from recgym.ope.bounds import NORMAL, empirical_bernstein
from recgym.ope.diagnostics import Thresholds, Verdict, judge, support, worse
from recgym.ope.intervals import resamples, t_quantile
from recgym.types import BoolArray, DoubleArray

METHODS = ("percentile", "BCa", "t", "Bernstein")
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Row:
    """One estimator in one setting: world, size and shift, or several of them together."""

    world: str
    size: str
    shift: str
    estimator: str
    logs: int
    verdicts: tuple[float, ...]
    """Share of logs of each of `VERDICTS`."""
    bias: float
    """Mean error over the truth."""
    missing: float
    """Share of logs that gave no estimate."""
    cover: tuple[tuple[float, ...], ...]
    """By `METHODS`: coverage in all logs, then in those of each verdict; nan where there is none."""
    width: tuple[float, ...]
    """Mean width by `METHODS`, over the truth."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of L logs of one setting, for K estimators and M methods."""

    setting: tuple[str, str, str]
    """World, size, shift."""
    truth: float
    names: tuple[str, ...]
    value: DoubleArray  # (L, K), nan where there is no estimate
    ends: DoubleArray  # (L, K, M, 2), nan where there is no interval
    verdict: DoubleArray  # (L, K) place in `VERDICTS`; estimators that are biased by design are no better than weak


class Part(NamedTuple):
    """Some logs of one setting: those of the random numbers `first` .. `last` - 1."""

    setting: int
    size: int
    first: int
    last: int
    replicates: int


def parts_of(sizes: Sequence[int], *, seed: int, logs: int, replicates: int, places: Sequence[int]) -> list[Part]:
    """The logs of all settings and sizes, split so that processes can share them: at most 50 logs a part."""
    return [
        Part(place, size, first, min(first + 50, seed + logs), replicates)
        for place in places
        for size in sizes
        for first in range(seed, seed + logs, 50)
    ]


def measure_part(part: Part) -> list[Found]:
    """`measure` of one part."""
    return measure(settings()[part.setting], part.size, part.last - part.first, part.replicates, seed=part.first)


def joined(parts: Sequence[list[Found]]) -> list[Found]:
    """What parts of one setting found, by shift, as if it were one."""
    return [
        replace(
            same[0],
            value=np.concatenate([found.value for found in same]),
            ends=np.concatenate([found.ends for found in same]),
            verdict=np.concatenate([found.verdict for found in same]),
        )
        for same in zip(*parts, strict=True)
    ]


def measure(setting: Setting, size: int, logs: int, replicates: int, *, seed: int = 0) -> list[Found]:
    """Draw the logs and answer the target of each shift from every one of them; log l has seed `seed` + l."""
    names = tuple(estimators(setting))
    shape = (len(SHIFTS), logs, len(names))
    value, ends = np.full(shape, np.nan), np.full((*shape, len(METHODS), 2), np.nan)
    verdict = np.zeros(shape)
    for number in range(logs):
        log = setting.world.draw(setting.logger, size, np.random.default_rng((seed + number, size)))
        models = models_of(setting, log)
        found: list[tuple[tuple[int, int, int], Terms | None]] = []
        for place, shift in enumerate(SHIFTS):
            question = asked(setting, log, setting.targets[shift], models)
            found += [((place, number, column), terms) for column, terms in enumerate(all_terms(question).values())]
            judged = judge(support(question.ratios, log.episode, np.arange(size)), Thresholds(), per="session")
            verdict[place, number] = [
                VERDICTS.index(worse(judged[0], "weak") if name in BIASED else judged[0]) for name in names
            ]
        known = [(cell, terms) for cell, terms in found if terms is not None]
        every = intervals([terms for _, terms in known], seed=seed + number, replicates=replicates)
        for (cell, terms), both in zip(known, every, strict=True):
            value[cell], ends[cell] = estimate(terms), both
    return [
        Found(
            setting=(setting.name, f"{size:,}", shift), truth=setting.world.value(setting.targets[shift]), names=names,
            value=value[place], ends=ends[place], verdict=verdict[place],
        )
        for place, shift in enumerate(SHIFTS)
    ]  # fmt: skip


def intervals(every: Sequence[Terms], *, seed: int, replicates: int) -> DoubleArray:
    """Intervals of estimates from one log by each of `METHODS`, (K, M, 2), all from the same resamples.

    Percentile and BCa are those of `bootstrap_ratio` and `bca_ratio` at the same seed; t is that of `t_interval`, for
    ratios after linearising them. Where sessions share weights, percentile alone is right.
    """
    users = len(every[0].above)
    above = np.hstack([terms.above for terms in every])
    below = np.hstack([np.ones((users, 1)), *(terms.below for terms in every if terms.below is not None)])
    draws = np.empty((len(every), 0))
    for times in resamples(users, seed=seed, replicates=replicates):
        draws = np.hstack([draws, _draws(every, times, times @ above, times @ below)])
    found = np.full((len(every), len(METHODS), 2), np.nan)
    quantile = t_quantile(LEVEL, users - 1)
    for terms, drawn, row in zip(every, draws, found, strict=True):
        row[0] = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        if terms.redo is not None:
            continue
        value, bottom = estimate(terms), np.ones_like(terms.above) if terms.below is None else terms.below
        without = ((terms.above.sum(axis=0) - terms.above) / (bottom.sum(axis=0) - bottom)).sum(axis=1)  # (E,)
        row[1] = _bca(drawn, value, without)
        share = ((terms.above - terms.above.sum(axis=0) / bottom.sum(axis=0) * bottom) / bottom.mean(axis=0)).sum(
            axis=1
        )
        row[2] = value + np.array([-1, 1]) * quantile * share.std(ddof=1) / math.sqrt(users)
        if terms.reach is not None:
            low, high = terms.reach
            exact = empirical_bernstein(terms.above[:, 0], np.arange(users), low=low, high=high, level=LEVEL)
            row[3] = exact.low, exact.high
    return found


def covered(ends: DoubleArray, truth: float | DoubleArray, chosen: BoolArray) -> float:
    """Share of the chosen intervals (L, 2) that hold the truth; a log without an interval does not. nan of none."""
    inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    return float(inside[chosen].mean()) if chosen.any() else math.nan


def row_of(found: Sequence[Found], column: int) -> Row:
    """One estimator over the logs of one or more settings."""
    truth = np.concatenate([np.full(len(part.value), part.truth) for part in found])
    value = np.concatenate([part.value[:, column] for part in found])
    ends = np.concatenate([part.ends[:, column] for part in found])  # (L, M, 2)
    verdict = np.concatenate([part.verdict[:, column] for part in found])
    groups = [np.ones(len(truth), dtype=np.bool_), *(verdict == place for place in range(len(VERDICTS)))]
    there = [bool(np.isfinite(ends[:, method]).any()) for method in range(len(METHODS))]
    world, size, shift = (" ".join(dict.fromkeys(part.setting[axis] for part in found)) for axis in range(3))
    error, width = (value - truth) / truth, (ends[:, :, 1] - ends[:, :, 0]) / truth[:, None]
    return Row(
        world=world, size=size, shift=shift, estimator=found[0].names[column], logs=len(truth),
        verdicts=tuple(float(group.mean()) for group in groups[1:]),
        bias=_mean(error), missing=float(np.isnan(value).mean()),
        cover=tuple(
            tuple(covered(ends[:, method], truth, group) if there[method] else math.nan for group in groups)
            for method in range(len(METHODS))
        ),
        width=tuple(_mean(width[:, method]) for method in range(len(METHODS))),
    )  # fmt: skip


def broken(rows: Sequence[Row], *, least: float = 0.93) -> list[tuple[Row, str, float]]:
    """Settings, intervals and coverage where logs judged supported are covered less than `least`.

    Less by more than two standard errors sqrt(p (1 - p) / n) of the n supported logs, so that luck is not blamed.
    """
    found = []
    for row in rows:
        for method, cover in zip(METHODS, row.cover, strict=True):
            share, count = cover[1], row.logs * row.verdicts[0]
            if share + 2 * math.sqrt(share * (1 - share) / max(count, 1)) < least:
                found.append((row, method, share))
    return found


def _mean(values: DoubleArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _draws(every: Sequence[Terms], times: DoubleArray, above: DoubleArray, below: DoubleArray) -> DoubleArray:
    """Estimates of each resample, (K, R), from the sums of all columns."""
    found, left, right = [], 0, 1
    for terms in every:
        columns = terms.above.shape[1]
        top = above[:, left : left + columns]
        left += columns
        bottom = below[:, :1]
        if terms.below is not None:
            bottom, right = below[:, right : right + columns], right + columns
        found.append((top / bottom).sum(axis=1) if terms.redo is None else terms.redo(times))
    return np.stack(found)


def _bca(drawn: DoubleArray, value: float, without: DoubleArray) -> DoubleArray:
    """See `recgym.ope.bounds.bca_ratio`, whose formula this is."""
    share, least = float((drawn < value).mean() + (drawn <= value).mean()) / 2, 0.5 / len(drawn)
    bias = NORMAL.inv_cdf(min(max(share, least), 1 - least))
    slack = without.mean() - without
    squares = float((slack**2).sum())
    speed = float((slack**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    reached = [bias + NORMAL.inv_cdf((1 + sign * LEVEL) / 2) for sign in (-1, 1)]
    wanted = [NORMAL.cdf(bias + z / (1 - speed * z)) if speed * z < 1 else float(z > 0) for z in reached]
    ends: DoubleArray = np.quantile(drawn, wanted)
    return ends
