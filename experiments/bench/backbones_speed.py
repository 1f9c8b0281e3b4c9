"""What training and ranking a backbone cost: beside the floor of its matrix products, and beside SASRec.pytorch."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from experiments.bench.backbones_peer import running_peer
from experiments.bench.timing import machine, most_resident, threads
from recgym.backbones.backbone import BackboneConfig, make_backbone, module_of
from recgym.backbones.esasrec import ESASRecConfig
from recgym.backbones.objectives import LossConfig
from recgym.backbones.ranking import rank_targets, ranker_of
from recgym.backbones.sasrec import SASRecConfig
from recgym.backbones.training import TrainingConfig, train_backbone
from recgym.logs.sequences import Sequences
from recgym.logs.splits import TEST, TRAIN, Roles
from recgym.types import FeedbackKind

# SASRec.pytorch's layers are closest to these: the same norms, projections, ReLU and dropouts, in another order.
_PEERS_LIKE = SASRecConfig(width=50, layers=2, heads=1, length=50, layer="original", expansion=1)
_WIDE = SASRecConfig(width=64, layers=1, heads=1, length=50)
_SHARED = LossConfig(name="sampled-softmax", negatives=2_048, shared=True)
TRAININGS: dict[str, tuple[BackboneConfig, LossConfig]] = {
    "SASRec 50 x 2, one negative, original layers": (_PEERS_LIKE, LossConfig(name="bce", negatives=1)),
    "SASRec 50 x 2, all items, original layers": (_PEERS_LIKE, LossConfig()),
    "SASRec 64 x 1, all items": (_WIDE, LossConfig()),
    "SASRec 64 x 1, 2,048 shared negatives": (_WIDE, _SHARED),
    "SASRec 64 x 1, 256 own negatives": (_WIDE, LossConfig(name="sampled-softmax", negatives=256)),
    "eSASRec 64 x 1, 2,048 shared negatives": (ESASRecConfig(), _SHARED),
    "GRU 64 x 1, 2,048 shared negatives": (BackboneConfig(width=64, layers=1), _SHARED),
}


class Epoch(NamedTuple):
    """What one kind of training costs."""

    label: str
    seconds: float  # of the fastest epoch
    floor: float  # seconds that the loss's matrix products alone would take at the measured rate


def measure_training(
    sequences: Sequences, roles: Roles, *, peer: Path | None, num_threads: int, device: str, bf16: bool, rounds: int
) -> None:
    """Print seconds an epoch of `TRAININGS`, in turn with SASRec.pytorch where its folder is given."""
    steps = int((roles == TRAIN).sum())
    with threads(num_threads), running_peer(peer, sequences, num_threads) if peer else nullcontext() as other:
        print(f"\n{sequences.name}: {steps:,} training steps, {sequences.num_items:,} items, {num_threads} thread(s)")
        print(f"{machine()}, {device}, {'bfloat16' if bf16 else 'float32'}")
        rate = matmul_rate(device, 64, sequences.num_items, torch.bfloat16 if bf16 else torch.float32)
        print(f"matrix products of the softmax: {rate / 1e9:,.0f} GFLOP/s measured on (Q, 64) x (64, N)")
        best = dict.fromkeys(TRAININGS, np.inf)
        theirs = np.inf
        for _ in range(rounds):
            if other is not None:
                theirs = min(theirs, other.epoch())
            for label in TRAININGS:
                best[label] = min(best[label], _one_epoch(sequences, roles, label, device, bf16))
        if other is not None:
            print(f"{'SASRec.pytorch 50 x 2, one negative':48}{theirs:8.2f} s{steps / theirs:12,.0f} steps/s")
        for label, seconds in best.items():
            config, loss = TRAININGS[label]
            against = {"cross-entropy": sequences.num_items, "sampled-softmax": loss.negatives}.get(loss.name, 2)
            floor = 6 * steps * against * config.width / rate  # forward, and twice as much backward
            share = f"{floor / seconds:7.0%} at the floor" if loss.shared or loss.name == "cross-entropy" else " " * 20
            beside = f"{seconds / theirs:8.2f} x the peer" if other is not None else ""
            print(f"{label:48}{seconds:8.2f} s{steps / seconds:12,.0f} steps/s{share}{beside}")


def measure_ranking(sequences: Sequences, roles: Roles, *, num_threads: int, device: str, rounds: int) -> None:
    """Print the seconds of ranking every test target among all items."""
    asked = np.flatnonzero(sequences.targets & (roles == TEST))
    with threads(num_threads):
        for config in (_WIDE, BackboneConfig(width=64, layers=1)):
            backbone = make_backbone(config, sequences.num_items, sequences.feedback_scale)
            module_of(backbone).to(device)
            best = np.inf
            for _ in range(rounds):
                begin = time.perf_counter()
                rank_targets(ranker_of(backbone, sequences), sequences, asked, length=config.length, mask_seen=True)
                best = min(best, time.perf_counter() - begin)
            print(
                f"{config.model}: {len(asked):,} users ranked among {sequences.num_items:,} items in {best:.2f} s, "
                "what they had met left out"
            )


def measure_catalogue(num_items: int, *, num_threads: int, device: str) -> None:
    """Print what training on a catalogue of `num_items` takes, with shared negatives, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        seconds, peak = pool.submit(_large, num_items, num_threads, device).result()
    print(
        f"{num_items:,} items: {seconds:.2f} s for {_LARGE_USERS * _LARGE_STEPS:,} steps of SASRec 64 x 1 with 2,048 "
        f"shared negatives, {peak / 1e3:.2f} GB at the peak, libraries included"
    )


