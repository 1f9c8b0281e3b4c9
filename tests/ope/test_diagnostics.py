"""The verdict keeps its promise: lucky logs, heavy tails and biased estimators are not supported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recgym.ope.bounds import bca_mean
from recgym.ope.diagnostics import Question, Thresholds, conclude, judge, read_interval, support
from recgym.ope.intervals import Interval, bootstrap_mean, t_interval
from recgym.types import Estimate
from tests.ope.test_tails import two_point

USERS = np.arange(1000)
MILD = support(np.random.default_rng(0).choice([0.8, 1.2], 3000), np.repeat(USERS, 3), USERS)


def said(**numbers: float) -> tuple[str, str]:
    """The verdict and the words of mild support but for these numbers."""
    verdict, words = judge(replace(MILD, **numbers), Thresholds(), per="session")  # type: ignore[arg-type]
    return verdict, " ".join(words)


def test_mild_weights_are_supported() -> None:
    assert said() == ("supported", "")


@pytest.mark.parametrize(
    ("number", "weak", "nothing", "words"),
    [
        ("effective_sample_size", 60.0, 6.0, "sessions are worth 6"),
        ("expected_sample_size", 60.0, 6.0, "but the heaviest were not drawn"),
        ("unevenness", 1.0, 11.0, "its interval is too narrow; log "),
        ("tail_index", 0.9, 1.1, "that sessions not drawn would dominate the mean"),
        ("largest_share", 0.2, 0.6, "the heaviest of the sessions holds"),
    ],
)
def test_each_sign_speaks(number: str, weak: float, nothing: float, words: str) -> None:
    for verdict, value in (("weak", weak), ("cannot say", nothing)):
        found, text = said(**{number: value})
        assert found == verdict
        assert words in text


def test_the_words_say_how_many_more_and_how_heavy() -> None:
    assert "log 4 times as many sessions" in said(unevenness=1.0)[1]
    assert "a tail so heavy (index 0.90, at most 0.7 is safe)" in said(tail_index=0.9)[1]
    for beyond in (100.0, 1e200):
        assert "too narrow; no log of usual size mends that; test a policy closer" in said(unevenness=beyond)[1]
    assert "impressions" in judge(replace(MILD, tail_index=0.9), Thresholds(), per="step")[1][0]


def test_one_heavy_weight_in_a_log_of_impressions_leaves_nothing_to_say() -> None:
    """10,000 impressions by an almost deterministic logger: a weight beyond 10,000, effective sample size below 3."""
    rng = np.random.default_rng(0)
    ratios = rng.permutation(12_000 * (2 * np.arange(10_000) + 1) ** -1.5)
    user = np.arange(10_000)
    found = support(ratios, user, user)
    assert found.largest_weight > 1e4
    assert found.effective_sample_size == pytest.approx(2.7, abs=0.1)
    question = Question(per="step")
    interval = read_interval(question, ratios * (rng.random(10_000) < 0.01), np.ones(10_000), user)
    estimate = conclude("IPS", interval, question, found, user=user)
    assert estimate.verdict == "cannot say"
    assert any("impressions are worth 2.7" in words for words in estimate.warnings)
    assert any("a tail so heavy (index 1." in words for words in estimate.warnings)


def test_no_log_is_lucky_enough() -> None:
    """Sessions worth 3000 / 2^7 = 23 by design: about one log in seven looks like 100 or more, none is supported."""
    drawn = [support(*two_point(3000, 7, seed), np.arange(3000)) for seed in range(40)]
    assert max(found.effective_sample_size for found in drawn) > 2 * 3000 / 2**7
    assert all(judge(found, Thresholds(), per="session")[0] != "supported" for found in drawn)


def estimate(*, low: float, high: float, verdict: str = "supported", level: float = 0.95) -> Estimate:
    return Estimate(
        estimator="IPS", value=(low + high) / 2, low=low, high=high, verdict=verdict, level=level  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("unbiased", "verdict"),
    [
        (None, "weak"),
        (estimate(low=0.95, high=1.05), "supported"),
        (estimate(low=0.5, high=1.5), "weak"),  # they overlap, and the bias may be 0.4 all the same
        (estimate(low=0.95, high=1.15), "weak"),
        (estimate(low=0.95, high=1.05, verdict="weak"), "weak"),
        (estimate(low=0.95, high=1.05, level=0.9), "weak"),
    ],
)
def test_a_biased_estimator_needs_an_unbiased_witness(unbiased: Estimate | None, verdict: str) -> None:
    interval = Interval(value=1.0, low=0.9, high=1.1, level=0.95, method="t")
    found = conclude("DM", interval, Question(), None, user=USERS, biased=True, unbiased=unbiased)
    assert found.verdict == verdict
    assert any("not the bias" in words for words in found.warnings) == (verdict == "weak")
    assert conclude("IPS", interval, Question(), None, user=USERS).verdict == "supported"


def test_a_question_chooses_its_interval() -> None:
    values, users = np.random.default_rng(1).exponential(size=60), np.repeat(np.arange(30), 2)
    kept = {"seed": 3, "level": 0.9, "replicates": 50}
    expected = {
        "t": t_interval(values, users, level=0.9),
        "percentile": bootstrap_mean(values, users, **kept),  # type: ignore[arg-type]
        "BCa": bca_mean(values, users, **kept),  # type: ignore[arg-type]
    }
    for method, interval in expected.items():
        question = Question(interval=method, **kept)  # type: ignore[arg-type]
        found = read_interval(question, values, np.ones(60), users)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert Question().interval == "t"
    with pytest.raises(ValueError, match="interval must be one of"):
        Question(interval="guess")  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["unevenness", "tail_index"])
def test_thresholds_that_contradict_each_other_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be"):
        Thresholds(**{field: (2.0, 1.0)})  # type: ignore[arg-type]
