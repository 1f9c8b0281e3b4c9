"""One row of a table, run or read again: training from a seed, and the ranks of all test targets.

A run's folder holds the training's checkpoints, the ranks under each ranking and `run.json`; what is there is not done
again, and a training that was stopped, or that should now be longer, goes on.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from torch import nn

from experiments.bench.backbones_protocols import Questions, Ranking
from experiments.bench.backbones_recipes import Recipe
from recgym.backbones.backbone import BackboneConfig, module_of
from recgym.backbones.baselines import fit_baseline
from recgym.backbones.checkpoints import ENDS
from recgym.backbones.epochs import Curve
from recgym.backbones.p5 import P5Config, P5Ranker
from recgym.backbones.p5_training import P5Training, train_p5
from recgym.backbones.ranking import Ranker, ranker_of
from recgym.backbones.training import TrainingConfig, train_backbone
from recgym.files import FormatError, read_json, write_bytes, write_json
from recgym.types import DoubleArray, IntArray

FORMAT, VERSION = "recgym-bench-backbone", 2
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
        FormatError: the folder is of another run, or of a longer one.
    """
    sequences, roles = questions.sequences, questions.roles
    config = recipe.config(sequences)
    training = replace(recipe.training, seed=seed, epochs=epochs or recipe.training.epochs)
    words = "cross-entropy of ids"
    training = replace(training, mask_seen=not questions.repeats)
    if isinstance(training, TrainingConfig):
        loss = training.loss
        words = loss.name if loss.name in ("cross-entropy", "in-batch") else f"{loss.name}, {loss.negatives:,}"
        words += " shared" * loss.shared
        words += f", penalty {loss.penalty:g}" if loss.penalty else ""
        words += f", weight decay {training.weight_decay:g}" if training.weight_decay else ""

    def fit() -> tuple[Ranker, dict[str, Any]]:
        ranker, module, curve = _trained(questions, config, training, folder)
        count = sum(weight.numel() for weight in module.parameters())
        size = f"{config.width} x {config.layers}, {count:,} weights"
        return ranker, {"size": size, "curve": curve, "seconds": curve[-1]["seconds"]}

    fields = asdict(training)
    ends = {end: fields.pop(end) for end in ENDS}
    run = _digest(asdict(config), fields, sequences.fingerprint(), roles, questions)
    return _ran(name, words, fit, run, questions, negatives, ends=ends, seed=seed, length=config.length, folder=folder)


def run_baseline(name: str, questions: Questions, negatives: dict[Ranking, IntArray | None], *, folder: Path) -> Ran:
    """Fit a baseline and rank."""
    sequences, roles = questions.sequences, questions.roles

    def fit() -> tuple[Ranker, dict[str, Any]]:
        begin = time.perf_counter()
        ranker = fit_baseline(name, sequences, roles)
        return ranker, {"size": "-", "curve": [], "seconds": time.perf_counter() - begin}

    run = _digest(name, sequences.fingerprint(), roles, questions)
    return _ran(name, "-", fit, run, questions, negatives, ends={}, seed=0, length=_BASELINE_LENGTH, folder=folder)


def _trained(
    questions: Questions, config: BackboneConfig, training: TrainingConfig | P5Training, folder: Path
) -> tuple[Ranker, nn.Module, Curve]:
    sequences, roles = questions.sequences, questions.roles
    if isinstance(training, TrainingConfig):
        one = train_backbone(sequences, roles, config, training, folder=folder, resume=True, progress=True)
        return ranker_of(one.backbone, sequences), module_of(one.backbone), one.curve
    assert isinstance(config, P5Config)
    other = train_p5(sequences, roles, config, training, folder=folder, resume=True, progress=True)
    return P5Ranker(other.model, sequences), other.model, other.curve


def _ran(
    name: str,
    loss: str,
    fit: Callable[[], tuple[Ranker, dict[str, Any]]],
    run: str,
    questions: Questions,
    negatives: dict[Ranking, IntArray | None],
    *,
    ends: dict[str, int],
    seed: int,
    length: int,
    folder: Path,
) -> Ran:
    """The run in `folder`, with what it lacks: nothing is fitted where all ranks are there and `ends` are the same."""
    path = folder / "run.json"
    about: dict[str, Any] = read_json(path, format=FORMAT, version=VERSION) if path.exists() else {}
    if about and about["run"] != run:
        raise FormatError(f"{path}: of another run (settings, split or log differ); delete it, or take another --out")
    same = bool(about) and about["ends"] == ends
    missing = {ranking: drawn for ranking, drawn in negatives.items() if not (same and _file(folder, ranking).exists())}
    if missing:
        ranker, found = fit()
        if not same:  # ranks under other rankings are of the shorter training
            for ranking in get_args(Ranking):
                _file(folder, ranking).unlink(missing_ok=True)
        about = {"format": FORMAT, "version": VERSION, "run": run, "ends": ends, **found}
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
