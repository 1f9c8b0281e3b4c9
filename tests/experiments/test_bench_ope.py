"""The proof tables of off-policy evaluation: their truths, their intervals and their counts are right."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from experiments.bench import Bench
from experiments.bench.ope import OpeBench, Part
from experiments.bench.ope_coverage import (
    METHODS,
    VERDICTS,
    Found,
    broken,
    covered,
    intervals,
    joined,
    measure,
    measure_part,
    parts_of,
    row_of,
)
from experiments.bench.ope_coverage import (
    Part as CoveragePart,
)
from experiments.bench.ope_ranking import HABIT, ndcg, regret, sharpe_ratio, spearman
from experiments.bench.ope_terms import (
    BIASED,
    ONE_STEP,
    SESSIONS,
    Asked,
    Terms,
    all_terms,
    asked,
    estimate,
    marginal_draws,
    models_of,
)  # fmt: skip
from experiments.bench.ope_worlds import Log, Setting, settings
from recgym.ope.bounds import bca_ratio
from recgym.ope.intervals import bootstrap_ratio, t_ratio

SETTINGS = {setting.name: setting for setting in settings()}
EVERY = pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))


def question(setting: Setting, size: int, shift: str = "mild", seed: int = 0) -> Asked:
    log = setting.world.draw(setting.logger, size, np.random.default_rng(seed))
    return asked(setting, log, setting.targets[shift], models_of(setting, log))


def drawn_again(log: Log, who: list[int]) -> Log:
    """The sessions `who`, in this order, each as a session of its own."""
    rows = [np.flatnonzero(log.episode == episode) for episode in who]
    parts = {name: np.concatenate([getattr(log, name)[row] for row in rows]) for name in
             ("state", "item", "reward", "after", "place")}  # fmt: skip
    return Log(**parts, episode=np.repeat(np.arange(len(who)), [len(row) for row in rows]))


@EVERY
def test_the_truth_is_what_the_policy_earns_on_its_own(setting: Setting) -> None:
    for policy in (setting.logger, setting.targets["severe"]):
        log = setting.world.draw(policy, 60_000, np.random.default_rng(7))
        earned = np.bincount(log.episode, weights=log.reward)
        assert abs(earned.mean() - setting.world.value(policy)) < 4 * earned.std() / math.sqrt(len(earned))


def test_the_truth_is_the_sum_over_all_ways_that_a_session_can_go() -> None:
    setting = SETTINGS["sessions"]
    world, policy = replace(setting.world, horizon=3), setting.targets["medium"]
    total = 0.0
    for first, a, second, b, third, c in product(*[range(4), range(6)] * 3):
        there = world.start[first] * policy[first, a] * world.move[first, a, second]
        again = there * policy[second, b] * world.move[second, b, third]
        total += again * policy[third, c] * world.click[third, c]  # the third step's reward, on each way to it
        if c == 0 and third == 0:
            total += there * policy[second, b] * world.click[second, b]
            if b == 0 and second == 0:
                total += world.start[first] * policy[first, a] * world.click[first, a]
    assert world.value(policy) == pytest.approx(total, rel=1e-12)


@EVERY
def test_worlds_rank_at_least_ten_policies_of_different_value(setting: Setting) -> None:
    values = np.sort([setting.world.value(policy) for policy in setting.policies])
    assert len(values) >= 10
    assert np.diff(values).min() > 1e-4
    assert np.allclose(setting.policies.sum(axis=2), 1)


@EVERY
def test_estimators_find_the_truth_in_a_large_log(setting: Setting) -> None:
    truth = setting.world.value(setting.targets["mild"])
    for name, terms in all_terms(question(setting, 20_000)).items():
        assert terms is not None
        near = 0.06 if name == "MIPS" else 0.03  # items of one category are not alike
        assert estimate(terms) == pytest.approx(truth, rel=near), name


@EVERY
def test_intervals_are_those_of_the_library(setting: Setting) -> None:
    every = [terms for terms in all_terms(question(setting, 120, "medium")).values() if terms is not None]
    users = np.arange(120)
    for terms, row in zip(every, intervals(every, seed=5, replicates=60), strict=True):
        if terms.redo is not None:
            assert np.isnan(row[1:]).all()
            continue
        below = np.ones_like(terms.above) if terms.below is None else terms.below
        plain = bootstrap_ratio(terms.above, below, users, seed=5, replicates=60)
        skewed = bca_ratio(terms.above, below, users, seed=5, replicates=60)
        assert row[:2].ravel() == pytest.approx([plain.low, plain.high, skewed.low, skewed.high], rel=1e-9)
        student = t_ratio(terms.above, below, users)
        assert row[2] == pytest.approx([student.low, student.high], rel=1e-9)
        assert np.isfinite(row[3]).all() == (terms.reach is not None)


def test_the_t_interval_of_a_ratio_is_its_linearisation() -> None:
    above, below = np.array([1.0, 2.0, 6.0]), np.array([1.0, 2.0, 1.0])
    row = intervals([Terms(above=above[:, None], below=below[:, None])], seed=0, replicates=20)[0]
    share = (above - 9 / 4 * below) / (4 / 3)
    half = 4.302652729911275 * share.std(ddof=1) / math.sqrt(3)  # t of 2 degrees of freedom
    assert row[2] == pytest.approx([9 / 4 - half, 9 / 4 + half], rel=1e-6)


def test_marginal_weights_are_estimated_again_in_every_resample() -> None:
    setting = SETTINGS["sessions"]
    first = question(setting, 40, "medium")
    who = sorted(np.random.default_rng(3).integers(40, size=40).tolist())
    log = drawn_again(first.log, who)
    literal = SESSIONS["marginal"](asked(setting, log, first.target, models_of(setting, log)))
    times = np.stack([np.ones(40), np.bincount(who, minlength=40)])
    whole = SESSIONS["marginal"](first)
    assert marginal_draws(first, times) == pytest.approx([estimate(whole), estimate(literal)], rel=1e-12)


def test_a_half_of_the_sessions_is_judged_by_what_the_other_half_met() -> None:
    """Another session in the place of the first changes its own half's terms in its own row only."""
    setting = SETTINGS["sessions"]
    log = setting.world.draw(setting.logger, 400, np.random.default_rng(0))
    other = drawn_again(log, [2, *range(1, 400)])
    target = setting.targets["medium"]
    for name in ("DM", "DR", "DRL"):
        first, second = (
            SESSIONS[name](asked(setting, part, target, models_of(setting, part))) for part in (log, other)
        )
        same = (first.above == second.above)[:, 0]
        assert same[2::2].all(), name
        assert not same[1::2].all(), name


