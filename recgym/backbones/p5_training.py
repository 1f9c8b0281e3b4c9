"""Train a P5 to write the id of the next item chosen: prompts of like lengths, early stopping, exact resume.

As in `recgym.backbones.training`, every epoch draws its order, templates and dropout from (seed, epoch) alone.
Source: Geng et al. (2022), implementation details: AdamW at 1e-3, warm-up over the first 5% of minibatches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recgym.backbones.checkpoints import run_key
from recgym.backbones.epochs import Curve, Learner, best_epoch, drawing, precision, run_epochs
from recgym.backbones.p5 import P5, P5Config, P5Ranker
from recgym.backbones.p5_weights import make_p5
from recgym.backbones.ranking import rank_targets, spread_steps
from recgym.logs.sequences import Sequences, windows
from recgym.logs.splits import TRAIN, VALIDATION, Roles
from recgym.types import IntArray


@dataclass(frozen=True, kw_only=True)
class P5Training:
    """How a P5 is trained."""

    epochs: int = 20
    """Passes over the training steps at most; the learning rate reaches 0 at their end."""
    patience: int = 5
    """Epochs without a better validation NDCG@10 before training stops."""
    batch_size: int = 64
    """Prompts in a minibatch."""
    learning_rate: float = 1e-3
    """AdamW's largest step size."""
    warmup: float = 0.05
    """Share of all minibatches in which the step size grows from 0."""
    weight_decay: float = 0.01
    """AdamW's decay."""
    validation_targets: int = 2_000
    """Validation steps ranked after each epoch at most, evenly spread over the validation part."""
    mask_seen: bool = False
    """Leave out of that ranking what the user had met before."""
    beams: int | None = None
    """Rank them by a beam search of this width; None: exactly."""
    device: str = "cpu"
    """Where the model is trained; it comes back on the CPU."""
    bf16: bool = False
    """Multiply matrices in bfloat16."""
    seed: int = 0
    """Seed of weights, order, templates and dropout."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("epochs", "patience", "batch_size", "learning_rate", "validation_targets"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}, expected a share in [0, 1)")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}, expected a number of at least 0")
        if self.beams is not None and self.beams < 1:
            raise ValueError(f"beams is {self.beams}, expected at least 1 or None")


@dataclass(frozen=True)
class TrainedP5:
    """The model of the best epoch, and how it came about."""

    model: P5
    curve: Curve
    """One row an epoch: epoch, loss, ndcg@10 and hr@10 on the validation part (full ranking), seconds of training."""
    best_epoch: int


def train_p5(
    sequences: Sequences,
    roles: Roles,
    config: P5Config,
    training: P5Training,
    *,
    folder: Path | str,
    resume: bool = False,
    progress: bool = False,
) -> TrainedP5:
    """Train on the training targets of `sequences`, keep the epoch that ranks the validation targets best.

    Args:
        sequences: the log.
        roles: (M,) as from `recgym.logs.splits`.
        config: which T5, and how items are called.
        training: how.
        folder: gets `log.jsonl` and `checkpoints/`.
        resume: go on from the checkpoint in `folder`, where there is one.
        progress: show a progress bar.

    Raises:
        ValueError: no training or no validation target.
        FormatError: the checkpoint is of another run or of a longer one, or all are damaged; `config.weights` cannot
            be read.
        FloatingPointError: the loss is not finite; the minibatch lies in `folder`.
    """
    folder = Path(folder)
    steps, held_out = (np.flatnonzero(sequences.targets & (roles == role)) for role in (TRAIN, VALIDATION))
    if not len(steps) or not len(held_out):
        raise ValueError(f"{len(steps)} training and {len(held_out)} validation targets: both need at least one")
    held_out = spread_steps(held_out, training.validation_targets)
    model = make_p5(config, sequences, roles, seed=training.seed).to(training.device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    learner = Learner(model, optimiser, folder, training.learning_rate, clip=1.0)
    work = _Work(model, learner, sequences, steps, training)
    ranker = P5Ranker(model, sequences, training.beams)
    curve = run_epochs(
        learner,
        lambda number: _epoch(work, number),
        lambda: rank_targets(ranker, sequences, held_out, length=config.length, mask_seen=training.mask_seen),
        run=run_key(model.config, training, sequences, roles, ends=("patience",)),  # steps shrink with `epochs`
        epochs=training.epochs, patience=training.patience, resume=resume, progress=progress, label="p5",
    )  # fmt: skip
    return TrainedP5(model, curve, best_epoch(curve))


@dataclass(frozen=True)
class _Work:
    """What every epoch works with."""

    model: P5
    learner: Learner
    sequences: Sequences
    steps: IntArray  # (Q,) training targets
    training: P5Training


def _epoch(work: _Work, epoch: int) -> float:
    """One pass over the training targets; the mean loss over them."""
    model, training, device = work.model, work.training, work.training.device
    narrow = precision(device, training.bf16)
    total = 0.0
    model.train()
    with drawing(training.seed, epoch, device):
        order = batches_of_like_sizes(work.sequences, work.steps, model.config.length, training.batch_size)
        for number, steps in enumerate(order):
            share = (epoch * len(order) + number + 1) / (training.epochs * len(order) + 1)
            for group in work.learner.optimiser.param_groups:
                group["lr"] = training.learning_rate * learning_share(share, training.warmup)
            template = int(torch.randint(len(model.prompts.templates), ()))
            items, feedback = (torch.from_numpy(part) for part in windows(work.sequences, steps, model.config.length))
            users = torch.from_numpy(work.sequences.user_of_step[steps])
            targets = torch.from_numpy(work.sequences.item[steps].astype(np.int64))
            with narrow:
                read = model.read(items.to(device), feedback.to(device), users, template=template)
                loss = model.loss(read, targets.to(device))
            alone = torch.ones(len(steps), dtype=torch.int64)
            total += work.learner.step(loss, f"epoch {epoch}, minibatch {number}", steps, alone) * len(steps)
    model.eval()
    return total / len(work.steps)


def batches_of_like_sizes(sequences: Sequences, steps: IntArray, length: int, size: int) -> list[IntArray]:
    """The steps (Q,) in minibatches of histories of like sizes, drawn from torch's generator: little padding."""
    drawn = steps[torch.randperm(len(steps)).numpy()]
    history = np.minimum(drawn - sequences.offsets[sequences.user_of_step[drawn]], length)
    drawn = drawn[np.argsort(history, kind="stable")]
    parts = [drawn[first : first + size] for first in range(0, len(drawn), size)]
    return [parts[place] for place in torch.randperm(len(parts)).tolist()]


def learning_share(share: float, warmup: float) -> float:
    """Share of the learning rate once `share` of training is done: up to 1 within the warm-up, then down to 0."""
    return share / warmup if share < warmup else (1 - share) / (1 - warmup)
