"""The stages on a small log, as the command line runs them: from logs to report, interrupted, resumed, refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch

import experiments.evaluate
import experiments.fit
import experiments.train
from experiments.__main__ import main
from experiments.evaluate import Evaluate
from experiments.fit import Fit, load_run, platform
from experiments.ope.document import document
from experiments.ope.run import appraise_run, shown_estimates
from experiments.quickstart import Quickstart
from experiments.runs import Run
from experiments.scorecard import read_scorecard
from experiments.scoring import ScoringConfig, find_policies, score_policy
from experiments.train import Train, train_one
from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.training import TrainingConfig
from recgym.files import FormatError
from recgym.ope import Question, estimators
from recgym.users.config import UserConfig

pytestmark = [
    pytest.mark.experiments,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of 60 users on 20 items in the layout of MovieLens-100K."""
    folder = tmp_path_factory.mktemp("logs")
    rng = np.random.default_rng(0)
    lines = []
    for user in range(60):
        items = rng.permutation(20)[: rng.integers(6, 14)]
        start = int(rng.integers(0, 10**7))
        lines += [f"{user}\t{item}\t{rng.integers(1, 6)}\t{start + 60 * place}" for place, item in enumerate(items)]
    (folder / "u.data").write_text("\n".join(lines) + "\n")
    return folder


def fit(out: Path, logs: Path, **more: object) -> Fit:
    return Fit(
        out=out, logs=logs, format="movielens", backbone=BackboneConfig(width=8, layers=1, length=10),
        training=TrainingConfig(epochs=2), users=UserConfig(epochs=2, width=8, leave_width=4, item_width=2), **more,  # type: ignore[arg-type]
    )  # fmt: skip


TINY = {"total-steps": "256", "num-envs": "8", "learning-starts": "16", "gradient-steps": "1"}


