"""The report on logs alone: the numbers of arrays, what stands in its file, and what it refuses to say."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from experiments.__main__ import main
from experiments.ope import propensities
from experiments.ope import report as stage
from experiments.ope.report import LogReport, judge, read, write_log_report
from experiments.ope.rows import LogColumns
from experiments.ope.steps import known_before, popularity, segments
from recgym.ope.appraisal import Appraisal, AppraisalConfig, PolicyReport, appraise
from recgym.ope.diagnostics import Question
from recgym.ope.evidence import Per
from recgym.ope.fqe import FitConfig
from recgym.ope.off_policy import ModelConfig, evidence_of
from recgym.ope.targets import TableTarget
from recgym.types import Transitions
from tests.experiments.ope.logs import CLICKS, ITEMS, OTHER, Drawn, drawn, sample_table, write

pytestmark = [pytest.mark.experiments, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
QUICK = FitConfig(width=16, rank=4, rounds=3, updates=20, learning_rate=1e-5)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that are learned in no time."""
    monkeypatch.setattr(stage, "FITTING", QUICK)
    monkeypatch.setattr(propensities, "FOLDS", 2)


def settings(path: Path, *policies: str, **more: Any) -> LogReport:
    return LogReport(logs=path, policies=policies or ("new=column:prob_other",), replicates=100, **more)


def report(path: Path, *policies: str, per: Per = "step", **more: Any) -> Appraisal:
    asked = settings(path, *policies, **more)
    return judge(read(asked), asked, per)[0]


def by_arrays(made: Drawn, per: Per) -> PolicyReport:
    """The same question asked of the arrays, without any file."""
    last, place = np.arange(2, len(made.item), 3), (np.arange(len(made.item)) % 3)[:, None].astype(np.float32)
    state = made.slot[:, None].astype(np.float32)
    logged = Transitions(
        context=place / np.float32(100), state=state, items=None, history=None, mask=None, action=made.item[:, None],
        feedback=made.reward.astype(np.float32)[:, None, None], reward=made.reward.astype(np.float32),
        terminated=place[:, 0] == 2, truncated=np.zeros(len(made.item), np.bool_), propensity=made.propensity,
        episode=made.episode, user=made.user, final_context=np.full((len(last), 1), 0.03, np.float32),
        final_state=state[last],
    )  # fmt: skip
    target = TableTarget(name="new", table=OTHER, kind=made.slot, item=made.item)
    models = ModelConfig(fitting=QUICK)
    evidence = evidence_of(logged, target, per=per, config=models, position=made.slot if per == "step" else None)
    return appraise([evidence], AppraisalConfig(question=Question(per=per, replicates=100))).policies[0]


@pytest.mark.parametrize("per", ["step", "session"])
def test_a_flat_file_gives_the_numbers_of_its_arrays(tmp_path: Path, per: Per) -> None:
    made = drawn(200)
    cells = [(item, slot + 1, OTHER[slot, place]) for slot in range(2) for place, item in enumerate(ITEMS)]
    table = pl.DataFrame(cells, schema=["item", "position", "probability"], orient="row")
    write(table, tmp_path / "new.csv")
    path = write(made.table, tmp_path / "log.csv")
    found = report(path, f"new={tmp_path / 'new.csv'}", "column=column:prob_other", per=per)
    expected, alone = by_arrays(made, per), found.policies[1]
    for one, other in zip(found.policies[0].estimates, expected.estimates, strict=True):
        assert one.estimator == other.estimator and one.verdict == other.verdict
        if not math.isnan(other.value):
            np.testing.assert_allclose([one.value, one.low, one.high], [other.value, other.low, other.high], atol=1e-6)
    known = {one.estimator: one for one in alone.estimates}
    for one in expected.estimates:  # a column weighs as the table does, and cannot be asked for the rest
        if one.estimator in ("IPS", "SNIPS", "per-decision IS"):
            assert known[one.estimator].value == pytest.approx(one.value, abs=1e-12)
    model = known["DM" if per == "step" else "FQE"]
    assert model.verdict == "cannot say" and "known by the probability of what was shown alone" in model.warnings[0]
    truth = (OTHER * CLICKS).sum(axis=1).mean() * (1 if per == "step" else 3)
    assert found.policies[0].chosen == ("SNDR" if per == "step" else "weighted DR")
    names = {one.estimator: one for one in found.policies[0].estimates}
    best = names["SNDR" if per == "step" else "weighted DR"]
    assert abs(best.value - truth) < best.high - best.low


