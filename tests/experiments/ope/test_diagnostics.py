"""Diagnostics of a report: true logs pass, planted faults are convicted and cap the verdict, nothing is left unsaid."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.ope.diagnostics import sections, with_doubts
from experiments.ope.document import document
from experiments.ope.run_page import write_run_pages
from experiments.ope.stretches import moment, settled, stretches
from experiments.runs import Run
from recgym.files import write_json
from recgym.ope.appraisal import Appraisal, AppraisalConfig, appraise
from recgym.ope.diagnostics import Question
from recgym.ope.evidence import Evidence, Per
from recgym.ope.fqe import Values
from recgym.ope.importance import last_weights
from recgym.types import DoubleArray
from tests.experiments.cards import card
from tests.experiments.ope.logs import CLICKS, ITEMS, OTHER, Drawn, drawn

pytestmark = pytest.mark.experiments
DAY = 1_700_000_000.0


def times(made: Drawn) -> DoubleArray:
    """An hour a session, ten seconds a step."""
    found: DoubleArray = DAY + 3600.0 * made.episode + 10.0 * (np.arange(len(made.item)) % 3)
    return found


def evidence(made: Drawn, per: Per = "step", *, scale: float | DoubleArray = 1.0, off: float = 0.0) -> Evidence:
    """OTHER on the log; weights times `scale`, the model's values `off` the truth."""
    size = len(made.item)
    step = per == "step"
    v = (OTHER * CLICKS).sum(axis=1)[made.slot]
    ahead = np.zeros(size) if step else (2 - np.arange(size) % 3) * (OTHER * CLICKS).sum(axis=1).mean()
    model = Values(q=CLICKS[made.slot, made.item - 1] + ahead + off, v=v + ahead + off, v_next=ahead)
    return Evidence(
        policy="new", per=per, reward=made.reward, episode=np.arange(size) if step else made.episode,
        user=made.user[made.episode] if step else made.user, ratios=made.other / made.propensity * scale, values=model,
    )  # fmt: skip


def examined(made: Drawn, *seen: Evidence, **more: Any) -> tuple[Appraisal, dict[str, Any]]:
    """The appraisal and its sections."""
    time = times(made)
    appraisal = appraise(seen, AppraisalConfig(question=Question(per=seen[0].per, replicates=100)))
    given: dict[str, Any] = {
        "time": time, "propensity": made.propensity, "item": made.item, "names": ITEMS, "seed": 0,
        "covariates": {
            **settled(time, made.user[made.episode], made.episode, made.reward), "position": made.slot.astype(float)
        },
    }  # fmt: skip
    found = sections(seen, appraisal, **{**given, **more})
    return with_doubts(appraisal, found), found


@pytest.mark.parametrize("per", ["step", "session"])
def test_a_true_log_passes_and_its_numbers_are_those_of_the_rows(per: Per) -> None:
    made = drawn(1800, seed=2)
    seen = evidence(made, per)
    appraisal, found = examined(made, seen)
    report = appraisal.policies[0]
    assert report.estimate.verdict == "supported" and report.words == ()
    assert found["failed"] == {} and found["disagreement"] == {}
    folds = found["folds"]["new"]
    assert len(folds) == 6 and {type(one["episodes"]) for one in folds} == {int}
    assert sum(one["episodes"] for one in folds) == len(seen.user)
    rows = made.episode < 300  # the first of six equal folds
    assert folds[0]["mean_weight"] == pytest.approx((made.other / made.propensity)[rows].mean())
    assert folds[0]["label"] == "2023-11-14 to 2023-11-27" and folds[5]["label"].endswith(" to 2024-01-28")
    first = evidence(
        Drawn(**{name: getattr(made, name)[rows] for name in ("item", "reward", "propensity", "other", "slot")},
              episode=made.episode[rows], user=made.user[:300]), per,
    )  # fmt: skip
    alone = appraise([first], AppraisalConfig(question=Question(per=per), estimator=report.chosen)).policies[0].estimate
    assert [folds[0][end] for end in ("value", "low", "high")] == pytest.approx([alone.value, alone.low, alone.high])
    assert found["drift"]["new"]["drifts"] is False and "no more apart than chance" in found["drift"]["new"]["words"][0]
    plot = found["overlap"]["new"]
    assert sum(plot["counts"]) == 5400 and len(plot["edges"]) == len(plot["counts"]) + 1
    assert 10 ** plot["edges"][-1] == pytest.approx((made.other / made.propensity).max())
    if per == "session":
        weight = last_weights(seen.weights, seen.episode)
        assert plot["step_ess"][2] == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
        assert len(plot["step_ess"]) == 3 and "over all 3 steps" in plot["words"][1]
    else:
        assert plot["step_ess"] == []
    checks = {one["name"]: one for one in found["controls"]["new"]}
    mean = checks["reward 1 an impression"]
    assert mean["value"] == pytest.approx((made.other / made.propensity).mean()) and mean["passed"] is True
    weights = made.other / made.propensity
    assert checks["position (placebo)"]["value"] == pytest.approx(
        (weights * made.slot).mean() / weights.mean(), abs=1e-3
    )
    assert {one["passed"] for one in found["controls"]["new"]} == {True, None}
    strength = checks["would notice propensities 10% too high"]
    assert strength["value"] == 1.0 and strength["expected"] is None
    assert "the items' shares differ between folds no more than chance makes them" in found["logger"]
    assert any("estimators agree" in one for one in found["notes"])
    assert document([appraisal], [found])["controls"] == json.loads(json.dumps(found["controls"]))