def matmul_rate(device: str, width: int, num_items: int, kind: torch.dtype = torch.float32) -> float:
    """FLOP/s of (Q, D) x (D, N) as the softmax needs it, the best of several Q: few rows stay in a CPU's cache."""
    best = 0.0
    for rows in (64, 768):
        left, right = (torch.randn(shape, device=device).to(kind) for shape in ((rows, width), (width, num_items)))
        product = left.new_empty(rows, num_items)  # new memory each time would cost more than the product
        for _ in range(5):
            begin = time.perf_counter()
            for _ in range(5):
                torch.mm(left, right, out=product)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            best = max(best, 5 * 2 * rows * width * num_items / (time.perf_counter() - begin))
    return best


_LARGE_USERS, _LARGE_STEPS = 4_000, 10


def _one_epoch(sequences: Sequences, roles: Roles, label: str, device: str, bf16: bool) -> float:
    config, loss = TRAININGS[label]
    training = TrainingConfig(
        loss=loss, epochs=1, batch_size=128, learning_rate=1e-3, validation_targets=1, fill_unmet=False, device=device,
        bf16=bf16,
    )  # fmt: skip
    with TemporaryDirectory() as scratch:
        return train_backbone(sequences, roles, config, training, folder=scratch).curve[0]["seconds"]


def _large(num_items: int, num_threads: int, device: str) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    count = _LARGE_USERS * _LARGE_STEPS
    log = Sequences(
        offsets=np.arange(0, count + 1, _LARGE_STEPS), item=rng.integers(1, num_items + 1, count, dtype=np.int32),
        feedback=np.ones((count, 1), np.float32), time=np.arange(count),
        session=np.repeat(np.arange(_LARGE_USERS), _LARGE_STEPS), propensity=np.full(count, np.nan),
        position=np.full(count, -1, np.int16), kinds=(FeedbackKind(name="consume"),), exposures=False,
        users=[str(user) for user in range(_LARGE_USERS)], items=pl.DataFrame({"item": np.arange(num_items)}),
    )  # fmt: skip
    roles = np.zeros(count, np.int8)
    roles[_LARGE_STEPS - 1] = 1
    training = TrainingConfig(
        loss=_SHARED, epochs=1, batch_size=128, validation_targets=1, fill_unmet=False, device=device
    )
    with threads(num_threads), TemporaryDirectory() as scratch:
        seconds = train_backbone(log, roles, _WIDE, training, folder=scratch).curve[0]["seconds"]
    return seconds, most_resident()