def test_production_is_its_own_mean_whatever_is_known(tmp_path: Path) -> None:
    made = drawn(50)
    for table in (made.table, made.table.drop("propensity")):
        found = report(write(table, tmp_path / "log.csv"), "logged", "uniform")
        assert found.policies[0].estimate.value == pytest.approx(made.reward.mean(), abs=1e-12)
        assert found.production.value == pytest.approx(made.reward.mean(), abs=1e-12)
        assert found.policies[0].difference is None and found.policies[0].statement is None
        others = report(tmp_path / "log.csv", "uniform")
        assert found.policies[1].difference == others.policies[0].difference  # it is not one of several policies


def test_without_propensities_nothing_is_weighed_and_the_way_out_is_said(tmp_path: Path) -> None:
    path = write(drawn(50).table.drop("propensity"), tmp_path / "log.csv")
    (found,) = report(path, "new=column:prob_other").policies
    assert {one.verdict for one in found.estimates} == {"cannot say"}
    ips = next(one for one in found.estimates if one.estimator == "IPS")
    assert "150 of 150 rows have no logged propensity" in ips.warnings[0]
    assert "--propensities estimate" in ips.warnings[0] and math.isnan(ips.value)


def test_estimated_propensities_come_near_and_their_effect_is_shown(tmp_path: Path) -> None:
    made = drawn(300)
    half = np.arange(len(made.item)) < 450
    table = made.table.with_columns(propensity=pl.when(pl.Series(half)).then("propensity"))
    write_log_report(
        settings(write(table, tmp_path / "log.csv"), propensities="estimate", per="step"), tmp_path / "out"
    )
    document = json.loads((tmp_path / "out" / "appraisal.json").read_text())
    facts = document["propensities"]
    assert (facts["known"], facts["unknown"], facts["estimated"]) == (450, 450, True)
    effect = facts["effect"]["new"]
    assert effect["rows"] == 450 and abs(effect["difference"]["value"]) < 0.04
    assert effect["ratio"][1] == pytest.approx(1, abs=0.1)
    best = document["appraisals"][0]["policies"][0]["estimate"]
    assert abs(best["value"] - (OTHER * CLICKS).sum(axis=1).mean()) < 0.06
    assert "450 of 900 propensities are estimated" in " ".join(best["warnings"]) and best["verdict"] == "weak"


def test_a_logger_without_choice_cannot_be_weighed(tmp_path: Path) -> None:
    made = drawn(60)
    fixed = np.array(ITEMS)[made.slot * 2]
    table = made.table.drop("propensity").with_columns(item=pl.Series(fixed))
    asked = settings(write(table, tmp_path / "log.csv"), "uniform", "logged", propensities="estimate")
    reading = read(asked)
    assert reading.propensities.facts["logger"] == "deterministic"
    found = judge(reading, asked, "step")[0].policies[0]
    ips = next(one for one in found.estimates if one.estimator == "IPS")
    assert ips.verdict == "cannot say" and "(almost) deterministic" in ips.warnings[0]


def test_features_that_hardly_vary_are_left_out(tmp_path: Path) -> None:
    made = drawn(60)
    place = np.arange(180)
    table = made.table.with_columns(rare=(place < 17).astype(int), enough=(place < 18).astype(int), same=pl.lit(3))
    path = write(table, tmp_path / "log.csv")
    rows = read(settings(path, columns=LogColumns(context=("rare", "enough", "same", "age")))).rows
    found = known_before(rows)
    assert found.shape == (180, 2)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-12)


