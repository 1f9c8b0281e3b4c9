"""A/B tests: the level is kept, known differences are found, CUPED narrows, users meet one policy, files read back."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.baselines import Random
from experiments.__main__ import main
from experiments.abtest import AbTest, Result, _seed
from experiments.looks import Design, Outcomes, in_words, look, looks, users_per_arm
from experiments.visits import Place, Returning, require_luck
from recgym.files import FormatError
from recgym.ope.compare import cuped
from recgym.ope.power import always_valid_difference
from recgym.policy import PolicyError, save_policy
from recgym.random import session_keys
from simulators import WORLDS, make_world
from simulators.long_term_satisfaction import LongTermSatisfaction

pytestmark = pytest.mark.experiments
WORLD = "long-term-satisfaction-repaired"
TESTS = 400
"""Simulated tests of a rate."""
DESIGNS: tuple[Design, ...] = ("fixed", "sequential")
Draw = Callable[[int, int], Outcomes]


def margin(rate: float, tests: int) -> float:
    """Three Monte Carlo standard errors of a rate."""
    return 3 * math.sqrt(rate * (1 - rate) / tests)


def arriving(arms: Any, before: Any = (None, None)) -> Draw:
    """Draws users of (2, U) arms in order, batch after batch."""
    place = 0

    def draw(number: int, size: int) -> Outcomes:
        nonlocal place
        here, place = slice(place, place + size), place + size
        past = (None if part is None else part[here] for part in before)
        return Outcomes(arms[0][here], arms[1][here], *past)

    return draw


def decided(arms: Any, design: Design, *, batch: int) -> str:
    return [*looks(arriving(arms), design=design, planned=arms.shape[1], batch=batch)][-1].decision


@pytest.mark.parametrize("design", DESIGNS)
def test_the_same_policy_twice_is_rarely_found_to_differ(design: Design) -> None:
    """400 tests of 60 users an arm in a world of skewed rewards; sequential tests peek after every 10 users."""
    config = WORLDS[WORLD].session_config()
    place = Place(make_world(WORLD, session_length=5), config)
    arms = [place.rewards(place.player("rule"), TESTS * 60, _seed(1, stream, 0)) for stream in (0, 1)]
    tests = np.stack(arms, 1).reshape(TESTS, 60, 2).swapaxes(1, 2)  # (400, 2, 60)
    false = np.mean([decided(test, design, batch=10) != "undecided" for test in tests])
    assert false <= 0.05 + margin(0.05, TESTS)
    if design == "fixed":  # the sequential test may be, and is, careful
        assert false >= 0.05 - margin(0.05, TESTS)


def test_looking_often_at_a_fixed_interval_breaks_the_level_that_the_sequential_design_keeps() -> None:
    tests = np.random.default_rng(0).normal(size=(TESTS, 2, 1000))
    peeked = always = 0
    for test in tests:
        found = [*looks(arriving(test), design="sequential", planned=1000, batch=50)]
        assert len(found) == 20 or found[-1].decision != "undecided"
        peeked += any(abs(each.difference.value) > 1.96 * each.error for each in found)
        always += found[-1].decision != "undecided"
    assert peeked / TESTS > 0.05 + margin(0.05, TESTS)
    assert always / TESTS <= 0.05 + margin(0.05, TESTS)


@pytest.mark.parametrize("design", DESIGNS)
def test_the_planned_size_sees_the_difference_as_often_as_asked(design: Design) -> None:
    planned = users_per_arm(0.5, variance=1.0, design=design, power=0.8)
    draws = np.random.default_rng(1).normal(size=(TESTS, 2, planned)) + np.array([[0.0], [0.5]])
    found = [[*looks(arriving(test), design=design, planned=planned, batch=20)] for test in draws]
    seen = np.mean([each[-1].decision == "better" for each in found])
    assert seen >= 0.8 - margin(0.8, TESTS)
    if design == "fixed":
        assert seen <= 0.8 + margin(0.8, TESTS) and all(len(each) == 1 for each in found)
    else:
        z = NormalDist().inv_cdf
        assert planned > users_per_arm(0.5, variance=1.0, design="fixed") * (3.0 / (z(0.975) + z(0.8)))
        assert np.mean([each[-1].users.control for each in found]) < 0.8 * planned  # most stop early


@pytest.mark.parametrize("design", DESIGNS)
def test_cuped_narrows_by_the_correlation_and_keeps_the_mean(design: Design) -> None:
    """Rewards with correlation .8: the interval is sqrt(1 - .8^2) = .6 as wide, and centred on the truth, .3."""
    generator = np.random.default_rng(2)
    values, widths = [], []
    for _ in range(100):
        before = generator.normal(size=(2, 200))
        arms = 0.8 * before + 0.6 * generator.normal(size=(2, 200)) + np.array([[0.0], [0.3]])
        plain, adjusted = (
            look(Outcomes(*arms, *past), design=design, planned=200) for past in ((None, None), tuple(before))
        )
        values.append(adjusted.difference.value)
        widths.append(
            (adjusted.difference.high - adjusted.difference.low) / (plain.difference.high - plain.difference.low)
        )
        assert adjusted.correlation == pytest.approx(0.8, abs=0.1) and plain.correlation == 0
    assert np.mean(widths) == pytest.approx(0.6, abs=0.02)
    assert np.mean(values) == pytest.approx(0.3, abs=3 * float(np.std(values)) / 10) and np.std(values) < 0.075


def test_a_look_is_the_library_s_interval() -> None:
    control, treatment, past, other = np.random.default_rng(3).exponential(size=(4, 50)).astype(np.float64)
    outcomes = Outcomes(control, treatment, past, other)
    fixed, sequential = (look(outcomes, design=design, planned=80) for design in DESIGNS)
    assert fixed.difference == cuped(treatment, control, treatment_before=other, control_before=past)
    assert sequential.difference.value == pytest.approx(fixed.difference.value, rel=1e-12)
    plain = look(Outcomes(control, treatment), design="sequential", planned=80)
    expected = always_valid_difference(treatment, control, planned=160)
    assert (plain.difference.low, plain.difference.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert (plain.control, plain.treatment) == (control.mean(), treatment.mean())


def test_where_nothing_varies_there_is_no_test() -> None:
    with pytest.raises(ValueError, match="rewards must vary, got 1 for every control user and 2 for every treated one"):
        look(Outcomes(np.ones(5), np.full(5, 2.0)), design="fixed", planned=5)
    late = np.r_[np.zeros(20), np.arange(20.0)]  # the first batches show nothing: they are not looked at
    found = [*looks(arriving(np.stack([late, late])), design="sequential", planned=40, batch=10)]
    assert [each.users.control for each in found] == [30, 40]


def test_an_undecided_test_says_what_would_decide() -> None:
    """U users more than needed by (reach s / d)^2: with that many, the difference seen here is at the power's edge."""
    control = np.r_[np.zeros(50), np.ones(50)]
    last = look(Outcomes(control, control + 0.05), design="fixed", planned=100)
    needed = users_per_arm(0.05, variance=float(control.var(ddof=1)), design="fixed")
    words = in_words(last, design="fixed")
    assert last.decision == "undecided" and f"{math.ceil(needed / 100) * 100:,} users an arm" in words
    assert "and none was" in in_words(look(Outcomes(control, control), design="fixed", planned=100), design="fixed")
    assert in_words(look(Outcomes(control, control - 1), design="fixed", planned=9), design="fixed").endswith("worse")


