"""Training learns what there is to learn, resumes to the same weights, and predicts each step once."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from recgym.backbones import checkpoints
from recgym.backbones import training as module
from recgym.backbones.backbone import BACKBONES, Backbone, BackboneConfig, fingerprint, make_backbone, module_of
from recgym.backbones.epochs import Curve, Learner
from recgym.backbones.objectives import LOSSES, LossConfig, Negatives, loss_of
from recgym.backbones.ragged import Ragged
from recgym.backbones.ranking import rank_targets, ranker_of
from recgym.backbones.training import TrainingConfig, train_backbone, training_windows
from recgym.files import FormatError
from recgym.logs import splits
from recgym.metrics import hit_rate
from tests.backbones.test_ranking import sequences

CYCLE = sequences([[(start + step) % 7 + 1 for step in range(24)] for start in range(30)], 7)
"""Item j is always followed by j + 1, around a circle of seven."""
ROLES = np.tile(np.repeat(np.array([0, 1, 2], np.int8), [18, 3, 3]), 30)
SMALL = TrainingConfig(epochs=12, batch_size=4, learning_rate=1e-2)


LEARNERS = [
    ("gru", "cross-entropy"), ("rnn", "cross-entropy"), ("gru4rec", "bpr-max"), ("decoder", "cross-entropy"),
    ("fpmc", "bpr"), ("hybrid", "cross-entropy"), ("caser", "bce"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "loss"), [*LEARNERS, *(("sasrec", loss) for loss in LOSSES)])
def test_a_deterministic_successor_is_learned(model: str, loss: str, tmp_path: Path) -> None:
    config = BackboneConfig(model=model, width=16, layers=1, length=6, dropout=0.0)
    settings = replace(SMALL, loss=LossConfig(name=loss, negatives=4, shared=loss == "bpr"))
    trained = train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path)
    test = np.flatnonzero(ROLES == splits.TEST)
    ranks = rank_targets(ranker_of(trained.backbone, CYCLE), CYCLE, test, length=6)
    assert hit_rate(ranks, 1).mean() == 1.0
    assert trained.curve[trained.best_epoch]["ndcg@10"] == max(row["ndcg@10"] for row in trained.curve)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == len(trained.curve)


@pytest.mark.parametrize("model", sorted(BACKBONES))
def test_a_killed_run_resumes_to_the_same_weights(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = BackboneConfig(model=model, width=8, length=6)
    settings = TrainingConfig(epochs=4, batch_size=16, patience=10)
    whole = train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path / "whole")
    epoch = module._epoch

    def killed(work: module._Work, number: int) -> float:
        if number == 2:
            raise KeyboardInterrupt
        return epoch(work, number)

    monkeypatch.setattr(module, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path / "killed")
    monkeypatch.setattr(module, "_epoch", epoch)
    resumed = train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path / "killed", resume=True)
    assert fingerprint(resumed.backbone) == fingerprint(whole.backbone)
    assert _timeless(resumed.curve) == _timeless(whole.curve)


def _timeless(curve: Curve) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in curve]


def test_a_longer_run_goes_on_from_a_shorter_one_and_not_the_other_way(tmp_path: Path) -> None:
    config, settings = BackboneConfig(width=8, length=6, model="sasrec"), TrainingConfig(epochs=5, batch_size=16)
    whole = train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path / "whole")
    few = replace(settings, epochs=2, patience=1)
    train_backbone(CYCLE, ROLES, config, few, folder=tmp_path / "longer")
    longer = train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path / "longer", resume=True)
    assert fingerprint(longer.backbone) == fingerprint(whole.backbone)
    assert _timeless(longer.curve) == _timeless(whole.curve)
    with pytest.raises(FormatError, match="trained for 5 epochs already, longer than epochs 2 and patience 1 say"):
        train_backbone(CYCLE, ROLES, config, few, folder=tmp_path / "longer", resume=True)


def test_from_a_damaged_checkpoint_the_one_before_leads_to_the_same_weights(tmp_path: Path) -> None:
    config, settings = BackboneConfig(width=8, length=6, model="sasrec"), TrainingConfig(epochs=3, batch_size=16)
    whole = train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path)
    path = tmp_path / checkpoints.LAST
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.warns(UserWarning, match=r"last\.pt: damaged .* going on from previous\.pt"):
        resumed = train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path, resume=True)
    assert fingerprint(resumed.backbone) == fingerprint(whole.backbone)
    assert (tmp_path / checkpoints.DAMAGED).exists()
    assert len(checkpoints._read(tmp_path / checkpoints.PREVIOUS)["curve"]) == 2


def test_a_checkpoint_of_another_split_is_refused(tmp_path: Path) -> None:
    config, settings = BackboneConfig(width=8, length=6), TrainingConfig(epochs=1, batch_size=16)
    train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path)
    with pytest.raises(FormatError, match="belongs to another run"):
        train_backbone(CYCLE, np.roll(ROLES, 1), config, settings, folder=tmp_path, resume=True)


def test_what_is_compiled_is_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = BackboneConfig(width=8, length=6, model="sasrec")
    plain = TrainingConfig(epochs=2, batch_size=16)
    passes: list[int] = []

    def compiler(function: Callable[[Ragged], Tensor], *, dynamic: bool) -> Callable[[Ragged], Tensor]:
        def compiled(history: Ragged) -> Tensor:
            passes.append(len(history.items))
            return function(history)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    fast = train_backbone(CYCLE, ROLES, config, replace(plain, compile=True), folder=tmp_path / "compiled")
    slow = train_backbone(CYCLE, ROLES, config, plain, folder=tmp_path / "plain")
    assert passes and fingerprint(fast.backbone) == fingerprint(slow.backbone)
    assert "packed" not in vars(fast.backbone)


def other_weights(data: bytes) -> bytes:
    """One byte of a tensor is another: torch reads it without a word."""
    at = data.index(torch.full((50,), 7.0).numpy().tobytes()) + 40
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def saved_alone(tensor: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        other_weights,
        lambda data: data.replace(b"little", b"middle"),
        lambda _: b"",
        lambda _: b"e.e",
        lambda _: saved_alone(torch.ones(3)),
    ],
)
def test_however_a_checkpoint_is_damaged_the_one_before_is_used(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    for epoch in range(2):
        checkpoints.save_checkpoint(tmp_path, "run", {"weights": torch.full((50,), 7.0), "epoch": epoch})
    path = tmp_path / checkpoints.LAST
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"last\.pt: damaged or foreign \(.+\); going on from previous\.pt"):
        saved = checkpoints.load_checkpoint(tmp_path, "run")
    assert saved is not None and saved["epoch"] == 0


def test_a_loss_that_is_not_finite_stops_with_its_minibatch_saved(tmp_path: Path) -> None:
    config, settings = BackboneConfig(width=8, length=6), TrainingConfig(learning_rate=1e18, batch_size=16)
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) in epoch 0, minibatch \d"):
        train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path)
    saved = safetensors.torch.load_file(tmp_path / checkpoints.FAILED)
    assert int(saved["sizes"].sum()) == len(saved["steps"]) and len(saved["sizes"]) <= 16
    backbone = make_backbone(config, CYCLE.num_items, CYCLE.feedback_scale)
    weights = {name.removeprefix("weights."): t for name, t in saved.items() if name.startswith("weights.")}
    module_of(backbone).load_state_dict(weights)


def test_a_gradient_that_is_not_finite_stops_before_it_moves_a_weight(tmp_path: Path) -> None:
    point = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(point.weight)
    learner = Learner(point, torch.optim.SGD(point.parameters(), lr=1.0), tmp_path, 1.0, clip=5.0)
    with pytest.raises(FloatingPointError, match=r"loss is 0\.0 in epoch 3, the norm of its gradient inf; weights"):
        learner.step(point.weight.sqrt().sum(), "epoch 3", np.array([4, 7]), torch.tensor([2]))
    saved = safetensors.torch.load_file(tmp_path / checkpoints.FAILED)
    assert saved["steps"].tolist() == [4, 7] and saved["weights.weight"].item() == point.weight.item() == 0


@pytest.mark.parametrize("newest", [False, True])
def test_in_batch_corrects_by_how_often_items_are_targets(
    newest: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = replace(CYCLE, feedback=(CYCLE.item != 1).astype(np.float32)[:, None])
    given: list[Tensor] = []
    predicted = torch.zeros(8, dtype=torch.int64)

    def of(events: Tensor, config: LossConfig) -> Negatives:
        given.append(events)
        return Negatives(None, torch.zeros(7))

    def loss(backbone: Backbone, states: Tensor, targets: Tensor, *rest: Any) -> Tensor:
        predicted.add_(torch.bincount(targets, minlength=8))
        return loss_of(backbone, states, targets, *rest)

    monkeypatch.setattr("recgym.backbones.training.loss_of", loss)
    monkeypatch.setattr("recgym.backbones.training.Negatives.of", of)
    settings = TrainingConfig(epochs=1, loss=LossConfig(name="in-batch", correct=False), newest_window=newest)
    train_backbone(passed, ROLES, BackboneConfig(width=8, length=6), settings, folder=tmp_path)
    assert given[0].tolist() == predicted[1:].tolist()
    assert predicted[1] == 0 and predicted.sum() < (ROLES == 0).sum()


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    config, settings = BackboneConfig(width=8, length=6), TrainingConfig(epochs=1)
    train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path)
    with pytest.raises(FormatError, match="belongs to another run"):
        train_backbone(CYCLE, ROLES, config, replace(settings, learning_rate=1e-4), folder=tmp_path, resume=True)
    path = tmp_path / checkpoints.LAST
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FormatError, match="damaged or foreign"):
        train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path, resume=True)


def test_global_randomness_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train_backbone(CYCLE, ROLES, BackboneConfig(width=8, length=6), TrainingConfig(epochs=1), folder=tmp_path)
    assert torch.equal(before, torch.get_rng_state())


BROKEN = sequences([[1] * 13, [2], [3] * 5], 3)
BROKEN_ROLES = np.array([0] * 10 + [1] * 3 + [0] + [0] * 4 + [2], np.int8)


def test_windows_cover_each_training_step_once() -> None:
    windows = training_windows(BROKEN, BROKEN_ROLES, 4)
    assert list(zip(*windows, strict=True)) == [(0, 4, 0), (4, 8, 5), (5, 9, 9), (13, 13, 13), (14, 17, 14)]
    predicted = [step for _, b, c in zip(*windows, strict=True) for step in range(c, b + 1)]
    assert sorted(predicted) == np.flatnonzero(BROKEN_ROLES == 0).tolist()


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 9])
def test_sliding_windows_predict_each_step_once_from_enough_steps(stride: int) -> None:
    first, last, fresh = training_windows(BROKEN, BROKEN_ROLES, 4, stride=stride)
    assert (last - first <= 4).all()
    predicted = [(step, step - a) for a, b, c in zip(first, last, fresh, strict=True) for step in range(c, b + 1)]
    assert sorted(step for step, _ in predicted) == np.flatnonzero(BROKEN_ROLES == 0).tolist()
    for step, past in predicted:
        begin = int(BROKEN.offsets[BROKEN.user_of_step[step]])
        assert past >= min(step - begin, 4 - min(stride, 4) + 1)


def test_the_newest_window_alone() -> None:
    windows = training_windows(BROKEN, BROKEN_ROLES, 4, newest=True)
    assert list(zip(*windows, strict=True)) == [(5, 9, 5), (13, 13, 13), (14, 17, 14)]


def test_nothing_to_train_on_is_said() -> None:
    with pytest.raises(ValueError, match="both need at least one"):
        train_backbone(
            CYCLE, np.zeros_like(ROLES), BackboneConfig(width=8), TrainingConfig(), folder="unused"
        )  # no validation part


@pytest.mark.usefixtures("several_threads")
def test_on_several_threads_the_weights_are_the_same_each_time(tmp_path: Path) -> None:
    """Gradients of many gathered rows must not be added up as threads come."""
    rng = np.random.default_rng(0)
    log = sequences(rng.integers(1, 40, (32, 203)).tolist(), 40)
    roles = np.tile(np.repeat(np.array([0, 1, 2], np.int8), [201, 1, 1]), 32)
    config = BackboneConfig(model="sasrec", width=8, heads=1, layers=1, length=200)
    settings = TrainingConfig(epochs=1, batch_size=16, loss=LossConfig(name="bce", negatives=32))
    runs = [train_backbone(log, roles, config, settings, folder=tmp_path / str(run)) for run in range(4)]
    assert len({fingerprint(run.backbone) for run in runs}) == 1
