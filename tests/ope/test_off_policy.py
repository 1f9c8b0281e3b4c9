"""Any estimator by its name: a contract kept, the truth held, models that know the state used where they are better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recgym.checks import check_estimator
from recgym.ope.diagnostics import Question
from recgym.ope.estimators import SESSION, STEP
from recgym.ope.fqe import FitConfig
from recgym.ope.off_policy import ModelConfig, OffPolicy, evidence_of
from recgym.ope.targets import ColumnTarget, PolicyTarget
from recgym.ope.views import single_steps
from tests.ope.worlds import TARGET, log, step_value, value

MODELS = ModelConfig(fitting=FitConfig(width=16, rank=4, rounds=24, updates=30, batch_size=256, learning_rate=5e-3))
NAMES = [("step", name) for name in STEP] + [("session", name) for name in SESSION]
LOG = log(3000, seed=5)


@pytest.mark.parametrize(("per", "name"), NAMES)
def test_every_name_answers_near_the_truth(per: str, name: str) -> None:
    question = Question(per="step" if per == "step" else "session", replicates=50)
    found = OffPolicy(estimator=name, question=question, models=MODELS).estimate(LOG, TARGET)
    truth = step_value(TARGET) if per == "step" else value(TARGET)
    if name == "clipped per-decision IS":
        assert found.value < truth and found.verdict == "cannot say"  # rewards are positive
    else:
        assert abs(found.value - truth) < max(0.06 * truth, found.high - found.low)
    assert found.estimator == name and found.low <= found.value <= found.high


@pytest.mark.parametrize(("per", "name"), [("step", "SNDR"), ("session", "weighted DR")])
def test_the_contract_holds(per: str, name: str) -> None:
    question = Question(per="step" if per == "step" else "session", replicates=50)
    check_estimator(OffPolicy(estimator=name, question=question, models=MODELS), log(300), TARGET)


def test_a_model_of_the_state_is_taken_where_it_errs_less() -> None:
    view = single_steps(LOG)
    with_state = evidence_of(view, PolicyTarget(policy=TARGET, logged=view), per="step", config=MODELS)
    assert any("network of state and item" in words for words in with_state.words)
    assert with_state.values is not None
    assert with_state.values.v.mean() == pytest.approx(step_value(TARGET), rel=0.05)
    noise = replace(view, state=np.random.default_rng(0).normal(size=(view.num_steps, 2)).astype(np.float32))
    bare = replace(noise, reward=np.random.default_rng(1).random(view.num_steps).astype(np.float32))
    blind = evidence_of(bare, PolicyTarget(policy=TARGET, logged=view), per="step", config=MODELS)
    assert any("item means" in words for words in blind.words)


def test_why_there_is_no_model_is_said() -> None:
    column = ColumnTarget(name="new", probability=np.full(LOG.num_steps, 0.2))
    seen = evidence_of(LOG, column, per="session")
    assert seen.values is None and "known by the probability of what was shown alone" in seen.no_values
    bare = replace(LOG, state=None, final_state=None)
    seen = evidence_of(bare, PolicyTarget(policy=TARGET, logged=LOG), per="session")
    assert seen.values is None and "no state of the user" in seen.no_values
    with pytest.raises(ValueError, match="estimator must be one of IPS, clipped IPS"):
        OffPolicy(estimator="magic", question=Question(per="step"))