def test_rule_and_myopic_are_told_apart_both_ways() -> None:
    better = AbTest(world=WORLD, control="myopic", treatment="rule", pilot=60).run()
    worse = AbTest(world=WORLD, control="rule", treatment="myopic", design="sequential", users=200, batch=50).run()
    assert better.users.control == better.planned > 100 and len(better.looks) == 1
    assert (better.decision, worse.decision) == ("better", "worse")
    assert better.difference.low < 1283 - 625 < better.difference.high  # the band of docs/worlds.md
    hasty = AbTest(world=WORLD, control="myopic", treatment="rule", design="sequential", difference=1e3, batch=90).run()
    assert hasty.planned == 90  # no look before a batch, however few the power asks for
    assert worse.words == "treatment is worse" and worse.users.control < worse.planned == 200


def test_no_user_meets_two_policies_and_the_users_before_are_those_of_the_test(monkeypatch: Any) -> None:
    met: list[Tensor] = []
    reset = LongTermSatisfaction.reset

    def spy(users: LongTermSatisfaction, keys: Tensor) -> Any:
        if len(keys) > 1:  # a platform looks at one user to learn the sizes
            met.append(keys.clone())
        return reset(users, keys)

    monkeypatch.setattr(LongTermSatisfaction, "reset", spy)
    settings: dict[str, Any] = {"world": WORLD, "control": "random", "treatment": "random", "batch": 20}
    settings |= {"pilot": 40, "difference": 1e3}  # so large that it takes the fewest users, 30 an arm
    AbTest(**settings).run()
    assert len(torch.cat(met).unique()) == 40 + 2 * 30
    alone = torch.cat(met)
    met.clear()
    AbTest(**settings, cuped=True).run()
    assert torch.equal(torch.cat(met).sort().values, alone.repeat(2).sort().values)


