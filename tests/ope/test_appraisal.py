"""Several policies against one log: each estimator is its formula, differences hold together, silence is explained."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recgym.ope.appraisal import AppraisalConfig, appraise
from recgym.ope.diagnostics import MODEL_ERROR, Question
from recgym.ope.estimators import LENGTHS, MIXING, SESSION, STEP, estimators
from recgym.ope.evidence import Evidence, gather
from recgym.ope.fqe import Values
from recgym.ope.weights import step_ratios, target_probabilities
from tests.ope.bandits import LOGGER, MODEL, PRODUCTION, TRUTH, Outcomes, drawn
from tests.ope.worlds import TARGET, log

LIMIT = 10.0
QUICK = AppraisalConfig(question=Question(replicates=200))


def bandit(seen: Outcomes, *, policy: str = "new") -> Evidence:
    size = len(seen.reward)
    return Evidence(
        policy=policy, per="step", reward=seen.reward, episode=np.arange(size), user=np.arange(size),
        ratios=seen.weights, values=Values(q=seen.q, v=seen.v, v_next=np.zeros(size)),
    )  # fmt: skip


def test_every_one_step_estimator_is_its_formula() -> None:
    seen = drawn(500, seed=1)
    w, r, q, v = seen.weights, seen.reward, seen.q, seen.v
    tame = w / (1 - MIXING + MIXING * w)
    formula = {
        "IPS": (w * r).mean(), "clipped IPS": (np.minimum(w, LIMIT) * r).mean(), "sub-Gaussian IPS": (tame * r).mean(),
        "SNIPS": (w * r).sum() / w.sum(), "DM": v.mean(), "DR": (v + w * (r - q)).mean(),
        "SNDR": v.mean() + (w * (r - q)).sum() / w.sum(), "Switch-DR": (v + w * (w <= LIMIT) * (r - q)).mean(),
        "DRos": (v + LIMIT**2 * w / (w**2 + LIMIT**2) * (r - q)).mean(),
        "sub-Gaussian DR": (v + tame * (r - q)).mean(),
    }  # fmt: skip
    assert set(formula) == set(STEP)
    for name, value in formula.items():
        assert STEP[name].terms(bandit(seen)).value == pytest.approx(value, rel=1e-12), name


def test_every_session_estimator_is_its_formula() -> None:
    logged = log(60, seed=2)
    rho = step_ratios(target_probabilities(TARGET, logged), logged.propensity)
    draw = np.random.default_rng(0)
    values = Values(*draw.random((3, logged.num_steps)))
    seen = gather(
        logged, target_probabilities(TARGET, logged), policy="new", per="session", discount=0.9, values=values
    )
    rows = [np.flatnonzero(logged.episode == one) for one in range(60)]
    weight = [np.cumprod(rho[mine]) for mine in rows]
    place = [0.9 ** np.arange(len(mine)) for mine in rows]
    returns = [place[k] @ logged.reward[mine] for k, mine in enumerate(rows)]
    error = [logged.reward[m] + 0.9 * values.v_next[m] - values.q[m] for m in rows]
    last, first = np.array([each[-1] for each in weight]), np.array([values.v[mine[0]] for mine in rows])
    horizon = max(len(mine) for mine in rows)

    def by_step(amount: list[np.ndarray]) -> float:
        """sum_t of weighted means at step t; a session that ended keeps its weight and brings 0."""
        total = 0.0
        for t in range(horizon):
            held = sum(each[min(t, len(each) - 1)] for each in weight)
            total += sum(place[k][t] * weight[k][t] * amount[k][t] for k in range(60) if t < len(rows[k])) / held
        return total

    reward = [logged.reward[mine].astype(np.float64) for mine in rows]
    formula = {
        "trajectory IS": float(np.mean(last * returns)),
        "weighted trajectory IS": float((last * returns).sum() / last.sum()),
        "per-decision IS": float(np.mean([(place[k] * weight[k]) @ reward[k] for k in range(60)])),
        "weighted per-decision IS": by_step(reward),
        "clipped per-decision IS": float(
            np.mean([(place[k] * np.minimum(weight[k], LIMIT)) @ reward[k] for k in range(60)])
        ),
        "FQE": float(first.mean()),
        "DR": float(np.mean([first[k] + (place[k] * weight[k]) @ error[k] for k in range(60)])),
        "weighted DR": float(first.mean()) + by_step(error),
    }
    assert {*formula, "MAGIC"} == set(SESSION)
    for name, value in formula.items():
        assert SESSION[name].terms(seen).value == pytest.approx(value, rel=1e-9), name
    both = sorted((formula["FQE"], formula["weighted DR"]))
    assert math.isfinite(SESSION["MAGIC"].terms(seen).value) and both[0] < both[1]


def test_magic_blends_few_lengths_of_a_long_session() -> None:
    """All of 2,000 would need a covariance of 2,000 times 2,000: 32 MB here, gigabytes at 20,000."""
    steps, rng = 2000, np.random.default_rng(0)
    seen = Evidence(
        policy="new", per="session", reward=rng.random(4 * steps), episode=np.repeat(np.arange(4), steps),
        user=np.arange(4), ratios=np.ones(4 * steps), values=Values(*rng.random((3, 4 * steps))),
    )  # fmt: skip
    blended, whole = SESSION["MAGIC"].terms(seen).above[0, 1:], SESSION["weighted DR"].terms(seen).above[0, 1:]
    taken = 1 + np.flatnonzero(np.abs(np.diff(blended / whole)) > 1e-9)  # lengths that count for something
    assert set(taken) <= set(np.linspace(0, steps, LENGTHS).astype(int))


def test_weights_too_great_to_be_averaged_are_withheld() -> None:
    """One ratio of 1e300 an episode, twice: the products are no numbers, and what is said of them is."""
    size = 400
    for per, episode in (("step", np.arange(size)), ("session", np.arange(size) // 2)):
        one = Evidence(
            policy="new", per=per, reward=np.ones(size), episode=episode, user=np.arange(episode[-1] + 1),  # type: ignore[arg-type]
            ratios=np.where(np.arange(size) < 100, 1e300, 0.5),
        )  # fmt: skip
        (found,) = appraise([one], QUICK).policies
        assert found.estimate.verdict == "cannot say" and math.isnan(found.estimate.value)
        assert found.difference is None and found.returns is None
        assert any("too great to be averaged" in words for words in found.estimate.warnings)


def test_a_models_interval_is_said_to_leave_out_its_error() -> None:
    (found,) = appraise([bandit(drawn(500, seed=7))], QUICK).policies
    (model,) = [one for one in found.estimates if one.estimator == "DM"]
    assert MODEL_ERROR in model.warnings and not any("holds the noise" in words for words in model.warnings)


def test_no_reward_at_all_is_no_proof_of_0() -> None:
    """With 3 / 4000 as the truth, 4,000 impressions go by without any reward in one log of twenty."""
    seen = drawn(4000, seed=3)
    (found,) = appraise([bandit(seen._replace(reward=np.zeros(4000)))], AppraisalConfig(estimator="SNIPS")).policies
    assert (found.estimate.low, found.estimate.high) == (0, 0)
    assert found.estimate.verdict == "weak" and "nothing says what chance could do" in found.estimate.warnings[0]


def test_a_better_policy_is_better_and_production_is_itself() -> None:
    seen = drawn(4000, seed=3)
    itself = seen._replace(weights=np.ones(4000), v=(LOGGER * MODEL).sum(axis=1)[seen.context])
    found = appraise([bandit(seen), bandit(itself, policy="same")], QUICK)
    new, same = found.policies
    assert new.chosen == same.chosen == "SNDR"
    assert abs(found.production.value - PRODUCTION) < 0.03 and abs(new.estimate.value - TRUTH) < 0.05
    assert new.statement == "better" and new.difference is not None and new.difference.low > 0
    assert new.difference.value == pytest.approx(new.estimate.value - found.production.value, rel=1e-9)
    assert same.statement == "undecided"
    assert new.test is not None and new.test.users < 4000 and new.test.detectable > 0
    assert new.estimate.verdict == "supported"
    assert {one.verdict for one in new.estimates if STEP[one.estimator].biased} == {"weak"}


def test_a_biased_estimator_decides_nothing() -> None:
    seen = drawn(4000, seed=3)
    asked = AppraisalConfig(question=Question(replicates=50), estimator="DM")
    (found,) = appraise([bandit(seen)], asked).policies
    assert found.difference is not None and (found.difference.low > 0 or found.difference.high < 0)
    assert found.statement == "undecided"


def test_production_itself_is_known_exactly_without_a_model() -> None:
    seen = drawn(500, seed=4)
    one = Evidence(
        policy="same", per="step", reward=seen.reward, episode=np.arange(500), user=np.arange(500), ratios=np.ones(500)
    )
    (found,) = appraise([one], QUICK).policies
    assert found.chosen == "SNIPS" and found.difference is not None
    assert (found.difference.value, found.difference.low, found.difference.high) == pytest.approx((0, 0, 0), abs=1e-12)
    assert found.estimate.value == pytest.approx(seen.reward.mean())
    assert found.returns is not None and found.returns.worst == 0.0


def test_segments_add_up() -> None:
    seen = drawn(1000, seed=5)
    labels = [f"context {one}" for one in seen.context]
    asked = AppraisalConfig(question=Question(replicates=50), estimator="IPS")
    (found,) = appraise([bandit(seen)], asked, segments={"context": labels}).policies
    assert [one.label for one in found.segments] == list(dict.fromkeys(labels))
    total = sum(one.episodes * one.estimate.value for one in found.segments) / 1000
    assert total == pytest.approx(found.estimate.value, rel=1e-12)
    assert len(found.segments) == 2


def test_without_propensities_the_reason_is_given() -> None:
    logged = log(50, seed=6)
    bare = gather(
        logged.__class__(**{**logged.__dict__, "propensity": np.full(logged.num_steps, np.nan)}),
        target_probabilities(TARGET, logged), policy="new", per="session",
    )  # fmt: skip
    (found,) = appraise([bare], QUICK).policies
    assert found.estimate.verdict == "cannot say" and found.difference is None and found.support is None
    assert "no logged propensity" in found.estimate.warnings[0]
    assert {one.verdict for one in found.estimates} == {"cannot say"}


def test_bad_questions_are_refused_by_name() -> None:
    seen = drawn(100, seed=7)
    with pytest.raises(ValueError, match="at least one policy"):
        appraise([], QUICK)
    with pytest.raises(ValueError, match="different names, got new, new"):
        appraise([bandit(seen), bandit(seen)], QUICK)
    with pytest.raises(ValueError, match="'b' must be asked of the same episodes as 'new'"):
        appraise([bandit(seen), bandit(drawn(100, seed=8), policy="b")], QUICK)
    with pytest.raises(ValueError, match="estimator must be one of default, IPS"):
        appraise([bandit(seen)], AppraisalConfig(estimator="magic"))
    with pytest.raises(ValueError, match="'context' must have a label for each of 100 episodes: 3"):
        appraise([bandit(seen)], QUICK, segments={"context": ["a", "b", "c"]})
    logged = log(20, seed=6)
    with pytest.raises(ValueError, match="policy 'new' must have a probability for each"):
        gather(logged, np.ones(3), policy="new", per="session")
    logged.reward[4] = np.nan
    with pytest.raises(ValueError, match="reward must be finite, got nan at step 4"):
        gather(logged, np.ones(logged.num_steps), policy="new", per="session")


def test_estimators_are_listed_by_what_is_asked() -> None:
    assert estimators("step") is STEP and estimators("session") is SESSION
