"""One row of a table, run or read again: training from a seed, and the ranks of all test targets.

A run's folder holds the training's checkpoints, the ranks under each ranking and `run.json`; what is there is not done
again, and a training that was stopped goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from experiments.bench.backbones_protocols import Questions, Ranking
from experiments.bench.backbones_recipes import Recipe
from recgym.backbones.backbone import module_of
from recgym.backbones.ranking import Ranker, ranker_of
from recgym.backbones.training import Curve, train_backbone
from recgym.files import FormatError, read_json, write_bytes, write_json
from recgym.logs.sequences import Sequences
from recgym.logs.splits import Roles
from recgym.types import DoubleArray, IntArray

FORMAT, VERSION = "recgym-bench-backbone", 1
BASELINES = ("popularity", "repeat-history", "item-knn", "vsknn", "markov-history", "sequential-rules", "ease")
"""Names of rankers without training, where `recgym.backbones.baselines` is there."""
_BASELINE_LENGTH = 200


@dataclass(frozen=True, eq=False)
class Ran:
    """What one run of one row came to."""

    name: str
    loss: str
    size: str
    seed: int
    ranks: dict[Ranking, DoubleArray]
    """(Q,) under each ranking."""
    curve: Curve
    """Of the training; empty for a baseline."""
    seconds: float
    """Of training, or of fitting a baseline."""

    @property
    def best(self) -> float:
        """Validation NDCG@10 of the epoch that was kept; nan for a baseline."""
        return max((row["ndcg@10"] for row in self.curve), default=float("nan"))

    def seconds_to(self, quality: float) -> float:
        """Seconds of training until the validation NDCG@10 was `quality`; inf if it never was."""
        return next((row["seconds"] for row in self.curve if row["ndcg@10"] >= quality), float("inf"))


def run_recipe(
    name: str,
    recipe: Recipe,
    questions: Questions,
    negatives: dict[Ranking, IntArray | None],
    *,
    seed: int,
    epochs: int | None,
    folder: Path,
) -> Ran:
    """Train a recipe, or go on, and rank.

    Args:
        name: of the row.
        recipe: what is trained.
        questions: what is asked.
        negatives: of each ranking asked for, as of `Questions.negatives`.
        seed: of the training.
        epochs: at most; None: as the recipe says.
        folder: of this run.

    Raises:
        FormatError: the folder is of another run.
    """
    sequences, roles = questions.sequences, questions.roles
    config = recipe.config(sequences)
    training = dataclasses.replace(
        recipe.training, seed=seed, mask_seen=not questions.repeats, epochs=epochs or recipe.training.epochs
    )
    run = _digest(dataclasses.asdict(config), dataclasses.asdict(training), sequences.fingerprint(), roles, questions)

    def fit() -> tuple[Ranker, dict[str, Any]]:
        trained = train_backbone(sequences, roles, config, training, folder=folder, resume=True, progress=True)
        count = sum(weight.numel() for weight in module_of(trained.backbone).parameters())
        size = f"{config.width} x {config.layers}, {count:,} weights"
        about = {"size": size, "curve": trained.curve, "seconds": trained.curve[-1]["seconds"]}
        return ranker_of(trained.backbone, sequences), about

    loss = training.loss
    words = loss.name if loss.name in ("cross-entropy", "in-batch") else f"{loss.name}, {loss.negatives:,}"
    words += " shared" * loss.shared
    return _ran(name, words, fit, run, questions, negatives, seed=seed, length=config.length, folder=folder)


def run_baseline(name: str, questions: Questions, negatives: dict[Ranking, IntArray | None], *, folder: Path) -> Ran:
    """Fit a baseline and rank."""
    sequences, roles = questions.sequences, questions.roles

    def fit() -> tuple[Ranker, dict[str, Any]]:
        begin = time.perf_counter()
        ranker = _fit_baseline(name, sequences, roles)
        return ranker, {"size": "-", "curve": [], "seconds": time.perf_counter() - begin}

    run = _digest(name, sequences.fingerprint(), roles, questions)
    return _ran(name, "-", fit, run, questions, negatives, seed=0, length=_BASELINE_LENGTH, folder=folder)


def baselines() -> tuple[str, ...]:
    """The baselines that are there."""
    try:
        known = importlib.import_module("recgym.backbones.baselines").BASELINES
    except ModuleNotFoundError:
        return ()
    return tuple(name for name in BASELINES if name in known)


def _fit_baseline(name: str, sequences: Sequences, roles: Roles) -> Ranker:
    module = importlib.import_module("recgym.backbones.baselines")
    return cast("Callable[[str, Sequences, Roles], Ranker]", module.fit_baseline)(name, sequences, roles)


def _ran(
    name: str,
    loss: str,
    fit: Callable[[], tuple[Ranker, dict[str, Any]]],
    run: str,
    questions: Questions,
    negatives: dict[Ranking, IntArray | None],
    *,
    seed: int,
    length: int,
    folder: Path,
) -> Ran:
    """The run in `folder`, with what it lacks: nothing is fitted where every ranking is there."""
    path = folder / "run.json"
    about: dict[str, Any] = read_json(path, format=FORMAT, version=VERSION) if path.exists() else {}
    if about and about["run"] != run:
        raise FormatError(f"{path}: of another run (settings, split or log differ); delete it, or take another --out")
    missing = {
        ranking: drawn for ranking, drawn in negatives.items() if not (about and _file(folder, ranking).exists())
    }
    if missing:
        ranker, found = fit()
        about = {"format": FORMAT, "version": VERSION, "run": run, **found}
        write_json(path, about)
        for ranking, drawn in missing.items():
            array = io.BytesIO()
            np.save(array, questions.ranks(ranker, drawn, length=length))
            write_bytes(_file(folder, ranking), array.getvalue())
    ranks: dict[Ranking, DoubleArray] = {ranking: np.load(_file(folder, ranking)) for ranking in negatives}
    return Ran(name, loss, about["size"], seed, ranks, about["curve"], about["seconds"])


def _file(folder: Path, ranking: Ranking) -> Path:
    return folder / f"{ranking}.npy"


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Questions):
            part = [part.asked.tolist(), part.repeats]
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:16]