def test_propensities_that_are_too_high_cap_the_verdict_at_weak() -> None:
    made = drawn(1800, seed=2)
    right, wrong = evidence(made), evidence(made, scale=1 / 1.1)
    appraisal, found = examined(made, right, replace(wrong, policy="wrong"))
    sure, off = appraisal.policies
    assert sure.estimate.verdict == "supported" and off.estimate.verdict == "weak"
    assert {one.verdict for one in off.estimates} == {"weak"}
    assert "propensities are too high" in off.words[0] and off.words[0] in off.estimate.warnings
    assert list(found["failed"]) == ["wrong"]
    assert any(one["passed"] is False for one in found["controls"]["wrong"])


def test_weights_that_go_with_what_was_settled_before_fail_their_placebo() -> None:
    made = drawn(1800, seed=2)
    lean = np.where(made.slot == 1, 1.15, 0.85)  # right on the whole, wrong in each slot
    appraisal, found = examined(made, evidence(made, scale=lean))
    failed = [one["name"] for one in found["controls"]["new"] if one["passed"] is False]
    assert "position (placebo)" in failed and "reward 1 an impression" not in failed
    assert appraisal.policies[0].estimate.verdict == "weak" and "position" in appraisal.policies[0].words[0]


def test_propensities_wrong_for_a_while_fail_in_their_fold() -> None:
    made = drawn(1800, seed=2)
    late = np.where(made.episode >= 1500, 1.35, 1.0)
    _, found = examined(made, evidence(made, scale=late))
    failed = [one["name"] for one in found["controls"]["new"] if one["passed"] is False]
    assert f"reward 1 an impression, {found['folds']['new'][5]['label']}" in failed
    assert f"reward 1 an impression, {found['folds']['new'][0]['label']}" not in failed


def test_drift_is_said_and_caps_nothing() -> None:
    made = drawn(1800, seed=2)
    rng = np.random.default_rng(0)
    fading = replace(made, reward=made.reward * (rng.random(5400) > made.episode / 2400))
    item = np.where(made.episode < 900, made.item, 1)
    appraisal, found = examined(fading, evidence(fading), item=item)
    report = appraisal.policies[0]
    assert found["drift"]["new"]["drifts"] is True and report.estimate.verdict == "supported"
    assert "changes over time" in report.words[0] and any(one.startswith("new: the value by") for one in found["notes"])
    assert any("what is shown changed between folds 2 and 3" in one for one in found["logger"])
    assert any(one.startswith("the logging policy: what is shown changed") for one in found["notes"])