def test_the_model_is_read_along_the_log() -> None:
    found = question(SETTINGS["sessions"], 200)
    same = np.flatnonzero(np.diff(found.log.episode) == 0)
    assert (found.values.v_next[same] == found.values.v[same + 1]).all()
    last = np.flatnonzero(np.append(np.diff(found.log.episode), 1))
    assert (found.values.v_next[last] == 0).all()
    assert {int(place) for place in found.log.place[last]} == set(range(8))  # some leave, some are cut


def test_coverage_counts_what_it_should() -> None:
    ends = np.array([[0.0, 2.0], [1.5, 2.0], [np.nan, np.nan], [1.0, 1.0]])
    everyone = np.ones(4, dtype=np.bool_)
    assert covered(ends, 1.0, everyone) == 0.5
    assert covered(ends, 1.0, np.array([True, False, False, True])) == 1.0
    assert math.isnan(covered(ends, 1.0, ~everyone))


def test_rows_split_coverage_by_verdict() -> None:
    """Truth 2; supported logs: one of two holds it; weak: none of one; cannot say: one of one."""
    ends = np.full((4, 1, len(METHODS), 2), np.nan)
    ends[:, 0, 0] = [[1, 3], [3, 4], [0, 1], [2, 5]]
    found = Found(
        setting=("w", "4", "mild"), truth=2.0, names=("IPS",), value=np.array([[2.0], [3.0], [1.0], [np.nan]]),
        ends=ends, verdict=np.array([[0.0], [0.0], [1.0], [2.0]]),
    )  # fmt: skip
    row = row_of([found], 0)
    assert VERDICTS == ("supported", "weak", "cannot say")
    assert row.cover[0] == (0.5, 0.5, 0.0, 1.0)
    assert row.verdicts == (0.5, 0.25, 0.25)
    assert (row.bias, row.missing, row.width[0]) == (0.0, 0.25, (2 + 1 + 1 + 3) / 4 / 2)
    assert all(math.isnan(share) for share in row.cover[1])
    twice = row_of([found, replace(found, truth=20.0, setting=("w", "4", "severe"))], 0)
    assert (twice.logs, twice.cover[0], twice.shift) == (8, (0.25, 0.25, 0.0, 0.5), "mild severe")