def test_users_return_with_their_tastes_and_other_luck() -> None:
    users: Any = make_world("satiation-repaired")
    who, luck = session_keys(1, 150), session_keys(2, 150)
    once, again = users.reset(who), Returning(users, who).reset(luck)
    assert torch.equal(once.preference, again.preference) and torch.equal(again.keys, luck)
    place = Place(users, WORLDS["satiation-repaired"].session_config())
    player = place.player("random")
    test, before = place.rewards(player, 150, 1), place.rewards_before(player, 150, 1)
    assert not np.isin(before, test).any()  # neither the world's luck nor the policy's is met again
    assert np.corrcoef(test, before)[0, 1] > 0.8
    assert abs(np.corrcoef(test, place.rewards_before(player, 150, 9))[0, 1]) < 0.35  # of other users


def test_cuped_in_a_world_of_lasting_tastes() -> None:
    arms: dict[str, Any] = {"world": "satiation-repaired", "control": "random", "treatment": "rule", "users": 80}
    plain, adjusted = AbTest(**arms).run(), AbTest(**arms, cuped=True).run()
    width, narrow = (each.difference.high - each.difference.low for each in (plain, adjusted))
    assert narrow < 0.7 * width
    assert adjusted.difference.low < 207.8 - 178.6 < adjusted.difference.high  # the band of docs/worlds.md
    assert adjusted.looks[-1].control == plain.looks[-1].control  # the test itself is the same
    assert "of the variance is gone" in adjusted.describe()


def test_users_without_luck_have_no_session_before() -> None:
    users = SimpleNamespace(reset=lambda keys: SimpleNamespace(user=keys))
    with pytest.raises(ValueError, match="users of 'coat' do the same in every session"):
        require_luck(users, "coat")


def test_the_command_writes_what_reads_back(tmp_path: Path, capsys: Any) -> None:
    size, slots = 10, 1
    save_policy(Random(num_items=size, slate_size=slots), tmp_path / "policy")
    out = tmp_path / "deep" / "test.json"
    words = ["--world", WORLD, "--treatment", "best known", "--users", "60", "--design", "sequential", "--batch", "20"]
    assert main(["abtest", *words, "--control", str(tmp_path / "policy"), "--cuped", "--out", str(out)]) == 0
    printed, found = capsys.readouterr().out, Result.read(out)
    assert found.words in printed and found.describe() in printed and "20 users an arm" in printed
    named = AbTest(
        world=WORLD, control="random", treatment="best known", users=60, design="sequential", batch=20, cuped=True
    )
    again = named.run()
    assert again.looks == found.looks and again.decision == found.decision == "better"
    out.write_text(out.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(FormatError, match="field 'version' is 2"):
        Result.read(out)


def test_what_cannot_be_is_refused_in_words(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(ValueError, match="no world is called 'atlantis'; there are coat"):
        AbTest(world="atlantis", control="rule", treatment="rule")
    with pytest.raises(ValueError, match="users is 1, expected at least 2"):
        AbTest(world=WORLD, control="rule", treatment="rule", users=1)
    with pytest.raises(ValueError, match="difference is -1, expected a positive number"):
        AbTest(world=WORLD, control="rule", treatment="rule", difference=-1)
    with pytest.raises(ValueError, match="power is 0.01, level 0.95"):
        AbTest(world=WORLD, control="rule", treatment="rule", power=0.01)
    with pytest.raises(ValueError, match="'coat' reads files of yours: say where with --path"):
        AbTest(world="coat", control="rule", treatment="random").run()
    arguments = ["abtest", "--world", WORLD, "--control", "rule", "--treatment"]
    assert main([*arguments, "oracle"]) == 1
    assert "no policy is called 'oracle'; expected a folder with policy.json, 'random'" in capsys.readouterr().err
    assert main([*arguments, "popularity"]) == 1
    assert "'popularity' is counted from a log" in capsys.readouterr().err
    save_policy(Random(num_items=7), tmp_path)
    with pytest.raises(PolicyError, match="reads items 7, but here are items 10"):
        AbTest(world=WORLD, control="rule", treatment=str(tmp_path)).run()
    with pytest.raises(ValueError, match=r"takes [\d,]+ users an arm, more than 100,000: settle a larger --difference"):
        AbTest(world=WORLD, control="rule", treatment="random", difference=0.1, pilot=30).run()
    with pytest.raises(ValueError, match="'rule' earns 100 with every user of the pilot: say how many --users"):
        AbTest(world="sardine-single-item-static", control="rule", treatment="random", pilot=30).run()
