"""P5 learns what there is to learn, resumes to the same weights, and reads histories of like sizes together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from recgym.backbones import checkpoints
from recgym.backbones import p5_training as module
from recgym.backbones.p5 import P5Config, P5Ranker
from recgym.backbones.p5_training import P5Training, batches_of_like_sizes, learning_share, train_p5
from recgym.backbones.ranking import rank_targets
from recgym.files import FormatError
from recgym.logs import splits
from recgym.metrics import hit_rate
from tests.backbones.test_p5 import needs_p5
from tests.backbones.test_ranking import sequences
from tests.backbones.test_training import CYCLE, ROLES

SMALL = P5Config(width=8, layers=1, heads=2, length=2, dropout=0.1, tokens=3, clusters=2, num_users=4)
SHORT = sequences([[1, 2, 3, 4, 5], [3, 4, 5, 1, 2], [5, 1, 2, 3, 4], [2, 3, 4, 5, 1]], 5)
PARTS = splits.leave_one_out(SHORT)


@needs_p5
def test_a_deterministic_successor_is_learned(tmp_path: Path) -> None:
    log = sequences([[(start + step) % 5 + 1 for step in range(10)] for start in range(20)], 5)
    roles = splits.leave_one_out(log)
    config = P5Config(width=32, layers=1, heads=4, length=2, dropout=0.0, tokens=3, clusters=2, indexing="sequential")
    settings = P5Training(epochs=16, patience=16, batch_size=16, learning_rate=5e-3, warmup=0.1)
    trained = train_p5(log, roles, config, settings, folder=tmp_path)
    test = np.flatnonzero(roles == splits.TEST)
    ranks = rank_targets(P5Ranker(trained.model, log), log, test, length=2)
    assert hit_rate(ranks, 1).mean() == 1.0
    assert trained.curve[trained.best_epoch]["ndcg@10"] == max(row["ndcg@10"] for row in trained.curve)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == len(trained.curve)


@needs_p5
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = P5Training(epochs=3, batch_size=4, patience=10, beams=2)
    whole = train_p5(SHORT, PARTS, SMALL, settings, folder=tmp_path / "whole")
    epoch = module._epoch

    def killed(work: module._Work, number: int) -> float:
        if number == 2:
            raise KeyboardInterrupt
        return epoch(work, number)

    monkeypatch.setattr(module, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train_p5(SHORT, PARTS, SMALL, settings, folder=tmp_path / "killed")
    monkeypatch.setattr(module, "_epoch", epoch)
    resumed = train_p5(SHORT, PARTS, SMALL, settings, folder=tmp_path / "killed", resume=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert [row["loss"] for row in resumed.curve] == [row["loss"] for row in whole.curve]
    with pytest.raises(FormatError, match="belongs to another run"):
        train_p5(SHORT, PARTS, SMALL, P5Training(seed=1), folder=tmp_path / "killed", resume=True)


@needs_p5
def test_a_loss_that_is_not_finite_stops_with_its_minibatch_saved(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"epoch 0, minibatch \d(, the norm of its gradient nan)?; weights"):
        train_p5(SHORT, PARTS, SMALL, P5Training(learning_rate=1e30, batch_size=4), folder=tmp_path)
    saved = safetensors.torch.load_file(tmp_path / checkpoints.FAILED)
    assert len(saved["steps"]) == len(saved["sizes"]) == 4


def test_minibatches_hold_every_step_once_and_histories_of_like_sizes() -> None:
    steps = np.flatnonzero(ROLES == splits.TRAIN)
    torch.manual_seed(0)
    parts = batches_of_like_sizes(CYCLE, steps, 6, 20)
    assert np.array_equal(np.sort(np.concatenate(parts)), steps)
    size = [np.minimum(CYCLE.place[part], 6) for part in parts]  # every user has one session
    assert max(np.ptp(one) for one in size) <= 1
    assert [one[0] for one in size] != sorted(one[0] for one in size)
    again = batches_of_like_sizes(CYCLE, steps, 6, 20)
    assert not all(np.array_equal(*pair) for pair in zip(parts, again, strict=True))


def test_the_learning_rate_rises_and_falls_in_straight_lines() -> None:
    assert [learning_share(share, 0.2) for share in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert learning_share(0.25, 0.0) == 0.75


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="warmup is 1, expected"):
        P5Training(warmup=1)
    with pytest.raises(ValueError, match="beams is 0, expected"):
        P5Training(beams=0)
    with pytest.raises(ValueError, match="epochs is 0, expected"):
        P5Training(epochs=0)
    with pytest.raises(ValueError, match="0 validation targets"):
        train_p5(SHORT, np.zeros_like(PARTS), SMALL, P5Training(), folder=tmp_path)
