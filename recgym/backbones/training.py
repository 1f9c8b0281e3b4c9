"""Train a backbone to predict the next item chosen: ragged minibatches, early stopping, exact resume.

Every epoch draws its order, negatives and dropout from (seed, epoch) alone, and ends with a checkpoint; so a run that
is killed and resumed ends with the weights it would have had. Items that no training step showed get predicted vectors
once the best epoch is chosen (see `recgym.backbones.cold`): checkpoints hold what training left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone, BackboneConfig, make_backbone, module_of
from recgym.backbones.checkpoints import run_key
from recgym.backbones.cold import Filling, fill_unmet
from recgym.backbones.epochs import Curve, Learner, best_epoch, drawing, precision, run_epochs
from recgym.backbones.objectives import LossConfig, Negatives, loss_of, pairs
from recgym.backbones.ragged import Ragged
from recgym.backbones.ranking import rank_targets, ranker_of, spread_steps
from recgym.logs.sequences import Sequences
from recgym.logs.splits import TRAIN, VALIDATION, Roles, training_events
from recgym.types import BoolArray, IntArray


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a backbone is trained."""

    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised."""
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
    stride: int | None = None
    """Steps from one window of a long history to the next; None: L. Fewer steps: longer pasts, and more work."""
    newest_window: bool = False
    """Train on the newest window of each history alone."""
    validation_targets: int = 5_000
    """Validation steps ranked after each epoch at most, evenly spread over the validation part."""
    mask_seen: bool = False
    """Leave out of that ranking what the user had met before."""
    fill_unmet: bool = True
    """Give items that no training step showed the vector and bias that their features predict."""
    device: str = "cpu"
    """Where the backbone is trained; it comes back on the CPU."""
    bf16: bool = False
    """Multiply matrices in bfloat16; pays on GPUs and on CPUs with AMX."""
    compile: bool = False
    """Compile the pass over ragged histories; costs minutes first, and on a CPU more than it saves."""
    seed: int = 0
    """Seed of weights, order, negatives and dropout."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("epochs", "patience", "batch_size", "validation_targets", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}, expected a number of at least 0")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride is {self.stride}, expected at least 1 or None")


