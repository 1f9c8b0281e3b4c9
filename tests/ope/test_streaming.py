"""A log read in chunks says what it says at once, to rounding."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recgym.ope import one_step, one_step_models
from recgym.ope.diagnostics import Question, Thresholds, conclude, support
from recgym.ope.doubly_robust import doubly_robust
from recgym.ope.estimators import MIXING, SESSION, STEP, by_parts
from recgym.ope.fqe import Values
from recgym.ope.importance import (
    episode_sums,
    last_weights,
    per_decision,
    trajectory_wise,
    weighted_per_decision_terms,
)
from recgym.ope.intervals import bootstrap_ratio
from recgym.ope.rows import Numbers
from recgym.ope.step_files import StepColumns, StepPolicy, read_steps
from recgym.ope.streaming import UserSums, stream_estimates, stream_sums
from recgym.ope.views import single_steps
from recgym.ope.weighted_dr import weighted_doubly_robust_terms
from recgym.ope.weights import cumulative_weights
from recgym.types import DoubleArray, IntArray
from tests.ope.step_logs import COLUMNS, POLICIES, table, written
from tests.ope.worlds import log

DISCOUNT, LIMIT = 0.9, 2.0


def in_memory(
    found: pl.DataFrame, policy: str, per: str
) -> tuple[DoubleArray, IntArray, Numbers, dict[str, tuple[Numbers, Numbers]]]:
    """Ratios, episode of each step, user of each episode, and what every estimator makes of the whole log."""
    column = {name: found[name].to_numpy() for name in ("reward", "propensity", "p", "q", "v", "feature")}
    start = np.append(True, (found["session"][1:] != found["session"][:-1]).to_numpy())
    episode = np.cumsum(start) - 1
    chance = column["p"] if policy != "function" else np.minimum(2 * column["feature"], 1.0)
    ratios, reward = chance / column["propensity"], column["reward"]
    v = column["v"] + (policy == "function")
    after = np.where(np.append(start[1:], True), 0.0, np.append(v[1:], 0.0)) if policy != "function" else column["q"]
    values = Values(q=column["q"], v=v, v_next=after)
    user = found["user"].to_numpy()
    if per == "step":
        step: dict[str, Numbers | tuple[Numbers, Numbers]] = {
            "IPS": one_step.ips(ratios, reward),
            "clipped IPS": one_step.ips(one_step.clipped_weights(ratios, LIMIT), reward),
            "sub-Gaussian IPS": one_step.ips(one_step.sub_gaussian_weights(ratios, MIXING), reward),
            "SNIPS": one_step.self_normalised(ratios, reward),
            "DM": one_step_models.direct_method(v),
            "DR": one_step_models.doubly_robust_terms(ratios, reward, values.q, v),
            "SNDR": one_step_models.self_normalised_doubly_robust(ratios, reward, values.q, v),
            "Switch-DR": one_step_models.switch_doubly_robust(ratios, reward, values.q, v, threshold=LIMIT),
            "DRos": one_step_models.optimistic_doubly_robust(ratios, reward, values.q, v, strength=LIMIT**2),
            "sub-Gaussian DR": one_step_models.sub_gaussian_doubly_robust(ratios, reward, values.q, v, mixing=MIXING),
        }
        return ratios, np.arange(len(ratios)), user, _pairs(step)
    whole = trajectory_wise(ratios, reward, episode, DISCOUNT)
    capped = np.minimum(cumulative_weights(ratios, episode), LIMIT)
    session: dict[str, Numbers | tuple[Numbers, Numbers]] = {
        "trajectory IS": whole,
        "per-decision IS": per_decision(ratios, reward, episode, DISCOUNT),
        "clipped per-decision IS": episode_sums(capped * reward, episode, DISCOUNT),
        "weighted trajectory IS": (whole, last_weights(ratios, episode)),
        "weighted per-decision IS": weighted_per_decision_terms(ratios, reward, episode, DISCOUNT),
        "FQE": v[start],
        "DR": doubly_robust(ratios, reward, values, episode, DISCOUNT),
        "weighted DR": weighted_doubly_robust_terms(ratios, reward, values, episode, DISCOUNT),
    }
    return ratios, episode, user[start], _pairs(session)


def _pairs(terms: dict[str, Numbers | tuple[Numbers, Numbers]]) -> dict[str, tuple[Numbers, Numbers]]:
    return {name: found if isinstance(found, tuple) else (found, np.ones(len(found))) for name, found in terms.items()}


def summed(source: Path, per: str, **settings: object) -> dict[str, UserSums]:
    discount = DISCOUNT if per == "session" else 1.0
    return stream_sums(source, COLUMNS, POLICIES, per=per, discount=discount, limit=LIMIT, batch=7, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("per", ["session", "step"])
@pytest.mark.parametrize("rows", [3, 13, 300, 10_000])
def test_chunks_change_nothing(per: str, rows: int, tmp_path: Path) -> None:
    found = table()
    streams = summed(written(found, tmp_path / "log"), per, rows=rows)
    question = Question(per=per, discount=DISCOUNT if per == "session" else 1.0, interval="percentile", replicates=50)  # type: ignore[arg-type]
    known = by_parts("session" if per == "session" else "step")
    for policy, sums in streams.items():
        ratios, episode, users, terms = in_memory(found, policy, per)
        expected = support(ratios, episode, users)
        assert asdict(sums.support) == pytest.approx(asdict(expected), rel=1e-12)
        estimates = sums.estimates(question)
        assert list(estimates) == [name for name in known if policy != "bare" or terms_need_no_model(name)]
        for name, estimate in estimates.items():
            interval = bootstrap_ratio(*terms[name], users, seed=0, replicates=50)
            weighed = conclude(name, interval, question, expected, user=users)
            assert estimate.value == pytest.approx(interval.value, rel=1e-12), (policy, name)
            assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high), rel=1e-11)
            if not known[name].biased:
                assert (estimate.verdict, estimate.warnings) == (weighed.verdict, weighed.warnings)
                assert estimate.sample_size == len(users)
                assert estimate.effective_sample_size == pytest.approx(weighed.effective_sample_size, rel=1e-12)


def terms_need_no_model(name: str) -> bool:
    return not (STEP | SESSION)[name].models


def test_the_direct_method_is_judged_by_single_steps_and_never_better_than_weak(tmp_path: Path) -> None:
    found = table()
    sums = summed(written(found, tmp_path / "log"), "session")["column"]
    ratios, _, users, _ = in_memory(found, "column", "step")
    assert asdict(sums.step_support) == pytest.approx(asdict(support(ratios, np.arange(len(ratios)), users)), rel=1e-12)
    lenient = Thresholds(
        effective_episodes=(1, 1), largest_share=(1, 1), unsupported=(1, 1), weight_excess=(9, 9), half_width=1e9,
    )  # fmt: skip
    judged = sums.estimates(Question(discount=DISCOUNT, replicates=20, thresholds=lenient))
    assert {name: one.verdict for name, one in judged.items()} == {
        name: "weak" if one.biased else "supported" for name, one in by_parts("session").items()
    }
    asked = Question(discount=DISCOUNT, replicates=20)
    elsewhere = replace(sums, step_support=replace(sums.step_support, effective_sample_size=2.0))
    assert elsewhere.estimates(asked)["FQE"].verdict == "cannot say"


def test_the_front_door_is_the_same_and_a_session_without_user_is_its_own(tmp_path: Path) -> None:
    found = table(120).drop("user", "feature", "q", "v")
    file = tmp_path / "log.parquet"
    found.write_parquet(file)
    policies = {"it": StepPolicy(probability="p")}
    estimates = stream_estimates(file, StepColumns(), policies, Question(interval="percentile", replicates=30))
    start = np.append(True, (found["session"][1:] != found["session"][:-1]).to_numpy())
    ratios = (found["p"] / found["propensity"]).to_numpy()
    values = per_decision(ratios, found["reward"].to_numpy(), np.cumsum(start) - 1, 1.0)
    interval = bootstrap_ratio(values, np.ones(120), found["session"].to_numpy()[start], seed=0, replicates=30)
    assert estimates["it"]["per-decision IS"].value == pytest.approx(values.mean(), rel=1e-12)
    assert estimates["it"]["per-decision IS"].high == pytest.approx(interval.high, rel=1e-12)


def test_a_recorded_log_gives_what_its_transitions_give(tmp_path: Path) -> None:
    """The one-step view of `views.single_steps`, of users with many sessions."""
    real = log(80, users=33)
    file = tmp_path / "log.parquet"
    pl.DataFrame(
        {"session": real.episode, "user": real.user[real.episode], "reward": real.reward, "p": real.propensity}
    ).write_parquet(file)
    columns = StepColumns(user="user", propensity="p")
    policies = {"logger": StepPolicy(probability="p")}
    found = stream_estimates(file, columns, policies, Question(per="step", interval="percentile", replicates=30))[
        "logger"
    ]["SNIPS"]
    view = single_steps(real)
    interval = bootstrap_ratio(
        view.reward.astype(np.float64), np.ones(view.num_steps), view.user, seed=0, replicates=30
    )
    assert (found.value, found.low, found.high) == pytest.approx((interval.value, interval.low, interval.high))


@pytest.mark.parametrize("rows", [13, 10_000])
def test_bags_of_users_keep_the_value_and_the_support(rows: int, tmp_path: Path) -> None:
    found = table()
    source = written(found, tmp_path / "log")
    alone, bags = (summed(source, "session", rows=rows, most_users=most)["column"] for most in (1000, 35))
    assert (
        not alone.bagged
        and bags.bagged
        and len(bags.numerators["weighted DR"]) < 35 < 40 == len(alone.numerators["weighted DR"])
    )
    for name, above in bags.numerators.items():
        np.testing.assert_allclose(above.sum(axis=0), alone.numerators[name].sum(axis=0), rtol=1e-12)
        np.testing.assert_allclose(
            bags.denominators[name].sum(axis=0), alone.denominators[name].sum(axis=0), rtol=1e-12
        )
    first, second = (replace(one.support, mean_ratio_error=0.0) for one in (alone, bags))
    assert asdict(second) == pytest.approx(asdict(first), rel=1e-12)
    assert bags.estimates(Question(discount=DISCOUNT, replicates=20))["per-decision IS"].sample_size == 260


def test_questions_and_policies_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "log.parquet"
    table(30).write_parquet(file)
    bare = {"it": StepPolicy(probability="p")}
    with pytest.raises(ValueError, match=r"estimators must be among IPS.*got 'per-decision IS'"):
        stream_sums(file, StepColumns(), bare, per="step", names=["per-decision IS"])
    with pytest.raises(ValueError, match="give q and v"):
        stream_sums(file, StepColumns(), bare, names=["DR"])
    with pytest.raises(ValueError, match=r"must be \(30,\), one number a row, got shape \(30, 1\)"):
        wide = StepPolicy(probability=lambda batch: np.ones((len(batch), 1)))
        list(read_steps([file], StepColumns(), {"it": wide}, batch=30))
    with pytest.raises(ValueError, match="per session with discount 1.0"):
        stream_sums(file, StepColumns(), bare)["it"].estimates(Question(per="step"))
    with pytest.raises(ValueError, match="q and v"):
        StepPolicy(probability="p", q="q")
    with pytest.raises(ValueError, match="at least one policy"):
        stream_sums(file, StepColumns(), {})
    with pytest.raises(ValueError, match="rows and batch"):
        list(read_steps([file], StepColumns(), bare, rows=0))


def test_without_weight_left_there_is_no_estimate(tmp_path: Path) -> None:
    file = tmp_path / "log.parquet"
    table(60).with_columns(p=pl.lit(0.0)).write_parquet(file)
    found = stream_estimates(file, StepColumns(), {"it": StepPolicy(probability="p")}, Question(replicates=20))["it"]
    assert found["weighted per-decision IS"].verdict == found["per-decision IS"].verdict == "cannot say"
    assert "no episode has weight left at step 0" in found["weighted per-decision IS"].warnings[0]