@EVERY
def test_logs_can_be_shared_by_processes(setting: Setting) -> None:
    """The parts of a setting, in any order of work, joined: the same numbers as all logs at once."""
    place = list(SETTINGS).index(setting.name)
    parts = [CoveragePart(place, 300, first, last, 10) for first, last in ((7, 8), (8, 10))]
    shared = joined([measure_part(part) for part in parts])
    for one, other in zip(shared, measure(setting, 300, 3, 10, seed=7), strict=True):
        assert one.setting == other.setting
        np.testing.assert_array_equal(one.value, other.value)
        np.testing.assert_array_equal(one.ends, other.ends)
        np.testing.assert_array_equal(one.verdict, other.verdict)
        supported = [name for column, name in enumerate(one.names) if (one.verdict[:, column] == 0).any()]
        assert not set(supported) & set(BIASED)
        assert supported or one.setting[2] != "mild"


def test_parts_are_all_logs_once() -> None:
    parts = parts_of((30, 60), seed=5, logs=120, replicates=9, places=(0, 2))
    seen = [(part.setting, part.size, number) for part in parts for number in range(part.first, part.last)]
    assert sorted(seen) == sorted(product((0, 2), (30, 60), range(5, 125)))


def test_a_promise_is_broken_where_supported_logs_are_covered_too_seldom_for_luck() -> None:
    """400 logs, half of them supported: 90% of 200 has an error of 2.1%, 80% is too little."""
    ends = np.full((400, 2, len(METHODS), 2), np.nan)
    ends[:, :, 0] = [1, 3]
    ends[:20, 0, 0] = ends[:40, 1, 0] = [3, 4]
    found = Found(
        setting=("w", "400", "mild"), truth=2.0, names=("IPS", "SNIPS"), value=np.full((400, 2), 2.0), ends=ends,
        verdict=np.repeat([[0.0, 0.0], [1.0, 1.0]], 200, axis=0),
    )  # fmt: skip
    rows = [row_of([found], column) for column in range(2)]
    assert [row.cover[0][1] for row in rows] == [0.9, 0.8]
    assert [(row.estimator, method, share) for row, method, share in broken(rows)] == [("SNIPS", "percentile", 0.8)]
    assert [row.estimator for row, _, _ in broken(rows, least=0.95)] == ["IPS", "SNIPS"]


def test_scores_of_a_ranking() -> None:
    truth, guess = np.array([1.0, 2.0, 3.0, 4.0, 7.0]), np.array([0.0, 9.0, 5.0, 6.0, 1.0])
    assert spearman(truth, 10 - truth) == pytest.approx(-1)
    assert spearman(guess, truth) == pytest.approx(
        1 - 6 * (0 + 9 + 0 + 0 + 9) / (5 * 24)
    )  # 1 - 6 sum d^2 / n (n^2 - 1)
    assert regret(guess, truth) == 5.0
    top = [2.0, 4.0, 3.0]
    assert sharpe_ratio(guess, truth, 1.5, k=3) == pytest.approx((4.0 - 1.5) / np.std(top))
    assert spearman(np.ones(5), truth) == 0.0


def test_ndcg_rewards_a_policy_that_ranks_what_was_liked_first() -> None:
    one = np.zeros(1, dtype=np.int64)
    log = Log(state=np.zeros(2, dtype=np.int64), item=np.array([2, 0]), reward=np.array([1.0, 0.0]),
              after=np.ones(2, dtype=np.int64), place=np.repeat(one, 2), episode=np.arange(2))  # fmt: skip
    assert ndcg(np.array([[0.2, 0.3, 0.5]]), log) == 1.0
    assert ndcg(np.array([[0.2, 0.5, 0.3]]), log) == pytest.approx(1 / math.log2(3))
    assert ndcg(np.array([[0.2, 0.5, 0.3]]), log, cut=1) == 0.0


def test_a_tiny_run_prints_and_writes_every_estimator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tables" / "ope.json"
    parts: tuple[Part, ...] = ("coverage", "ranking", "speed")
    tiny = OpeBench(parts=parts, logs=2, ranked_logs=2, sizes=(60,), replicates=20, steps=10_000, out=out)
    Bench(what="ope", ope=tiny)()
    printed, tables = capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))
    for name in (*ONE_STEP, *SESSIONS):
        assert f"| {name} " in printed
        for part in ("promise", "coverage", "ranking", "speed"):
            assert any(row["estimator"] == name for row in tables[part]), (part, name)
    assert sum(row["estimator"] == HABIT for row in tables["ranking"]) == 3
    assert len(tables["coverage"]) == 3 * (len(ONE_STEP) + 2 * len(SESSIONS))


@pytest.mark.parametrize(
    "wrong",
    [
        {"logs": 1},
        {"sizes": ()},
        {"sizes": (300, 5)},
        {"steps": 9_999},
        {"replicates": 1},
        {"processes": 0},
        {"seed": -1},
    ],
)
def test_sizes_that_measure_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OpeBench(**wrong)  # type: ignore[arg-type]