@dataclass(frozen=True)
class TrainedBackbone:
    """The backbone of the best epoch, and how it came about."""

    backbone: Backbone
    curve: Curve
    """One row an epoch: epoch, loss, ndcg@10 and hr@10 on the validation part (full ranking), seconds of training."""
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
        resume: go on from the checkpoint in `folder`, where there is one; from the one before it, with a warning, where
            the last is damaged.
        progress: show a progress bar.

    Raises:
        ValueError: no training or no validation target, or roles of another log.
        FormatError: the checkpoint is of another run or of a longer one, or all are damaged.
        FloatingPointError: the loss is not finite; the minibatch lies in `folder`.
    """
    folder = Path(folder)
    if roles.shape != (sequences.num_steps,):
        raise ValueError(f"roles has shape {roles.shape}, expected one for each of {sequences.num_steps} steps")
    windows = training_windows(sequences, roles, config.length, stride=training.stride, newest=training.newest_window)
    held_out = np.flatnonzero(sequences.targets & (roles == VALIDATION))
    if not len(windows.first) or not len(held_out):
        raise ValueError(
            f"{len(windows.first)} training windows and {len(held_out)} validation targets: both need at least one"
        )
    held_out = spread_steps(held_out, training.validation_targets)
    backbone = make_backbone(
        config, sequences.num_items, sequences.feedback_scale, groups=sequences.categories, seed=training.seed
    )
    module = module_of(backbone).to(training.device)
    if training.compile and hasattr(module, "packed"):
        vars(module)["packed"] = torch.compile(cast("Callable[..., Tensor]", module.packed), dynamic=True)
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    learner = Learner(module, optimiser, folder, training.learning_rate, clip=5.0)
    begins = windows.first == sequences.offsets[sequences.user_of_step[windows.first]]
    wanted: BoolArray = sequences.targets & (roles == TRAIN)
    if training.loss.name == "in-batch":
        events = np.bincount(sequences.item[_predicted(windows, begins, wanted)], minlength=sequences.num_items + 1)[1:]
    else:
        events = training_events(sequences, roles)
    negatives = Negatives.of(torch.from_numpy(events).to(training.device), training.loss)
    work = _Work(backbone, learner, sequences, windows, begins, wanted, negatives, training)
    ranker = ranker_of(backbone, sequences)
    curve = run_epochs(
        learner,
        lambda number: _epoch(work, number),
        lambda: rank_targets(ranker, sequences, held_out, length=config.length, mask_seen=training.mask_seen),
        run=run_key(backbone.config, training, sequences, roles), epochs=training.epochs, patience=training.patience,
        resume=resume, progress=progress, label=f"backbone {config.model}",
    )  # fmt: skip
    vars(module).pop("packed", None)  # the compiled one
    filling = fill_unmet(backbone, sequences, roles) if training.fill_unmet else Filling()
    return TrainedBackbone(backbone, curve, best_epoch(curve), filling)


class Windows(NamedTuple):
    """W runs of training steps, each of one user."""

    first: IntArray  # (W,) first step
    last: IntArray  # (W,) last step
    fresh: IntArray  # (W,) first step that no earlier window predicts


def training_windows(
    sequences: Sequences, roles: Roles, length: int, *, stride: int | None = None, newest: bool = False
) -> Windows:
    """Windows of at most length + 1 training steps; each step is predicted once, but for the first of a broken run.

    Args:
        sequences: the log.
        roles: (M,).
        length: steps that a backbone reads, L.
        stride: steps from one window to the next; a step counts in the first window that holds it, so that all but a
            user's oldest steps are predicted from at least L - stride steps. None: L, windows that overlap by one step.
        newest: keep the newest window of each run alone (truncation, as most published runs do).
    """
    stride = min(stride or length, length)
    train = np.flatnonzero(roles == TRAIN)
    user = sequences.user_of_step[train]
    broken = np.flatnonzero((np.diff(user) != 0) | (np.diff(train) != 1))
    starts, ends = np.append(0, broken + 1), np.append(broken, len(train) - 1)  # runs of neighbouring steps
    firsts, lasts, fresh = [], [], []
    for start, end in zip(train[starts], train[ends], strict=True) if len(train) else ():
        if newest:
            start = max(start, end - length)
        last = np.arange(start + length, end + stride, stride) if end > start + length else np.array([start + length])
        last = np.minimum(last, end)
        firsts.append(np.maximum(last - length, start))
        lasts.append(last)
        fresh.append(np.append(start, last[:-1] + 1))
    nothing = np.zeros(0, np.int64)
    return Windows(*(np.concatenate([nothing, *parts]) for parts in (firsts, lasts, fresh)))


def _predicted(windows: Windows, begins: BoolArray, wanted: BoolArray) -> BoolArray:
    """Which steps an epoch has as targets, (M,)."""
    edges = np.zeros(len(wanted) + 1, np.int64)
    np.add.at(edges, windows.fresh, 1)
    np.add.at(edges, windows.last + 1, -1)
    covered: BoolArray = edges.cumsum()[:-1] > 0
    covered[windows.first[(windows.fresh == windows.first) & ~begins]] = False  # nothing stands before them
    return covered & wanted


@dataclass(frozen=True)
class _Work:
    """What every epoch works with."""

    backbone: Backbone
    learner: Learner
    sequences: Sequences
    windows: Windows
    begins: BoolArray  # (W,) whether a window starts with a user's first step, which is a target too
    wanted: BoolArray  # (M,) steps that count as targets
    negatives: Negatives
    training: TrainingConfig


def _epoch(work: _Work, epoch: int) -> float:
    """One pass in minibatches of windows; the mean loss over its targets."""
    sequences, training, module = work.sequences, work.training, work.learner.module
    first, last, fresh = work.windows
    narrow = precision(training.device, training.bf16)
    total, count = 0.0, 0
    module.train()
    with drawing(training.seed, epoch, training.device):
        for number, drawn in enumerate(torch.randperm(len(first)).split(training.batch_size)):
            rows = drawn.numpy()
            steps, sizes = _steps(first[rows], last[rows])
            counts = torch.from_numpy(work.wanted[steps] & (steps >= np.repeat(fresh[rows], sizes)))
            window = _window(sequences, steps, sizes, training.device)
            with narrow:
                states, targets = pairs(
                    work.backbone, window, counts.to(training.device), torch.from_numpy(work.begins[rows])
                )
                if not len(targets):
                    continue
                loss = loss_of(work.backbone, states, targets, training.loss, work.negatives)
            value = work.learner.step(loss, f"epoch {epoch}, minibatch {number}", steps, window.sizes)
            total, count = total + value * len(targets), count + len(targets)
    module.eval()
    return total / max(count, 1)


def _steps(first: IntArray, last: IntArray) -> tuple[IntArray, IntArray]:
    """All steps of windows first .. last (B,), one after the other, (P,), and the windows' sizes (B,)."""
    sizes = last - first + 1
    begin = np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
    return begin + np.arange(len(begin)), sizes


def _window(sequences: Sequences, steps: IntArray, sizes: IntArray, device: str) -> Ragged:
    return Ragged(
        torch.from_numpy(sequences.item[steps].astype(np.int64)).to(device),
        torch.from_numpy(sequences.feedback[steps]).to(device),
        torch.from_numpy(sizes),
        torch.from_numpy(sequences.time[steps].astype(np.float64)).to(device),
        torch.from_numpy(sequences.user_of_step[steps[np.cumsum(sizes) - sizes]]).to(device),
    )