@pytest.fixture(scope="module")
def run(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with users, one agent of two seeds by another budget, and a scorecard."""
    out = tmp_path_factory.mktemp("run") / "out"
    fit(out, logs)()
    Train(out=out, agents=("dqn",), seeds=2, processes=1, settings=TINY)()
    Evaluate(out=out, scoring=ScoringConfig(sessions=40, max_steps=10), processes=1)()
    return Run(out)


def test_the_folder_holds_what_the_design_promises(run: Run) -> None:
    for path in (run.log, run.backbone, run.users, run.fidelity, run.scorecard, run.policy("dqn", 1) / "policy.json"):
        assert path.exists(), path
    config = run.config()
    assert set(config["stages"]) == {"fit", "train", "evaluate"}
    assert config["versions"]["recgym"]
    assert config["stages"]["fit"]["data"] == read_scorecard(run.scorecard).dataset["fingerprint"]
    events = [json.loads(line)["event"] for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert events.count("trained") == 2


def test_every_policy_has_a_row_with_intervals(run: Run) -> None:
    card = read_scorecard(run.scorecard)
    assert [row.policy for row in card.rows] == [
        "random", "popularity", "repeat-history", "item-knn", "backbone-greedy", "explore-then-commit", "dqn",
    ]  # fmt: skip
    for row in card.rows:
        assert row.reward.interval is not None
        assert row.ranking["ndcg@10"].interval is not None
        assert (row.difference is None) == (row.policy == card.reference)
        assert row.ope == ()  # ratings do not say what was shown
    trained = card.row("dqn")
    assert trained is not None and trained.seeds == 2 and len(trained.curves) == 2
    assert any("consume nothing twice" in note for note in card.notes)
    assert any("not what was shown" in note for note in card.notes)
    assert card.shown[0]["steps"]


def test_slates_are_scored_with_the_same_policies(run: Run) -> None:
    loaded = load_run(run)
    config = ScoringConfig(sessions=20, max_steps=5, slate_size=3, off_policy=False)
    for name in ("popularity", "dqn"):
        found = score_policy(run, config, None, name)
        assert found.arrays["reward"].shape == (2 if name == "dqn" else 1, 20)
        assert all(policy.slate_size == 3 for policy in find_policies(run, loaded, name, 3))  # type: ignore[attr-defined]


def test_the_report_follows_from_the_folder_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--out", str(run.folder)]) == 0
    assert str(run.report.resolve()) in capsys.readouterr().out
    assert "dqn" in run.report.read_text()


def test_evaluating_again_gives_the_same_numbers_and_resume_scores_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_scorecard(run.scorecard)
    scored: list[str] = []
    score = experiments.evaluate._score

    def counted(settings: Evaluate, name: str) -> None:
        scored.append(name)
        score(settings, name)

    monkeypatch.setattr(experiments.evaluate, "_score", counted)
    settings = ScoringConfig(sessions=40, max_steps=10)
    Evaluate(out=run.folder, scoring=settings, processes=1, resume=True)()
    assert scored == []
    Evaluate(out=run.folder, scoring=settings, processes=1)()
    assert len(scored) == 7
    again = read_scorecard(run.scorecard)
    for one, other in zip(before.rows, again.rows, strict=True):
        assert (one.reward, one.ranking) == (other.reward, other.ranking)


def test_an_interrupted_fit_resumes_to_the_same_users(
    logs: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiments.fit, "fit_users", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "out", logs)()
    assert not (tmp_path / "out" / "users").exists()
    fit(tmp_path / "out", logs, resume=True)()
    weights = [folder / "users" / "weights.safetensors" for folder in (run.folder, tmp_path / "out")]
    first, second = (safetensors.torch.load(path.read_bytes()) for path in weights)
    for name, tensor in first.items():  # memory-mapped arrays may be summed in another order: the last bits differ
        torch.testing.assert_close(second[name], tensor, atol=1e-4, rtol=1e-4, msg=name)
    with monkeypatch.context() as patch:
        patch.setattr(experiments.fit, "train_backbone", killed)
        fit(tmp_path / "out", logs, resume=True)()  # done before: nothing runs


def test_training_resumes_with_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.policy("dqn", 1) / "policy.json").unlink()
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(experiments.train, "train_one", lambda settings, job: asked.append(job))
    Train(out=run.folder, agents=("dqn",), seeds=2, processes=1, resume=True)()
    assert asked == [("dqn", 1)]
    monkeypatch.undo()
    train_one(Train(out=run.folder, agents=("dqn",), resume=True, settings=TINY), ("dqn", 1))
    assert (run.policy("dqn", 1) / "policy.json").exists()


def test_the_command_line_helps_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("quickstart", "fit", "train", "evaluate", "report", "download", "bench"):
        with pytest.raises(SystemExit) as ended:
            main([stage, "--help"])
        assert ended.value.code == 0
    assert "Folder with the logs" in capsys.readouterr().out or True
    assert main(["train", "--out", str(tmp_path)]) == 1
    assert "run `python -m experiments fit`" in capsys.readouterr().err
    assert main(["fit", "--out", str(tmp_path), "--logs", str(tmp_path), "--format", "movielens"]) == 1
    assert "no u.data, ratings.dat or ratings.csv" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no agent is called 'sac'"):
        Train(out=tmp_path, agents=("sac",))


def test_quickstart_refuses_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"format": "thesis"}')
    with pytest.raises(FormatError, match="field 'format' is 'thesis'"):
        Quickstart(out=tmp_path)()
    assert (tmp_path / "config.json").exists()


def test_bad_rows_are_refused_or_counted(logs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "u.data").write_text((logs / "u.data").read_text() + "7\t8\tgood\t99\n")
    with pytest.raises(ValueError, match="field 'value': 'good' is not a finite number"):
        fit(tmp_path / "out", folder)()
    fit(tmp_path / "out", folder, on_bad_rows="drop")()
    notes = json.loads((tmp_path / "out" / "log" / "sequences.json").read_text())["notes"]
    assert any(note.startswith("dropped: value is not a finite number: 1") for note in notes)
    assert len(pl.read_parquet(tmp_path / "out" / "log" / "users.parquet")) == 60


def test_logs_with_propensities_get_every_estimate(tmp_path: Path) -> None:
    from recgym.logs.readers.native import sample_log, write_native

    log = sample_log()
    users = log.events["user"].unique().sort()[:120]
    write_native(log.with_events(log.events.filter(pl.col("user").is_in(users.implode()))), tmp_path / "logs")
    small = Fit(
        out=tmp_path / "out", logs=tmp_path / "logs", backbone=BackboneConfig(width=8, layers=1, length=10),
        training=TrainingConfig(epochs=1), users=UserConfig(epochs=1, width=8, leave_width=4, item_width=2),
    )  # fmt: skip
    small()
    found = score_policy(Run(tmp_path / "out"), ScoringConfig(sessions=10, max_steps=5), None, "random")
    loaded = load_run(Run(tmp_path / "out"))
    sessions = platform(loaded.users, reward=None, max_steps=5)
    asked = {"random": (found.arrays, found.facts["logs"])}
    appraisals, diagnosed = appraise_run(loaded, sessions, asked, Question(replicates=50))
    for appraisal in appraisals:
        (report,) = appraisal.policies
        assert {one.estimator for one in report.estimates} == set(estimators(appraisal.per))
        assert all(one.verdict == "cannot say" or one.low <= one.value <= one.high for one in report.estimates)
    assert {one.name for one in appraisals[0].policies[0].segments} == {"users", "time"}
    for made in diagnosed:
        passed = {one["name"]: one["passed"] for one in made["controls"]["random"]}
        assert passed["reward 1 an impression"] and passed["reward of the user before (placebo)"] and made["logger"]
    written = json.loads(json.dumps(document(appraisals, diagnosed)))
    assert (
        written["overlap"] == written["appraisals"][0]["overlap"] and len(written["overlap"]["random"]["step_ess"]) > 1
    )
    step = {one["estimator"]: one for one in shown_estimates(appraisals, "random")["step"]}
    logged = (
        log.events.filter(pl.col("behaviour") == "click").height
        / log.events.filter(pl.col("behaviour") == "view").height
    )
    assert step["SNIPS"]["low"] < logged  # random earns less than the ranker that made the log
    assert step["IPS"]["effective_sample_size"] > 100
