"""What every training shares: epochs that depend on (seed, epoch) alone, a checkpoint after each, the best one kept."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recgym.backbones.checkpoints import load_checkpoint, save_checkpoint, save_failed_batch
from recgym.files import FormatError, write_bytes
from recgym.metrics import hit_rate, ndcg
from recgym.random import fold, session_keys
from recgym.types import DoubleArray, IntArray

Curve = list[dict[str, float]]


class Learner(NamedTuple):
    """A module in training."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    folder: Path
    """Gets `log.jsonl`, `checkpoints/`, and the minibatch on which training failed."""
    learning_rate: float
    clip: float
    """Largest norm of a minibatch's gradient."""

    def step(self, loss: Tensor, where: str, steps: IntArray, sizes: Tensor) -> float:
        """One step down the gradient of `loss`, and its value.

        Args:
            loss: of a minibatch.
            where: which epoch and minibatch.
            steps: (P,) of the log that the minibatch holds.
            sizes: (B,) how many of them each of its histories has.

        Raises:
            FloatingPointError: the loss or its gradient is not finite; the minibatch lies in the folder.
        """
        value = float(loss.detach())
        if math.isfinite(value):
            self.optimiser.zero_grad()
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clip))
            if math.isfinite(norm):
                self.optimiser.step()
                return value
            where = f"{where}, the norm of its gradient {norm}"
        path = save_failed_batch(self.folder, self.module, steps, sizes)
        raise FloatingPointError(
            f"loss is {value} in {where}; weights, steps and sizes are in {path}; "
            f"a smaller learning_rate than {self.learning_rate} often helps"
        )


def run_epochs(
    learner: Learner,
    epoch: Callable[[int], float],
    rank: Callable[[], DoubleArray],
    *,
    run: str,
    epochs: int,
    patience: int,
    resume: bool,
    progress: bool,
    label: str,
) -> Curve:
    """Train until no epoch has ranked better for `patience` epochs; the module ends as the best one, on the CPU.

    Args:
        learner: what is trained.
        epoch: one pass over the training steps, by its number -> the mean loss.
        rank: ranks of the validation targets, (Q,).
        run: key of the run, as of `run_key`.
        epochs: passes at most.
        patience: epochs without a better validation NDCG@10.
        resume: go on from the checkpoint in the folder, where there is one.
        progress: show a progress bar.
        label: of the bar.

    Returns:
        One row an epoch: epoch, loss, ndcg@10, hr@10, seconds of training.

    Raises:
        FormatError: the checkpoint has trained for longer than `epochs` and `patience` say.
    """
    module, optimiser, folder = learner.module, learner.optimiser, learner.folder
    best: dict[str, Any] = {}
    curve: Curve = []
    if resume and (saved := load_checkpoint(folder, run)):
        module.load_state_dict(saved["weights"])
        optimiser.load_state_dict(saved["optimiser"])
        best, curve = saved["best"], saved["curve"]
        if any(_ended(curve[:number], epochs, patience) for number in range(len(curve))):
            raise FormatError(
                f"{folder}: trained for {len(curve)} epochs already, longer than epochs {epochs} and patience "
                f"{patience} say; ask for as many, or use another folder"
            )
    with tqdm(total=epochs, initial=len(curve), desc=label, unit="epoch", disable=not progress) as bar:
        while not _ended(curve, epochs, patience):
            began = time.perf_counter()
            loss = epoch(len(curve))
            seconds = time.perf_counter() - began + (curve[-1]["seconds"] if curve else 0.0)
            ranks = rank()
            quality, hits = float(ndcg(ranks, 10).mean()), float(hit_rate(ranks, 10).mean())
            if all(quality > row["ndcg@10"] for row in curve):
                best = copy.deepcopy(module.state_dict())  # tables that share memory stay one
            curve.append({"epoch": len(curve), "loss": loss, "ndcg@10": quality, "hr@10": hits, "seconds": seconds})
            state = {"weights": module.state_dict(), "optimiser": optimiser.state_dict(), "best": best, "curve": curve}
            save_checkpoint(folder, run, state)
            write_bytes(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in curve).encode())
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", ndcg10=f"{quality:.4f}")
    module.load_state_dict(best)
    module.eval().cpu()
    return curve


@contextlib.contextmanager
def drawing(seed: int, epoch: int, device: str) -> Iterator[None]:
    """Torch's generators, also the device's, give what (seed, epoch) says, and are as they were afterwards."""
    gpus = [torch.device(device).index or 0] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(int(fold(session_keys(seed, 1), epoch + 1)) % 2**32)
        yield


def precision(device: str, bf16: bool) -> contextlib.AbstractContextManager[Any]:
    """Matrix products in bfloat16, or as they come."""
    return torch.autocast(device.partition(":")[0], torch.bfloat16) if bf16 else contextlib.nullcontext()


def _ended(curve: Curve, epochs: int, patience: int) -> bool:
    return len(curve) >= epochs or (bool(curve) and len(curve) - 1 - best_epoch(curve) >= patience)


def best_epoch(curve: Curve) -> int:
    """The epoch that ranked the validation targets best, the first of equals."""
    return int(np.argmax([row["ndcg@10"] for row in curve]))
