"""The judge of the report's advice: its truths are exact, its tests keep their promises, its advice is the report's."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from experiments.bench import Bench, ope_judge_tables
from experiments.bench.ope import OpeBench
from experiments.bench.ope_judge import (
    CLOSE,
    EQUAL,
    NDCG_TESTED,
    REPORT,
    TESTED,
    Advice,
    Judged,
    Panel,
    Promise,
    advise,
    evidence,
    judge,
    panels,
)
from experiments.bench.ope_judge_tables import TITLES, advice_row, power_row, rule_rows, share, way_rows
from experiments.bench.ope_trials import MOST, Arm, return_chances, run_test, true_power
from experiments.bench.ope_worlds import Setting, settings
from recgym.ope import appraisal
from recgym.ope.appraisal import Appraisal, AppraisalConfig, PolicyReport, appraise
from recgym.ope.compare import Statement, differences
from recgym.ope.diagnostics import Question, Verdict
from recgym.ope.estimators import estimators
from recgym.ope.intervals import Interval
from recgym.ope.power import user_variance, users_assured, users_needed
from recgym.types import Estimate

SETTINGS = {setting.name: setting for setting in settings()}
PANELS = {name: {panel.name: panel for panel in panels(setting)} for name, setting in SETTINGS.items()}
EVERY = pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))


def run(name: str, panel: Panel, size: int, seed: int) -> Judged:
    setting = SETTINGS[name]
    log = setting.world.draw(setting.logger, size, np.random.default_rng((seed, size)))
    return judge(setting, panel, log, (seed, size), replicates=2)


@EVERY
def test_what_sessions_bring_has_the_mean_that_backward_induction_gives(setting: Setting) -> None:
    for panel in panels(setting):
        for policy, arm, truth in zip(panel.policies, panel.arms, panel.truth, strict=False):
            assert np.allclose(return_chances(setting.world, policy).sum(axis=1), 1, atol=1e-12)
            assert arm.mean == pytest.approx(truth, rel=1e-12)
        assert panel.arms[-1].mean == pytest.approx(panel.production, rel=1e-12)


def test_what_a_session_brings_is_the_sum_over_all_ways_that_it_can_go() -> None:
    setting = SETTINGS["sessions"]
    world, policy = replace(setting.world, horizon=2), setting.targets["medium"]
    expected = np.zeros((4, 3))
    for first, a, hit in product(range(4), range(6), (0, 1)):
        chance = policy[first, a] * (world.click[first, a] if hit else 1 - world.click[first, a])
        expected[first, hit] += chance * (1 - world.move[first, a].sum())
        for second, b, again in product(range(4), range(6), (0, 1)):
            there = chance * world.move[first, a, second] * policy[second, b]
            expected[first, hit + again] += there * (world.click[second, b] if again else 1 - world.click[second, b])
    assert return_chances(world, policy) == pytest.approx(expected, rel=1e-12)


def test_arms_of_the_bandit_have_binary_moments() -> None:
    setting = SETTINGS["bandit"]
    world, policy = setting.world, setting.policies[3]
    was, now = ((part * world.click).sum(axis=1) for part in (setting.logger, policy))
    arm, before, mean = Arm.of(world, policy, setting.logger), float(world.start @ was), float(world.start @ now)
    shared = float(world.start @ (was * now)) - before * mean
    assert arm.variance == pytest.approx(mean * (1 - mean), rel=1e-12)
    assert arm.correlation == pytest.approx(shared / math.sqrt(mean * (1 - mean) * before * (1 - before)), rel=1e-9)


def test_users_are_drawn_from_the_exact_distribution() -> None:
    setting = SETTINGS["sessions"]
    arm = Arm.of(setting.world, setting.policies[-1], setting.logger)
    x, y = arm.draw(200_000, np.random.default_rng(1))
    assert abs(y.mean() - arm.mean) < 4 * math.sqrt(arm.variance / len(y))
    assert abs(x.mean() - setting.world.value(setting.logger)) < 4 * x.std() / math.sqrt(len(x))
    assert y.var() == pytest.approx(arm.variance, rel=0.02)
    assert abs(np.corrcoef(x, y)[0, 1] - arm.correlation) < 4 / math.sqrt(len(x))
    log = setting.world.draw(setting.policies[-1], 60_000, np.random.default_rng(2))
    brought = np.bincount(np.bincount(log.episode, weights=log.reward).astype(np.int64), minlength=9) / 60_000
    chance = arm.chance.sum(axis=0)
    assert (np.abs(brought - chance) < 4.5 * np.sqrt(chance * (1 - chance) / 60_000) + 1e-9).all()


def test_a_test_sized_by_the_truth_finds_it_as_often_as_promised() -> None:
    panel = PANELS["sessions"][CLOSE]
    arm, control = panel.arms[5], panel.arms[-1]
    difference = arm.mean - control.mean
    needed = users_needed(difference, variance=control.variance, treatment_variance=arm.variance).total
    assert true_power(control, arm, needed) == pytest.approx(0.8, abs=0.002)
    assert true_power(control, control, needed) == 0.0
    rng = np.random.default_rng(3)
    found = [run_test(control, arm, needed, rng)[0] == "better" for _ in range(150)]
    assert abs(np.mean(found) - 0.8) < 4 * math.sqrt(0.8 * 0.2 / 150)
    early = [run_test(control, arm, needed, rng, design="sequential") for _ in range(30)]
    assert np.mean([said == "better" for said, _ in early]) > 0.6
    assert min(users for _, users in early) < needed


def test_cuped_finds_more_where_users_are_like_themselves() -> None:
    control = Arm(chance=np.array([[0.45, 0.05], [0.05, 0.45]]))
    treatment = Arm(chance=np.array([[0.40, 0.10], [0.05, 0.45]]))
    assert control.correlation == pytest.approx(0.8)
    users = users_needed(0.05, variance=0.25, correlation=0.8).total
    rng = np.random.default_rng(5)
    plain, adjusted = (
        sum(run_test(control, treatment, users, rng, cuped=cuped)[0] == "better" for _ in range(60))
        for cuped in (False, True)
    )
    assert adjusted > plain + 10  # 71% against 39%
    assert sum(run_test(control, control, users, rng, cuped=True)[0] != "undecided" for _ in range(60)) < 10


def test_tests_of_a_policy_against_itself_seldom_find_anything() -> None:
    arm, rng = PANELS["bandit"][EQUAL].arms[-1], np.random.default_rng(4)
    for design in ("fixed", "sequential"):
        said = [run_test(arm, arm, 2_000, rng, design=design)[0] for _ in range(60)]
        assert sum(one != "undecided" for one in said) < 3 + 4 * math.sqrt(60 * 0.05 * 0.95)


@EVERY
def test_policies_that_are_none_better_are_worth_what_production_is(setting: Setting) -> None:
    panel = PANELS[setting.name][EQUAL]
    assert len(panel.policies) == 6
    assert panel.truth == pytest.approx(np.full(6, panel.production), rel=1e-12)
    assert not any(panel.better(place) for place in range(6))
    assert np.allclose(panel.policies.sum(axis=2), 1)
    assert (panel.policies > 0).all()
    apart = np.abs(panel.policies[:, None] - panel.policies[None]).max(axis=(2, 3))
    assert (apart[~np.eye(6, dtype=np.bool_)] > 0.01).all()


def said_by_dr(verdict: Verdict) -> Estimate:
    return Estimate(estimator="DR", value=1.0, low=0.0, high=2.0, verdict=verdict)


def sized(difference: float, users: int) -> appraisal.Test:
    return appraisal.Test(difference=difference, users=users, detectable=1.0, assured=2 * users)


def reported(*said: tuple[Statement | None, Verdict, float, int]) -> Appraisal:
    """An appraisal of policies with these statements, verdicts, differences and test sizes."""
    nothing = Interval(value=1.0, low=0.9, high=1.1, level=0.95, method="")
    reports = [
        PolicyReport(
            policy=str(place), chosen="DR", estimates=(said_by_dr(verdict),), difference=None,
            statement=statement, support=None, returns=None,
            test=None if statement is None else sized(by, users),
        )
        for place, (statement, verdict, by, users) in enumerate(said)
    ]  # fmt: skip
    return Appraisal(
        per="step", discount=1.0, level=0.95, steps=9, episodes=9, users=9, production=nothing, policies=tuple(reports)
    )


def test_advice_is_the_best_clear_policy_then_the_most_promising_then_production() -> None:
    clear = reported(
        ("better", "supported", 0.1, 80), ("better", "supported", 0.3, 8), ("better", "weak", 0.5, 4),
        ("undecided", "supported", 0.9, 2), (None, "cannot say", 9.0, 1),
    )  # fmt: skip
    assert advise(clear) == Advice("switch", 1, 8, 16)
    assert advise(replace(clear, policies=clear.policies[2:])) == Advice("test", 3 - 2, 2, 4)
    assert advise(replace(clear, policies=clear.policies[4:])) == Advice("keep", -1, 0)
    assert advise(reported(("worse", "supported", -0.1, 80), ("undecided", "weak", -0.1, 80))).kind == "keep"
    assert advise(reported(("undecided", "weak", 0.1, 2 * MOST + 2))).kind == "keep"
    assert advise(reported(("undecided", "weak", 0.1, 2 * MOST))) == Advice("test", 0, 2 * MOST, 0)


@pytest.mark.parametrize(("name", "shift"), [("bandit", "severe"), ("sessions", "medium")])
def test_a_policy_that_is_far_better_is_advised_from_a_large_log_and_confirmed(name: str, shift: str) -> None:
    setting = SETTINGS[name]
    panel = Panel.of(setting, "planted", np.stack([*setting.policies[:2], setting.targets[shift]]))
    found = run(name, panel, 4_000, seed=5)
    assert (found.advice.kind, found.advice.policy) == ("switch", 2)
    assert panel.better(2) and not found.false_better and not found.false_worse
    assert found.ends[REPORT] == 2
    assert (found.spent[REPORT], found.spent[TESTED]) == (0, found.advice.users)
    rng, arms = np.random.default_rng(0), (panel.arms[-1], panel.arms[2])
    assert run_test(*arms, 4 * found.advice.users, rng)[0] == "better"
    said, users = run_test(*arms, 4 * found.advice.users, rng, design="sequential")
    assert said == "better"
    assert users < 4 * found.advice.users  # it stops early


def test_policies_worth_what_production_is_are_seldom_called_better() -> None:
    panel, logs = PANELS["bandit"][EQUAL], 15
    found = [run("bandit", panel, 300, seed) for seed in range(logs)]
    assert sum(one.false_better or one.false_worse for one in found) <= 0.05 * logs + 4 * math.sqrt(logs * 0.05 * 0.95)
    assert all(one.false_better for one in found if one.advice.kind == "switch")


def test_the_same_seeds_give_the_same_judgement() -> None:
    panel = PANELS["sessions"][CLOSE]
    first, again = (run("sessions", panel, 300, seed=2) for _ in range(2))
    assert first == again
    assert run("sessions", panel, 300, seed=3).promises != first.promises


def test_the_report_sizes_tests_by_the_error_of_each_difference() -> None:
    setting = SETTINGS["sessions"]
    log = setting.world.draw(setting.logger, 300, np.random.default_rng(6))
    seen = evidence(setting, log, setting.policies)
    found = appraise(seen, AppraisalConfig(question=Question(replicates=2)))
    returns = np.bincount(log.episode, weights=log.reward)
    variance, sizes = user_variance(returns, seen[0].user), []
    for one, report in zip(seen, found.policies, strict=True):
        terms = estimators("session")[report.chosen].terms(one)
        values, psi = differences([(terms.above, terms.below)], (returns[:, None], np.ones((300, 1))), one.user)
        arms = users_assured(float(values[0]), float(psi.std(ddof=1)) / math.sqrt(300), variance=variance)
        assert report.test is not None
        assert report.test.assured == (arms.total if arms else 0)
        sizes.append(report.test)
    assert any(size.assured == 0 for size in sizes) and any(size.assured for size in sizes)
    assert all(size.assured == 0 or size.assured >= size.users for size in sizes)


def test_tables_count_what_they_should() -> None:
    """Two policies at +50% and -50%; four logs: two right switches, one wrong, one test that finds nothing."""
    setting = SETTINGS["bandit"]
    panel = replace(Panel.of(setting, "two", setting.policies[:2]), truth=np.array([1.5, 0.5]), production=1.0)
    yes: dict[str, Statement] = {"fixed": "better", "sequential": "undecided", "fixed, CUPED": "better"}
    no: dict[str, Statement] = dict.fromkeys(yes, "undecided")
    promise = Promise(estimate=0.5, error=0.1, truth=0.25, power=0.3, variance=1.0, advised=True)
    right = Judged(
        advice=Advice("switch", 0, 100), confirmed=yes, sequential_users=0.5, ends={"way": 0}, spent={"way": 7},
        false_better=False, false_worse=False,
    )  # fmt: skip
    wrong = replace(right, advice=Advice("switch", 1, 300), confirmed=no, ends={"way": 1}, false_better=True)
    test = replace(right, advice=Advice("test", 0, 100), confirmed=no, ends={"way": -1}, promises=(promise,))
    seen = [right, right, wrong, test]
    row = advice_row(panel, seen)
    assert (row["switch"], row["test"], row["keep"], row["median users"]) == (75, 25, 0, 100)
    assert row["truly better"].value == pytest.approx(200 / 3)
    assert row["confirmed, fixed"].value == pytest.approx(200 / 3)
    assert row["confirmed, sequential"].value == 0
    (way,) = way_rows(panel, seen)
    assert (way["leaves production"], way["users tested"]) == (75, 7)
    assert way["gain"].value == pytest.approx((50 + 50 - 50 + 0) / 4)
    assert way["regret"].value == pytest.approx((0 + 0 + 100 + 50) / 4)
    power = power_row(panel, seen)
    assert (power["tests advised"], power["truth / estimate, median"], power["estimates within 10%"]) == (1, 0.5, 0)
    assert power["chance to find it"] == 30
    assert power["better, fixed"].value == 0


def test_an_estimate_without_error_gives_every_rule_the_promised_power() -> None:
    exact = Promise(estimate=0.05, error=0.0, truth=0.05, power=0.8, variance=0.4, advised=True)
    for row in rule_rows([exact, exact._replace(truth=-0.05)]):
        assert (row["differences"], row["truly better"], row["gets a size"]) == (2, 1, 1)
        assert row["chance to find it, mean"] == pytest.approx(80, abs=0.1)
        assert row["that of the estimate's size"] == row["chance to find it, mean"]
        assert row["median users"] == users_needed(0.05, variance=0.2).total
    noisy = exact._replace(error=0.07)
    sized = {row["sized by"]: row["gets a size"] for row in rule_rows([noisy])}
    careful = {row["sized by"]: row for row in rule_rows([exact._replace(error=0.02)])}["assured, d is N(d, s^2)"]
    assert careful["chance to find it, mean"] > careful["that of the estimate's size"] == pytest.approx(80, abs=0.1)
    assert sized["the estimate d"] == 1
    assert sized["assured, d is N(d, s^2)"] == sized["d - 0.84 s"] == 0


def test_shares_have_wilson_intervals() -> None:
    half = share([True, False] * 5)
    assert (half.value, half.low, half.high) == pytest.approx((50, 23.6593, 76.3407), abs=1e-3)
    assert share([False] * 20).high == pytest.approx(16.1125, abs=1e-3)
    assert math.isnan(share([]).value)


def test_a_tiny_run_prints_and_writes_every_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ope_judge_tables, "settings", lambda: settings()[:2])
    out = tmp_path / "tables" / "judge.json"
    Bench(what="ope", ope=OpeBench(judged_logs=2, sizes=(60,), parts=("judge",), out=out))()
    printed, rows = capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))["judge"]
    assert {row["table"] for row in rows} == set(TITLES)
    assert sum(row.get("way") == NDCG_TESTED for row in rows) == 2 * 2  # worlds, panels
    for title in TITLES.values():
        assert title in printed
    with pytest.raises(ValueError, match="judged_logs"):
        OpeBench(judged_logs=1)