def test_estimators_that_disagree_are_named() -> None:
    made = drawn(1800, seed=2)
    appraisal, found = examined(made, evidence(made, off=0.3))
    assert "pairs of estimators differ by more than noise" in found["disagreement"]["new"][0]
    assert "the reward model is biased" in appraisal.policies[0].words[-1]
    assert appraisal.policies[0].estimate.verdict == "supported"


def test_what_cannot_be_made_is_said_in_a_note() -> None:
    made = drawn(1800, seed=2)
    bare = replace(evidence(made), policy="bare", ratios=None)
    same = replace(evidence(made), policy="same", ratios=np.full(5400, 1 + 1e-5))
    bits = {"time": None, "item": None, "covariates": {"flat": np.ones(5400)}}
    appraisal, found = examined(made, evidence(made), bare, same, **bits)
    notes = "\n".join(found["notes"])
    assert "folds in time: not to be had: the log has no times" in notes and found["folds"] == {}
    assert "bare: overlap, controls and disagreement need weights: the log has no propensities" in notes
    assert "same: does as the logger did" in notes and list(found["overlap"]) == ["new"]
    assert "placebos: flat cannot serve" in notes and "nothing that varies is known before the choice" in notes
    assert {one["name"] for one in found["controls"]["new"]} == {"reward 1 an impression"}
    assert all(one.words == () for one in appraisal.policies)
    several = examined(made, evidence(made), item=None)[1]["notes"]
    assert any("the logging policy over time: not to be had: steps show several items" in one for one in several)


def test_small_and_still_logs_get_fewer_folds_or_none() -> None:
    made = drawn(120, seed=2)
    _, found = examined(made, evidence(made))
    assert len(found["folds"]["new"]) == 6
    assert any(
        "controls by time: not to be had: not even two folds in time have 100 users" in n for n in found["notes"]
    )
    late = replace(made, reward=np.where(made.episode < 60, 0.0, made.reward))  # no click in half of the log
    _, still = examined(late, replace(evidence(late, per="step"), values=None))
    assert "new" not in still["folds"]
    assert any(one.startswith("new, folds in time: not to be had: the terms of") for one in still["notes"])
    _, together = examined(made, evidence(made), time=np.full(360, DAY))
    assert any("fold 0 of 2 is empty" in one for one in together["notes"])


def test_folds_are_named_by_their_dates_or_numbers() -> None:
    assert moment(DAY, np.array([DAY, DAY + 86400])) == "2023-11-14 22:13"
    assert moment(DAY, np.array([DAY, DAY + 40 * 86400])) == "2023-11-14"
    assert moment(12.5, np.array([0.0, 20.0])) == "12.5"
    cuts = stretches(np.arange(240.0), np.arange(240))
    assert [len(one.labels) for one in cuts] == [4, 2] and cuts[1].labels == ("0 to 119", "120 to 239")


def test_what_is_settled_before_a_step_knows_nothing_of_it() -> None:
    who, episode = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 2, 2])
    found = settled(DAY + np.array([0.0, 60, 7200, 0, 3600]), who, episode, np.array([1.0, 2, 4, 8, 16]))
    assert found["step of the session"].tolist() == [0, 1, 0, 0, 1]
    assert found["steps of the user before"].tolist() == [0, 1, 2, 0, 1]
    assert found["reward of the user before"].tolist() == [0, 1, 3, 0, 8]
    assert found["hour of the day"].tolist() == [22, 22, 0, 22, 23]
    assert set(settled(None, who, episode, np.zeros(5))) == {
        "step of the session", "steps of the user before", "reward of the user before"
    }  # fmt: skip


def test_the_page_of_a_run_shows_the_sections_and_every_note(tmp_path: Path) -> None:
    made = drawn(600, seed=2)
    seen = evidence(made, scale=1 / 1.2)
    appraisal, found = examined(made, seen)
    run = Run(tmp_path)
    write_json(run.appraisal, document([appraisal], [found]))
    write_run_pages(run, card({}), [], None, None)
    page = next(tmp_path.rglob("report.md")).read_text()
    assert found["notes"] and all(note in page for note in found["notes"])
    assert "## Whether the logs can answer" in page and "Folds in time: new" in page and "Overlap: new" in page
    assert "the negative control 'reward 1 an impression' failed" in page
