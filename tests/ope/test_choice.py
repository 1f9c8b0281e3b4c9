"""Who speaks for a policy: the default of its weights' verdict, what cross-validation finds, and nobody in the dark."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from recgym.ope.appraisal import AppraisalConfig, PolicyReport, appraise
from recgym.ope.diagnostics import Question, Thresholds
from recgym.ope.evidence import Evidence, Per
from recgym.ope.fqe import Values
from tests.ope.bandits import TRUTH, drawn

WEAK = Thresholds(effective_episodes=(1e9, 10.0))


def evidence(*, per: Per = "step", model: bool = True, count: int = 2000, seed: int = 0) -> Evidence:
    """Impressions of the bandit; per session, each is a session of one step."""
    seen = drawn(count, seed=seed)
    return Evidence(
        policy="new", per=per, reward=seen.reward, episode=np.arange(count), user=np.arange(count) // 2,
        ratios=seen.weights, values=Values(q=seen.q, v=seen.v, v_next=np.zeros(count)) if model else None,
    )  # fmt: skip


def asked(seen: Evidence, thresholds: Thresholds | None = None, estimator: str = "default") -> PolicyReport:
    question = Question(replicates=50, thresholds=thresholds or Thresholds())
    return appraise([seen], AppraisalConfig(question=question, estimator=estimator)).policies[0]


@pytest.mark.parametrize(
    ("per", "supported", "weak", "bare"),
    [("step", "SNDR", "SNDR", "SNIPS"), ("session", "weighted DR", "weighted DR", "weighted per-decision IS")],
)
def test_the_default_goes_by_the_verdict_of_the_weights(per: Per, supported: str, weak: str, bare: str) -> None:
    seen = evidence(per=per)
    assert asked(seen).chosen == supported and asked(seen).estimate.verdict == "supported"
    assert asked(seen, WEAK).chosen == weak and asked(seen, WEAK).estimate.verdict == "weak"
    for limits in (None, WEAK):
        assert asked(evidence(per=per, model=False), limits).chosen == bare
    assert asked(seen).words == ()


def test_without_weights_the_model_speaks() -> None:
    found = asked(replace(evidence(), ratios=None))
    assert found.chosen == "DM" and found.estimate.verdict == "weak"
    mute = asked(replace(evidence(model=False), ratios=None))
    assert mute.chosen == "SNIPS" and mute.estimate.verdict == "cannot say"


def long_sessions(steps: int = 60) -> Evidence:
    """Sessions whose products of weights say nothing, though their single steps are covered."""
    rng = np.random.default_rng(0)
    count = 300 * steps
    weights = rng.choice([0.5, 1.5], count)
    reward = rng.random(count)
    return Evidence(
        policy="new", per="session", reward=reward, episode=np.repeat(np.arange(300), steps), user=np.arange(300),
        ratios=weights, values=Values(q=np.full(count, 0.5), v=np.full(count, 31.0), v_next=np.full(count, 0.5)),
    )  # fmt: skip


@pytest.mark.parametrize("estimator", ["default", "cross-validated", "FQE"])
def test_where_the_weights_cannot_say_no_model_makes_up_for_it(estimator: str) -> None:
    seen = long_sessions()
    found = asked(seen, estimator=estimator)
    model = next(one for one in found.estimates if one.estimator == "FQE")
    assert found.estimate.verdict == "cannot say" and found.difference is None
    assert "model's opinion" in " ".join((*found.words, *found.estimate.warnings)) and math.isfinite(model.value)
    if estimator == "FQE":
        assert found.chosen == "FQE" and "FQE puts it at 31" in found.estimate.warnings[0]
    else:
        assert found.chosen == "weighted DR" and model.verdict == "weak"  # an opinion, shown in the table


def test_segments_are_silent_where_their_weights_are() -> None:
    seen = long_sessions()
    config = AppraisalConfig(question=Question(replicates=50), estimator="FQE")
    (found,) = appraise([seen], config, segments={"half": ["a"] * 150 + ["b"] * 150}).policies
    assert [one.estimate.verdict for one in found.segments] == ["cannot say"] * 2


def test_cross_validation_takes_what_is_near_the_truth_and_says_so() -> None:
    far = evidence(count=6000)
    same = np.full(6000, TRUTH)
    values = Values(q=same, v=same, v_next=0 * same)  # a model whose value is exact, and free of noise
    found = asked(replace(far, values=values), estimator="cross-validated")
    assert found.chosen == "DM"
    assert found.words[0].startswith("DM was chosen by cross-validation: of 10 estimators it came nearest to SNDR of ")
    wrong = asked(replace(far, values=far.model._replace(v=far.model.v + 5)), estimator="cross-validated")
    assert wrong.chosen != "DM"
    bare = asked(evidence(model=False), estimator="cross-validated")
    assert "nearest to SNIPS" in bare.words[0] and "of 4 estimators" in bare.words[0]


def test_cross_validation_that_cannot_be_had_gives_the_default_and_the_reason() -> None:
    few = replace(evidence(count=60), user=np.arange(60) // 20)
    words = asked(few, Thresholds(effective_episodes=(1, 1)), "cross-validated")
    assert words.chosen in ("SNDR", "DRos") and "could not choose (users must be at least 4" in words.words[0]
    dark = asked(replace(evidence(), ratios=None), estimator="cross-validated")
    assert dark.chosen == "DM" and "nothing to judge by" in dark.words[0]
    with pytest.raises(ValueError, match="estimator must be one of default, IPS.*cross-validated; got 'magic'"):
        asked(evidence(), estimator="magic")
