"""What the page says of trust: every answer follows from figures known here, and alarms ring when they should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments import trust
from experiments.audit import Audit, _summary, describe
from experiments.ladder import Ladder, judge, summarise
from experiments.ladder import describe as describe_ladder
from experiments.report import render
from tests.experiments.cards import card, number, row

pytestmark = pytest.mark.experiments


def fidelity(**more: Any) -> dict[str, Any]:
    rates = {"cases": 500, "rate": 0.2, "predicted_rate": 0.21, "auc": 0.7}
    found: dict[str, Any] = {
        "alarms": [], "notes": [],
        "kinds": {"click": {**rates, "ece": 0.01, "ece_noise": 0.008},
                  "dwell": {"cases": 90, "mean": 30.0, "predicted_mean": 33.0, "log_correlation": 0.5}},
        "leave": {**rates, "ece": 0.01, "ece_noise": 0.01}, "mean_length": {"logged": 10.0, "simulated": 11.0},
        "length_distance": 0.04, "repeats": {"again": rates, "first": rates}, "cold": {"new users": rates},
        "popularity": {"items": 9, "correlation": 0.5, "spread": 0.1, "predicted_spread": 0.09},
        "transitions": {"cases": 99, "distance": 0.2, "noise": 0.19},
        "returns": {"within 1": rates, "within 7": {**rates, "rate": 0.5, "predicted_rate": 0.52}},
        "reliability": {}, "lengths": {}, "next_item": {"ndcg@10": 0.1},
    }  # fmt: skip
    return {**found, **more}


AUDIT: dict[str, Any] = {
    "agent": "a2c", "seeds": 2, "ensemble": 2, "others": {"independent": 0.05}, "alarms": ["it exploits"],
    "rows": [
        {"policy": "a2c", "pessimism": 0.0, "reward": {"trained in": {"value": 3.0, "low": 2.9, "high": 3.1},
         "independent": {"value": 2.0, "low": 1.9, "high": 2.1}},
         "over_estimation": {"independent": {"value": 0.5, "low": 0.4, "high": 0.6}}},
    ],
}  # fmt: skip
LADDER: dict[str, Any] = {"summary": [
    {"users": 20, "sessions": 100.0, "exploration": 0.25, "seeds": 2, "policies": 10, "spearman": [0.1, -0.5, 0.7],
     "regret": [0.8, 0.5, 1.1], "over_estimation": [2.0, 1.0, 3.0], "mean_over_estimation": [1.0, 0.5, 1.5]},
    {"users": 2000, "sessions": 9800.0, "exploration": 0.25, "seeds": 2, "policies": 10, "spearman": [0.95, 0.9, 1.0],
     "regret": [0.0, 0.0, 0.0], "over_estimation": [0.2, 0.1, 0.3], "mean_over_estimation": [0.1, 0.0, 0.2]},
]}  # fmt: skip


def answers(found: tuple[trust.Finding, ...]) -> dict[str, str]:
    return {one.question.split()[0] + " " + one.question.split()[1]: one.answer for one in found}


def test_good_users_answer_yes_and_missing_figures_are_called_so() -> None:
    found = answers(trust.findings(card({"a2c": 3.0}, fidelity=fidelity()), None, None))
    assert found == {
        "Compare policies": "yes", "Rank policies": "not measured", "Believe what": "not measured",
        "Forecast how": "with care", "Decide what": "with care", "Decide about": "with care",
    }  # fmt: skip


def click(predicted: float, ece: float, auc: float) -> dict[str, Any]:
    return {"kinds": {"click": {"rate": 0.2, "predicted_rate": predicted, "ece": ece, "auc": auc}}}


@pytest.mark.parametrize(
    ("change", "question", "answer"),
    [
        (click(0.2, 0.06, 0.7), "Compare policies", "no"),
        (click(0.25, 0.01, 0.7), "Compare policies", "with care"),
        (click(0.2, 0.01, 0.55), "Compare policies", "no"),
        ({"mean_length": {"logged": 10.0, "simulated": 13.0}}, "Forecast how", "no"),
        ({"cold": {"new items": {"cases": 50, "rate": 0.1, "predicted_rate": 0.2, "auc": 0.5}}}, "Decide about", "no"),
        ({"returns": None}, "Decide what", "no"),
    ],
)  # fmt: skip
def test_each_answer_follows_its_figure(change: dict[str, Any], question: str, answer: str) -> None:
    found = answers(trust.findings(card({"a2c": 3.0}, fidelity=fidelity(**change)), None, None))
    assert found[question] == answer


def test_audit_and_ladder_are_quoted() -> None:
    made = card({"a2c": 3.0}, fidelity=fidelity())
    made = replace(made, dataset={**made.dataset, "sessions": 20_000})
    found = {one.question: one for one in trust.findings(made, AUDIT, LADDER)}
    ranked = found["Rank policies of different kinds by long-term reward"]
    assert ranked.answer == "with care"
    assert "9,800 sessions" in ranked.why and "0.95 to 0.95" in ranked.why
    believed = found["Believe what a policy earns in the users that it was trained in"]
    assert believed.answer == "no"
    assert "+50% [+40%, +60%]" in believed.why and "+5%" in believed.why


def test_the_truth_beats_the_ladder_where_it_is_known() -> None:
    rows = tuple(row(f"p{k}", float(k), truth=number(float(k if k else 9))) for k in range(4))
    made = card({}, rows=rows, fidelity=fidelity())
    found = {one.question: one for one in trust.findings(made, None, LADDER)}
    assert "3 of 6 pairs" in found["Rank policies of different kinds by long-term reward"].why


def test_alarms_ring_for_few_items_for_riches_and_for_guesswork() -> None:
    assert trust.alarms(card({"a2c": 1.2}, logged_high=5.0), None) == ()
    rows = (replace(row("ppo", 6.0, "trained", doubt=0.7), coverage=0.01), row("random", 1.0, doubt=0.1))
    found = trust.alarms(card({}, rows=rows, logged_high=5.0), AUDIT)
    assert len(found) == 4
    assert "only 1.0% of the catalogue" in found[0]
    assert "only one logged session in a hundred earned more than 5.00" in found[1]
    assert "disagrees about ppo by 70%" in found[2]
    assert found[3] == "it exploits"


def test_the_page_shows_all_of_it() -> None:
    made = card({"a2c": 3.0}, fidelity=fidelity())
    page = render(made, {"stages": {}}, AUDIT, LADDER)
    for text in ("What these simulated users can be used to decide", "it exploits", "Held-out calibration", "+5.0%",
                 "Exploitation audit", "3.00 [2.90, 3.10]", "The ladder", "0.95 [0.90, 1.00]", "total variation 0.200",
                 "Kolmogorov-Smirnov distance 0.040", "back within 7 days"):  # fmt: skip
        assert text in page, text
    assert "Exploitation audit" not in render(made, {"stages": {}})


def test_a_rung_is_judged_by_order_regret_and_over_estimation() -> None:
    found = judge({"a": [1.0, 1.0], "b": [2.0, 4.0], "c": [3.0, 2.0]})
    assert found["spearman"] == pytest.approx(0.5)
    assert found["regret"] == pytest.approx(2 / 3)  # c is chosen and earns 2, where b earns 4 and a 1
    assert found["over_estimation"] == pytest.approx(0.5)
    assert found["mean_over_estimation"] == pytest.approx((0 - 0.5 + 0.5) / 3)
    assert judge({"a": [1.0, 5.0], "b": [2.0, 6.0]})["spearman"] == pytest.approx(1)


def test_rungs_are_summed_up_over_seeds() -> None:
    rungs = [
        {"users": 20, "exploration": 0.25, "seed": s, "sessions": 100 + s, "policies": {"a": [1, 1]},
         "spearman": 0.2 * s, "regret": 0.0, "over_estimation": 1.0, "mean_over_estimation": 0.5} for s in range(3)
    ]  # fmt: skip
    (found,) = summarise(rungs)
    assert found["spearman"][0] == pytest.approx(0.2)
    assert found["spearman"][2] - 0.2 == pytest.approx(4.3027 * 0.2 / 3**0.5, abs=1e-3)  # t of 2 degrees of freedom
    assert found["regret"] == [0.0, 0.0, 0.0]
    assert "0.20 [-0.30, 0.70]" in describe_ladder([found]) and "+100%" in describe_ladder([found])
    for wrong in ({"users": (5,)}, {"exploration": (0.0,)}, {"seeds": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Ladder(**wrong)


def test_the_audit_finds_exploitation_and_clears_who_does_not(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)

    def rewards(mean: float) -> np.ndarray[Any, np.dtype[np.float64]]:
        return rng.normal(mean, 0.1, 400)

    def seed(gain: float) -> dict[Any, Any]:
        worlds = {"trained in": rewards(2.0 * gain), "independent": rewards(2.0)}
        return {("a2c", 0.0): worlds, ("a2c", 1.0): {"trained in": rewards(2.2), "independent": rewards(2.0)},
                ("random", None): {"trained in": rewards(1.1), "independent": rewards(1.0)}}  # fmt: skip

    settings = Audit(out=tmp_path, seeds=3)
    found = _summary(settings, {k: seed(1.8 + 0.01 * k) for k in range(3)})
    assert len(found["alarms"]) == 1
    assert "a2c with pessimism 0 earns 8" in found["alarms"][0]
    gaps = {(one["policy"], one["pessimism"]): one["over_estimation"]["independent"] for one in found["rows"]}
    assert gaps["a2c", 1.0]["value"] == pytest.approx(0.1, abs=0.02)
    assert gaps["random", None]["value"] == pytest.approx(0.1, abs=0.03)
    assert "a2c, pessimism 1" in describe(found)
    with pytest.raises(ValueError, match="seeds is 1, expected at least 2"):
        Audit(out=tmp_path, seeds=1)
