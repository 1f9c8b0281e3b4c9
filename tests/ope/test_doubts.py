"""A failed control leaves no estimate better than weak; drift is said and changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recgym.ope.appraisal import Appraisal, AppraisalConfig, appraise
from recgym.ope.diagnostics import Question
from recgym.ope.doubts import doubted
from recgym.ope.estimators import STEP
from tests.ope.bandits import drawn
from tests.ope.test_appraisal import bandit


def appraisal() -> Appraisal:
    seen = drawn(2000, seed=1)
    bare = replace(bandit(seen, policy="bare"), values=None)
    labels = {"context": [str(one) for one in seen.context]}
    return appraise([bandit(seen), bare], AppraisalConfig(question=Question(replicates=50)), segments=labels)


def test_only_the_policy_that_failed_is_capped() -> None:
    before = appraisal()
    after = doubted(before, {"bare": ["the mean weight is 2"]}, {"new": ["it falls"], "bare": ["it rises"]})
    new, bare = after.policies
    assert new.estimates == before.policies[0].estimates and new.words == ("it falls",)
    assert bare.words == ("the mean weight is 2", "it rises")
    for one, was in zip(bare.estimates, before.policies[1].estimates, strict=True):
        if STEP[one.estimator].models:  # withheld for its own reason, which stays
            assert one == was
        else:
            assert (one.verdict, one.warnings) == ("weak", ("the mean weight is 2", *was.warnings))
            assert (one.value, one.low, one.high) == (was.value, was.low, was.high)
    assert {was.estimate.verdict for was in before.policies} == {"supported"}
    assert {one.estimate.verdict for one in bare.segments} == {"weak"}
    assert bare.difference == before.policies[1].difference


def test_cannot_say_stays() -> None:
    before = appraisal()
    silent = tuple(replace(one, verdict="cannot say") for one in before.policies[0].estimates)
    changed = replace(before, policies=(replace(before.policies[0], estimates=silent),))
    (found,) = doubted(changed, {"new": ["off"]}).policies
    assert {one.verdict for one in found.estimates} == {"cannot say"}


def test_a_policy_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no policy 'old' in this appraisal, which has new, bare"):
        doubted(appraisal(), {"old": ["off"]})
