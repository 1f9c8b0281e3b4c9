"""Training learns what there is to learn, resumes to the same weights, and predicts each step once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recgym.backbones import training as module
from recgym.backbones.backbone import BackboneConfig, fingerprint, make_backbone, module_of
from recgym.backbones.losses import cross_entropy_step
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


@pytest.mark.parametrize("model", ["gru", "sasrec"])
def test_a_deterministic_successor_is_learned(model: str, tmp_path: Path) -> None:
    config = BackboneConfig(model=model, width=16, layers=1, length=6, dropout=0.0)
    trained = train_backbone(CYCLE, ROLES, config, SMALL, folder=tmp_path)
    test = np.flatnonzero(ROLES == splits.TEST)
    ranks = rank_targets(ranker_of(trained.backbone), CYCLE, test, length=6)
    assert hit_rate(ranks, 1).mean() == 1.0
    assert trained.curve[trained.best_epoch]["ndcg@10"] == max(row["ndcg@10"] for row in trained.curve)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == len(trained.curve)


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = BackboneConfig(width=8, length=6)
    settings = TrainingConfig(epochs=4, batch_size=8, patience=10)
    whole = train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path / "whole")
    epoch = module._epoch

    def killed(*arguments: object) -> float:
        if arguments[-1] == 2:
            raise KeyboardInterrupt
        return epoch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path / "killed")
    monkeypatch.setattr(module, "_epoch", epoch)
    resumed = train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path / "killed", resume=True)
    assert fingerprint(resumed.backbone) == fingerprint(whole.backbone)
    assert resumed.curve == whole.curve


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    config, settings = BackboneConfig(width=8, length=6), TrainingConfig(epochs=1)
    train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path)
    with pytest.raises(FormatError, match="belongs to another run"):
        train_backbone(CYCLE, ROLES, config, TrainingConfig(epochs=2), folder=tmp_path, resume=True)
    path = tmp_path / module.CHECKPOINT
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FormatError, match="damaged or foreign"):
        train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path, resume=True)


def test_global_randomness_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train_backbone(CYCLE, ROLES, BackboneConfig(width=8, length=6), TrainingConfig(epochs=1), folder=tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_windows_cover_each_training_step_once() -> None:
    log = sequences([[1] * 13, [2], [3] * 5], 3)
    roles = np.array([0] * 10 + [1] * 3 + [0] + [0] * 4 + [2], np.int8)
    first, last = training_windows(log, roles, 4)
    assert list(zip(first, last, strict=True)) == [(0, 4), (4, 8), (8, 9), (13, 13), (14, 17)]
    predicted = [step for a, b in zip(first, last, strict=True) for step in range(a + 1, b + 1)] + [0, 13, 14]
    assert sorted(predicted) == np.flatnonzero(roles == 0).tolist()


def test_the_blocked_loss_has_the_gradient_of_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recgym.backbones.losses._CELLS", 50)
    backbone = make_backbone(BackboneConfig(width=8), 20, np.ones(1, np.float32))
    parameters = list(module_of(backbone).parameters())
    items, targets = torch.randint(1, 21, (9, 5)), torch.randint(1, 21, (9,))
    states = backbone.states(items, torch.ones(9, 5, 1))[:, -1]
    plain = torch.nn.functional.cross_entropy(backbone.scores(states), targets - 1)
    wanted = torch.autograd.grad(plain, parameters, allow_unused=True, retain_graph=True)
    loss = cross_entropy_step(backbone, states, targets)
    assert loss == pytest.approx(float(plain.detach()), rel=1e-5)
    for parameter, gradient in zip(parameters, wanted, strict=True):
        if gradient is not None:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_nothing_to_train_on_is_said() -> None:
    with pytest.raises(ValueError, match="both need at least one"):
        train_backbone(
            CYCLE, np.zeros_like(ROLES), BackboneConfig(width=8), TrainingConfig(), folder="unused"
        )  # no validation part
