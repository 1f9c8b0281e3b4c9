"""Train a backbone to predict the next item chosen: cross-entropy over the catalogue, early stopping, exact resume.

Every epoch draws its order and dropout from (seed, epoch) alone, and ends with a checkpoint; so a run that is killed
and resumed ends with the weights it would have had. Items that no training step showed get predicted vectors once the
best epoch is chosen (see `recgym.backbones.cold`): checkpoints hold what training left.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recgym.backbones.backbone import Backbone, BackboneConfig, make_backbone, module_of
from recgym.backbones.cold import Filling, fill_unmet
from recgym.backbones.losses import cross_entropy_step
from recgym.backbones.ranking import rank_targets, ranker_of, spread_steps
from recgym.files import FormatError, write_bytes
from recgym.logs.sequences import Sequences, cut
from recgym.logs.splits import TRAIN, VALIDATION, Roles
from recgym.metrics import hit_rate, ndcg
from recgym.random import fold, session_keys
from recgym.types import BoolArray, IntArray

CHECKPOINT = "checkpoints/last.pt"
Curve = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a backbone is trained."""

    epochs: int = 60
    """Passes over the training steps at most."""
    patience: int = 5
    """Epochs without a better validation NDCG@10 before training stops."""
    batch_size: int = 64
    """Windows of history in a minibatch."""
    learning_rate: float = 2e-3
    """AdamW's step size."""
    weight_decay: float = 0.1
    """AdamW's decay."""
    validation_targets: int = 5_000
    """Validation steps ranked after each epoch at most, evenly spread over the validation part."""
    fill_unmet: bool = True
    """Give items that no training step showed the vector and bias that their features predict."""
    seed: int = 0
    """Seed of weights, order and dropout."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("epochs", "patience", "batch_size", "validation_targets", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}, expected a number of at least 0")


@dataclass(frozen=True)
class TrainedBackbone:
    """The backbone of the best epoch, and how it came about."""

    backbone: Backbone
    curve: Curve
    """One row an epoch: epoch, loss (nats), ndcg@10, hr@10 on the validation part (full ranking)."""
    best_epoch: int
    filling: Filling
    """What was predicted for items that training never showed."""


def train_backbone(
    sequences: Sequences,
    roles: Roles,
    config: BackboneConfig,
    training: TrainingConfig,
    *,
    folder: Path | str,
    resume: bool = False,
    progress: bool = False,
) -> TrainedBackbone:
    """Train on the training steps of `sequences`, keep the epoch that ranks the validation targets best.

    Args:
        sequences: the log.
        roles: (M,) as from `recgym.logs.splits`.
        config: which backbone.
        training: how.
        folder: gets `log.jsonl` and `checkpoints/`.
        resume: go on from the checkpoint in `folder`, where there is one.
        progress: show a progress bar.

    Raises:
        ValueError: no training or no validation target.
        FormatError: the checkpoint is damaged, or of another run.
    """
    folder = Path(folder)
    first, last = training_windows(sequences, roles, config.length)
    held_out = np.flatnonzero(sequences.targets & (roles == VALIDATION))
    if not len(first) or not len(held_out):
        raise ValueError(
            f"{len(first)} training windows and {len(held_out)} validation targets: both need at least one"
        )
    held_out = spread_steps(held_out, training.validation_targets)
    backbone = make_backbone(
        config, sequences.num_items, sequences.feedback_scale, groups=sequences.categories, seed=training.seed
    )
    module = module_of(backbone)
    optimiser = torch.optim.AdamW(module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    run = json.dumps([dataclasses.asdict(config), dataclasses.asdict(training), sequences.fingerprint()])
    best: dict[str, Tensor] = {}
    curve: Curve = []
    if resume and (saved := _load(folder / CHECKPOINT, run)):
        module.load_state_dict(saved["weights"])
        optimiser.load_state_dict(saved["optimiser"])
        best, curve = saved["best"], saved["curve"]
    bar = tqdm(
        total=training.epochs, initial=len(curve), desc=f"backbone {config.model}", unit="epoch", disable=not progress
    )
    with bar:
        while len(curve) < training.epochs and not _stalled(curve, training.patience):
            epoch = len(curve)
            loss = _epoch(backbone, optimiser, sequences, roles, first, last, training, epoch)
            ranks = rank_targets(ranker_of(backbone), sequences, held_out, length=config.length)
            quality = float(ndcg(ranks, 10).mean())
            if all(quality > row["ndcg@10"] for row in curve):
                best = {name: tensor.clone() for name, tensor in module.state_dict().items()}
            curve.append({"epoch": epoch, "loss": loss, "ndcg@10": quality, "hr@10": float(hit_rate(ranks, 10).mean())})
            state = {"weights": module.state_dict(), "optimiser": optimiser.state_dict(), "best": best, "curve": curve}
            _save(folder / CHECKPOINT, {"run": run, **state})
            write_bytes(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in curve).encode())
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", ndcg10=f"{quality:.4f}")
    module.load_state_dict(best)
    module.eval()
    filling = fill_unmet(backbone, sequences, roles) if training.fill_unmet else Filling()
    return TrainedBackbone(backbone, curve, _best(curve), filling)


def training_windows(sequences: Sequences, roles: Roles, length: int) -> tuple[IntArray, IntArray]:
    """Runs of training steps first .. last of one user, at most length + 1 each, whose ends overlap by one step.

    Each step is predicted once: the first of a window from the steps before it, in the window that ends there.
    """
    train = np.flatnonzero(roles == TRAIN)
    user = sequences.user_of_step[train]
    broken = np.flatnonzero((np.diff(user) != 0) | (np.diff(train) != 1))
    starts, ends = np.append(0, broken + 1), np.append(broken, len(train) - 1)  # runs of neighbouring steps
    firsts, lasts = [], []
    for start, end in zip(train[starts], train[ends], strict=True) if len(train) else ():
        pieces = np.arange(start, max(end, start + 1), length)
        firsts.append(pieces)
        lasts.append(np.minimum(pieces + length, end))
    nothing = np.zeros(0, np.int64)
    return np.concatenate([nothing, *firsts]), np.concatenate([nothing, *lasts])


def _epoch(
    backbone: Backbone,
    optimiser: torch.optim.Optimizer,
    sequences: Sequences,
    roles: Roles,
    first: IntArray,
    last: IntArray,
    training: TrainingConfig,
    epoch: int,
) -> float:
    """One pass in minibatches of windows; the mean loss, in nats."""
    wanted: BoolArray = sequences.targets & (roles == TRAIN)
    total, count = 0.0, 0
    module = module_of(backbone)
    module.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(fold(session_keys(training.seed, 1), epoch + 1)) % 2**32)
        for rows in torch.randperm(len(first)).split(training.batch_size):
            loss, targets = _minibatch(backbone, optimiser, sequences, wanted, first[rows.numpy()], last[rows.numpy()])
            total, count = total + loss * targets, count + targets
    module.eval()
    return total / max(count, 1)


def _minibatch(
    backbone: Backbone,
    optimiser: torch.optim.Optimizer,
    sequences: Sequences,
    wanted: BoolArray,
    first: IntArray,
    last: IntArray,
) -> tuple[float, int]:
    """One gradient step on windows first .. last (B,); the loss and its number of targets."""
    length = int((last - first).max()) + 1
    items, feedback = cut(sequences, first, last + 1, length)  # (B, T)
    step = last[:, None] + np.arange(1 - length, 1)  # (B, T)
    begins = first == sequences.offsets[sequences.user_of_step[first]]  # (B,): the user's first step is a target too
    predicted = wanted[step.clip(0)] & (step >= first[:, None] + ~begins[:, None])
    row, place = (torch.from_numpy(part) for part in np.nonzero(predicted))
    if not len(row):
        return 0.0, 0
    after = backbone.states(torch.from_numpy(items[:, :-1]), torch.from_numpy(feedback[:, :-1])) if length > 1 else None
    start = backbone.start_state().expand(len(items), 1, -1)
    before = start if after is None else torch.cat([start, after], 1)  # (B, T, D): the state before each step
    optimiser.zero_grad()
    loss = cross_entropy_step(backbone, before[row, place], torch.from_numpy(items)[row, place])
    torch.nn.utils.clip_grad_norm_(module_of(backbone).parameters(), 5.0)
    optimiser.step()
    return loss, len(row)


def _stalled(curve: Curve, patience: int) -> bool:
    return len(curve) > patience and len(curve) - 1 - _best(curve) >= patience


def _best(curve: Curve) -> int:
    return int(np.argmax([row["ndcg@10"] for row in curve]))


def _save(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def _load(path: Path, run: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
        raise FormatError(f"{path}: damaged or foreign ({error}); delete it to start again") from error
    if saved.get("run") != run:
        raise FormatError(f"{path}: belongs to another run (settings or log differ); delete it, or use another folder")
    return saved