def test_segments_are_cut_as_they_are_called(tmp_path: Path) -> None:
    made = drawn(60)
    asked = settings(write(made.table, tmp_path / "log.csv"), segments=("device",))
    rows = read(asked).rows
    found = segments(rows, "session", asked.segments)
    second = np.arange(60) % 2 == 1  # each user's second session
    assert found["user"] == np.where(second, "known (up to 3 impressions before)", "new").tolist()
    assert found["device"] == np.where(made.user % 2, "phone", "desk").tolist()
    assert found["time"] == ["first third"] * 20 + ["middle third"] * 20 + ["last third"] * 20
    assert "position" not in found
    steps = segments(rows, "step", ())
    assert steps["position"] == [str(one + 1) for one in made.slot]
    with pytest.raises(ValueError, match="no column 'country'; there is device"):
        segments(rows, "step", ("country",))


def test_a_segment_of_items_is_the_reward_of_showing_them(tmp_path: Path) -> None:
    made = drawn(400)
    asked = settings(write(made.table, tmp_path / "log.csv"))
    label = popularity(read(asked).rows)
    count = np.bincount(made.item, minlength=5)[1:]
    assert set(label[made.item == 1 + count.argmax()]) == {"head"}
    assert set(label[made.item == 1 + count.argmin()]) == {"tail"}
    weight = made.other / made.propensity
    found = judge(read(asked), asked, "step")[0].policies[0].segments
    parts = {one.label: one for one in found if one.name == "item popularity"}
    for name in ("head", "tail"):
        mine = label == name
        expected = (weight * made.reward)[mine].sum() / weight[mine].sum()
        assert parts[name].estimate.value == pytest.approx(expected, abs=1e-12)
        assert parts[name].production.value == pytest.approx(made.reward[mine].mean(), abs=1e-12)
        assert parts[name].estimate.verdict == "supported"  # a mean weight far from 1 is no fault there


