"""Train a P5 to write the id of the next item chosen: prompts of like lengths, early stopping, exact resume.

As in `recgym.backbones.training`, every epoch draws its order, templates and dropout from (seed, epoch) alone.
Source: Geng et al. (2022), implementation details: AdamW at 1e-3, warm-up over the first 5% of minibatches.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recgym.backbones.checkpoints import load_checkpoint, run_key, save_checkpoint, save_failed_batch
from recgym.backbones.p5 import P5, P5Config, P5Ranker
from recgym.backbones.p5_weights import make_p5
from recgym.backbones.ranking import rank_targets, spread_steps
from recgym.backbones.training import Curve
from recgym.files import write_bytes
from recgym.logs.sequences import Sequences, windows
from recgym.logs.splits import TRAIN, VALIDATION, Roles
from recgym.metrics import hit_rate, ndcg
from recgym.random import fold, session_keys
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
        FormatError: the checkpoint is of another run, or all are damaged; `config.weights` cannot be read.
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
    run = run_key(model.config, training, sequences, roles)
    best: dict[str, Tensor] = {}
    curve: Curve = []
    if resume and (saved := load_checkpoint(folder, run)):
        model.load_state_dict(saved["weights"])
        optimiser.load_state_dict(saved["optimiser"])
        best, curve = saved["best"], saved["curve"]
    work = _Work(model, optimiser, sequences, steps, training, folder)
    with tqdm(total=training.epochs, initial=len(curve), desc="p5", unit="epoch", disable=not progress) as bar:
        while len(curve) < training.epochs and len(curve) - 1 - _best(curve) < training.patience:
            began = time.perf_counter()
            loss = _epoch(work, len(curve))
            seconds = time.perf_counter() - began + (curve[-1]["seconds"] if curve else 0.0)
            ranker = P5Ranker(model, sequences, training.beams)
            ranks = rank_targets(ranker, sequences, held_out, length=config.length, mask_seen=training.mask_seen)
            quality, hits = float(ndcg(ranks, 10).mean()), float(hit_rate(ranks, 10).mean())
            if all(quality > row["ndcg@10"] for row in curve):
                best = copy.deepcopy(model.state_dict())  # tables that share memory stay one
            curve.append({"epoch": len(curve), "loss": loss, "ndcg@10": quality, "hr@10": hits, "seconds": seconds})
            state = {"weights": model.state_dict(), "optimiser": optimiser.state_dict(), "best": best, "curve": curve}
            save_checkpoint(folder, run, state)
            write_bytes(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in curve).encode())
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", ndcg10=f"{quality:.4f}")
    model.load_state_dict(best)
    return TrainedP5(model.eval().cpu(), curve, _best(curve))


@dataclass(frozen=True)
class _Work:
    """What every epoch works with."""

    model: P5
    optimiser: torch.optim.Optimizer
    sequences: Sequences
    steps: IntArray  # (Q,) training targets
    training: P5Training
    folder: Path


def _epoch(work: _Work, epoch: int) -> float:
    """One pass over the training targets; the mean loss over them."""
    model, training, device = work.model, work.training, work.training.device
    precision = torch.autocast(device.partition(":")[0], torch.bfloat16) if training.bf16 else None
    gpus = [torch.device(device).index or 0] if device.startswith("cuda") else []
    total = 0.0
    model.train()
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(int(fold(session_keys(training.seed, 1), epoch + 1)) % 2**32)
        order = batches_of_like_sizes(work.sequences, work.steps, model.config.length, training.batch_size)
        for number, steps in enumerate(order):
            share = (epoch * len(order) + number + 1) / (training.epochs * len(order) + 1)
            for group in work.optimiser.param_groups:
                group["lr"] = training.learning_rate * learning_share(share, training.warmup)
            template = int(torch.randint(len(model.prompts.templates), ()))
            items, feedback = (torch.from_numpy(part) for part in windows(work.sequences, steps, model.config.length))
            users = torch.from_numpy(work.sequences.user_of_step[steps])
            targets = torch.from_numpy(work.sequences.item[steps].astype(np.int64))
            with precision or contextlib.nullcontext():
                read = model.read(items.to(device), feedback.to(device), users, template=template)
                loss = model.loss(read, targets.to(device))
            value = float(loss.detach())
            if not math.isfinite(value):
                path = save_failed_batch(work.folder, model, steps, torch.ones(len(steps), dtype=torch.int64))
                raise FloatingPointError(
                    f"loss is {value} in epoch {epoch}, minibatch {number}; weights and steps are in {path}; "
                    f"a smaller learning_rate than {training.learning_rate} often helps"
                )
            work.optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            work.optimiser.step()
            total += value * len(steps)
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


def _best(curve: Curve) -> int:
    return int(np.argmax([row["ndcg@10"] for row in curve])) if curve else -1
