"""The judge's tables: what was advised and whether it was right, where each way of deciding ends, what tests find."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from experiments.bench.ope_judge import DESIGNS, EQUAL, Judged, Panel, Promise, judge, panels
from experiments.bench.ope_trials import FEWEST, MOST
from experiments.bench.ope_worlds import settings
from recgym.ope.intervals import Interval, t_interval
from recgym.ope.power import users_assured, users_needed
from recgym.types import DoubleArray

Rows = list[dict[str, Any]]
ADVICE, WAYS, POWER, RULES, FALSE = "advice", "ways", "power", "rules", "false"
TITLES = {
    ADVICE: "What the report advises, % of logs, and what is true, % of the switches, with 95% intervals",
    WAYS: "Where each way of deciding ends: gain over production and regret to the best policy, % of production",
    POWER: "Tests that the report advises: is the difference there, and does a test of that size find it, %",
    RULES: "The same by the difference that sizes the test",
    FALSE: "False statements, % of logs: some policy called better (or worse) that is not",
}
_NORMAL = NormalDist()


def judged_tables(logs: int, sizes: Sequence[int]) -> dict[str, Rows]:
    """All tables, over fresh logs of every world, panel and size."""
    tables: dict[str, Rows] = {name: [] for name in TITLES}
    for size in sizes:
        every: list[Promise] = []
        for number, setting in enumerate(settings()):
            found: dict[str, list[Judged]] = {}
            every_panel = panels(setting)
            for seed in range(logs):
                log = setting.world.draw(setting.logger, size, np.random.default_rng((seed, size, number, 2)))
                for panel in every_panel:
                    one = judge(setting, panel, log, (seed, size, number))
                    found.setdefault(panel.name, []).append(one)
            for panel in every_panel:
                where = {"world": setting.name, "policies": panel.name, "log": size, "logs": logs}
                seen = found[panel.name]
                tables[FALSE].append({**where, **false_row(seen)})
                if panel.name != EQUAL:
                    tables[ADVICE].append({**where, **advice_row(panel, seen)})
                    tables[WAYS] += [{**where, **row} for row in way_rows(panel, seen)]
                    tables[POWER].append({**where, **power_row(panel, seen)})
                    every += [promise for each in seen for promise in each.promises]
        tables[RULES] += [{"log": size, **row} for row in rule_rows(every)]
    return tables


def advice_row(panel: Panel, seen: Sequence[Judged]) -> dict[str, Any]:
    """Shares of advice; of the switches, those to a better policy and those that a test of the size given confirms."""
    kinds = [each.advice.kind for each in seen]
    switches = [each for each in seen if each.advice.kind == "switch"]
    tests = [each.advice.users for each in seen if each.advice.users]
    return {
        **{kind: 100 * kinds.count(kind) / len(seen) for kind in ("switch", "test", "keep")},
        "truly better": share([panel.better(each.advice.policy) for each in switches]),
        **{f"confirmed, {name}": share([each.confirmed[name] == "better" for each in switches]) for name in DESIGNS},
        "sequential / fixed users": _mean([each.sequential_users for each in switches]),
        "median users": float(np.median(tests)) if tests else math.nan,
    }


def way_rows(panel: Panel, seen: Sequence[Judged]) -> Rows:
    """Each way of deciding: how often it leaves production, whether rightly, and what that is worth."""
    rows: Rows = []
    best = max(0.0, *(panel.gain(place) for place in range(len(panel.policies))))
    for way in seen[0].ends:
        ends = [each.ends[way] for each in seen]
        gains = np.array([100 * panel.gain(end) for end in ends])
        moved = [end for end in ends if end >= 0]
        rows.append(
            {
                "way": way,
                "leaves production": 100 * len(moved) / len(ends),
                "truly better": share([panel.better(end) for end in moved]),
                "gain": _over(gains),
                "regret": _over(100 * best - gains),
                "users tested": _mean([each.spent.get(way, 0) for each in seen]),
            }
        )
    return rows


def power_row(panel: Panel, seen: Sequence[Judged]) -> dict[str, Any]:
    """Of the tests that were advised; and of all unsettled differences that are within a tenth of the estimate."""
    tests = [each for each in seen if each.advice.kind == "test"]
    advised = [promise for each in tests for promise in each.promises if promise.advised]
    near = [one for each in seen for one in each.promises if abs(one.estimate / one.truth - 1) < 0.1]
    return {
        "tests advised": len(tests),
        "truly better": share([panel.better(each.advice.policy) for each in tests]),
        "truth / estimate, median": _median([one.truth / one.estimate for one in advised]),
        "chance to find it": 100 * _mean([one.power for one in advised]),
        **{f"better, {name}": share([each.confirmed[name] == "better" for each in tests]) for name in DESIGNS},
        "estimates within 10%": len(near),
        "chance there": 100 * _mean([one.power for one in near]),
    }


def rule_rows(promises: Sequence[Promise], *, power: float = 0.8) -> Rows:
    """What sizing by other differences than the estimate would find, and cost, where the policy is truly better.

    Users are those of the worlds' true variance; a size beyond `MOST` users an arm is none.
    """

    def needed(by: float, one: Promise) -> float:
        return users_needed(by, variance=one.variance / 2, power=power).total if by > 0 else math.inf

    def assured(one: Promise) -> float:
        arms = users_assured(one.estimate, one.error, variance=one.variance / 2, power=power)
        return arms.total if arms else math.inf

    rules: dict[str, Callable[[Promise], float]] = {
        "the estimate d": lambda one: needed(one.estimate, one),
        "shrunk, d (1 - s^2 / d^2)": lambda one: needed(one.estimate - one.error**2 / one.estimate, one),
        "d - 0.5 s": lambda one: needed(one.estimate - 0.5 * one.error, one),
        "d - 0.84 s": lambda one: needed(one.estimate - 0.84 * one.error, one),
        "assured, d is N(d, s^2)": assured,
    }
    rows: Rows = []
    for who, those in (("advised", [one for one in promises if one.advised]), ("all unsettled", list(promises))):
        for name, rule in rules.items():
            better = [one for one in those if one.truth > 0]
            sized = [(one, users) for one in better if (users := rule(one)) <= 2 * MOST]
            found = [_chance(one, users) for one, users in sized]
            plain = [_chance(one, needed(one.estimate, one)) for one, _ in sized]
            rows.append(
                {
                    "tests": who,
                    "sized by": name,
                    "differences": len(those),
                    "truly better": len(better),
                    "gets a size": len(sized),
                    "chance to find it, mean": 100 * _mean(found),
                    "that of the estimate's size": 100 * _mean(plain),
                    "at least the promise": 100 * _mean([chance >= power for chance in found]),
                    "median users": _median([users for _, users in sized]),
                }
            )
    return rows


def _chance(promise: Promise, users: float, level: float = 0.95) -> float:
    """Of finding that the policy is better with so many users in both arms."""
    error = math.sqrt(promise.variance / max(FEWEST, users / 2))
    return _NORMAL.cdf(promise.truth / error - _NORMAL.inv_cdf((1 + level) / 2))


def false_row(seen: Sequence[Judged]) -> dict[str, Any]:
    """Logs with a false statement."""
    return {
        "called better": share([each.false_better for each in seen]),
        "called worse": share([each.false_worse for each in seen]),
        "either": share([each.false_better or each.false_worse for each in seen]),
        "production itself": share([each.about_itself for each in seen if each.about_itself is not None]),
        "switch advised": 100 * _mean([each.advice.kind == "switch" for each in seen]),
    }


def share(hits: Sequence[bool], *, level: float = 0.95) -> Interval:
    """The share of hits in %, and Wilson's interval; nan of nothing.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if not hits:
        return Interval(value=math.nan, low=math.nan, high=math.nan, level=level, method="of nothing")
    size, z = len(hits), _NORMAL.inv_cdf((1 + level) / 2)
    rate = sum(hits) / size
    middle = (rate + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * math.sqrt(rate * (1 - rate) / size + z**2 / (4 * size**2))
    return Interval(
        value=100 * rate, low=100 * max(0.0, middle - half), high=100 * min(1.0, middle + half), level=level,
        method=f"Wilson interval of {size}",
    )  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """A row of any table for print."""
    return [_cell(value) for value in row.values()]


def _cell(value: Any) -> str:
    if isinstance(value, Interval):
        return "–" if math.isnan(value.value) else f"{value.value:.1f} ({value.low:.1f} to {value.high:.1f})"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _over(values: DoubleArray) -> Interval:
    return t_interval(values, np.arange(len(values)))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else math.nan