def test_the_command_line_works_on_logs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"item": "item_id", "reward": "bought", "user": "who", "propensity": "mu"}
    path = write(drawn(100).table.rename(names), tmp_path / "log.csv")
    line = ["report", "--logs", str(path), "--policies", "new=column:prob_other", "uniform", "logged"]
    columns = [part for role, name in names.items() for part in (f"--columns.{role}", name)]
    line += ["--columns.context", "age", "--per", "both", "--replicates", "50", "--segments", "device"]
    assert main([*line, *columns, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "value of a session" in said and "value of an impression" in said and "uniform" in said
    document = json.loads((tmp_path / "out" / "appraisal.json").read_text())
    assert (document["format"], document["version"]) == ("recgym-appraisal", 1)
    assert [one["per"] for one in document["appraisals"]] == ["session", "step"]
    assert document["log"]["rows"] == 300 and document["log"]["users"] == 50 and document["log"]["features"] == ["age"]
    assert len(document["log"]["files"][0]["sha256"]) == 64
    assert set(document["provenance"]) == {"command", "versions", "commit", "seconds"}
    assert [one["policy"] for one in document["appraisals"][0]["policies"]] == ["new", "uniform", "logged"]
    assert document["settings"]["columns"]["item"] == "item_id"
    for shown in (document, *document["appraisals"]):
        assert set(shown["overlap"]) == set(shown["controls"]) == {"new", "uniform"}
        assert {one["name"] for one in shown["controls"]["new"]} >= {"reward 1 an impression", "age (placebo)"}
        assert shown["logger"] and any("logged: does as the logger did" in note for note in shown["notes"])
    assert document["folds"] == document["appraisals"][0]["folds"] != document["appraisals"][1]["folds"]
    assert len(document["appraisals"][1]["folds"]["logged"]) == 6
    assert len(document["overlap"]["new"]["step_ess"]) == 3
    table = list(csv.DictReader((tmp_path / "out" / "estimates.csv").read_text().splitlines()))
    assert {one["per"] for one in table} == {"session", "step"} and table[0]["policy"] == "new"
    unknown = next(one for one in table if one["estimator"] == "FQE")
    assert unknown["value"] == "" and unknown["verdict"] == "cannot say"
    assert (tmp_path / "out" / "config.json").is_file()


def test_propensities_of_another_policy_cost_the_verdict_and_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = drawn(600)
    table = made.table.with_columns(propensity=pl.col("propensity") * 1.1)
    write_log_report(
        settings(write(table, tmp_path / "log.csv"), "new=column:prob_other", per="step"), tmp_path / "out"
    )
    document = json.loads((tmp_path / "out" / "appraisal.json").read_text())
    (policy,) = document["appraisals"][0]["policies"]
    assert policy["estimate"]["verdict"] == "weak" and "propensities are too high" in policy["words"][0]
    assert document["failed"]["new"][0] == policy["words"][0] in capsys.readouterr().out


def test_the_command_line_refuses_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(drawn(10).table.with_columns(propensity=pl.lit(0.0)), tmp_path / "log.csv")
    out = ["--out", str(tmp_path / "out")]
    assert main(["report", "--logs", str(path), "--policies", "uniform", *out]) == 1
    assert "row 2, field 'propensity': '0.0' is not a probability above 0" in capsys.readouterr().err
    lone = write(drawn(2).table, tmp_path / "lone.csv")
    assert main(["report", "--logs", str(lone), "--policies", "uniform", *out]) == 1
    assert f"{lone}: all 6 rows are of one user, but an interval needs two; log more" in capsys.readouterr().err
    assert main(["report", "--logs", str(path), *out]) == 1
    assert "needs --policies" in capsys.readouterr().err
    assert main(["report", "--policies", "uniform", *out]) == 1
    assert "give it by --logs" in capsys.readouterr().err
    assert main(["report", *out]) == 1
    assert "run `python -m experiments evaluate`" in capsys.readouterr().err


def test_a_reward_that_never_varies_tells_nobody_apart(tmp_path: Path) -> None:
    path = write(drawn(40).table.with_columns(reward=pl.lit(1.0)), tmp_path / "log.csv")
    asked = settings(path, "uniform", per="session")
    found, diagnosed = judge(read(asked), asked, "session")
    assert found.policies[0].statement == "undecided" and diagnosed["disagreement"] == {}
    assert any("the reward is 1 in every row" in note for note in diagnosed["notes"])


def test_the_samples_impressions_are_judged(tmp_path: Path) -> None:
    table = sample_table(150)
    steps = write(table, tmp_path / "log.csv")
    found = report(steps, "popular=column:prob_popular", "logged", columns=LogColumns(reward="click"))
    weight = (table["prob_popular"] / table["propensity"]).to_numpy()
    snips = next(one for one in found.policies[0].estimates if one.estimator == "SNIPS")
    assert snips.value == pytest.approx((weight * table["click"].to_numpy()).sum() / weight.sum(), abs=1e-12)
    assert found.production.value == pytest.approx(float(table["click"].cast(pl.Float64).to_numpy().mean()), abs=1e-12)


@pytest.mark.parametrize(("logger", "other"), [("random", "bts"), ("bts", "random")])
def test_the_real_open_bandit_logs_give_their_verdicts(real_data: Path, logger: str, other: str) -> None:
    if not (folder := real_data / "obd_men").is_dir():
        pytest.skip("no obd_men")
    asked = settings(
        folder / f"{logger}_men.csv.gz", f"{other}={folder / f'{other}_men.csv.gz'}", "uniform", "logged"
    )  # fmt: skip
    found, diagnosed = judge(read(asked), asked, "step")
    assert found.production.value == pytest.approx({"random": 0.0046, "bts": 0.0069}[logger], abs=1e-12)
    by_name = {one.policy: one for one in found.policies}
    assert by_name["uniform"].estimate.verdict in {"random": ("supported",), "bts": ("supported", "weak")}[logger]
    raw = pl.read_csv(folder / f"{logger}_men.csv.gz")
    weight = 1 / 34 / raw["propensity_score"].to_numpy()
    ips = next(one for one in by_name["uniform"].estimates if one.estimator == "IPS")
    assert ips.value == pytest.approx(float((weight * raw["click"].to_numpy()).mean()), abs=1e-12)
    assert {one.name for one in by_name[other].segments} >= {"position", "time", "item popularity"}
    assert diagnosed["failed"] == {} and len(diagnosed["controls"][other]) == 19  # 1 + 6 folds + 10 placebos + 2 faults
    drifts = [note for note in diagnosed["logger"] if "what is shown changed between folds" in note]
    assert len(drifts) == {"random": 0, "bts": 5}[logger]
    assert by_name["logged"].estimate.value == pytest.approx(found.production.value, abs=1e-12)
