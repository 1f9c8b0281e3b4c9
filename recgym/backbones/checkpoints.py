"""Checkpoints of a training: the last and the one before it, and the minibatch on which a training failed."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from recgym.files import FormatError, write_bytes
from recgym.logs.sequences import Sequences
from recgym.logs.splits import Roles
from recgym.types import IntArray

LAST, PREVIOUS, DAMAGED = "checkpoints/last.pt", "checkpoints/previous.pt", "checkpoints/damaged.pt"
FAILED = "failed-batch.safetensors"
ENDS = ("epochs", "patience")
"""Fields of a training that say when it ends, and change nothing before."""


def run_key(config: Any, training: Any, sequences: Sequences, roles: Roles, *, ends: Collection[str] = ENDS) -> str:
    """What a run is: two dataclasses, but for the fields that say when it `ends`, the log and its split (M,)."""
    split = hashlib.sha256(roles.tobytes()).hexdigest()[:16]
    fields = {name: value for name, value in dataclasses.asdict(training).items() if name not in ends}
    return json.dumps([dataclasses.asdict(config), fields, sequences.fingerprint(), split])


def save_checkpoint(folder: Path, run: str, state: dict[str, Any]) -> None:
    """Write the last checkpoint, whole or not at all; the one that was the last becomes the previous."""
    buffer = io.BytesIO()
    torch.save({"run": run, **state}, buffer)
    if (folder / LAST).exists():
        (folder / LAST).replace(folder / PREVIOUS)
    write_bytes(folder / LAST, buffer.getvalue())


def load_checkpoint(folder: Path, run: str) -> dict[str, Any] | None:
    """The last checkpoint that can be read; None where there is none. A damaged one is set aside, with a warning.

    Raises:
        FormatError: it is of another run, or every checkpoint is damaged.
    """
    damaged = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            saved = _read(path)
        except Exception as error:  # torch and zipfile raise a dozen kinds for what may lie in a file
            damaged.append(f"{path}: damaged or foreign ({(str(error) or type(error).__name__).splitlines()[0]})")
            continue
        if saved.get("run") != run:
            raise FormatError(
                f"{path}: belongs to another run (settings or log differ); delete it, or use another folder"
            )
        if damaged:
            (folder / LAST).replace(folder / DAMAGED)  # what is good stays the previous one when the next is saved
            warnings.warn(f"{damaged[0]}; going on from {path.name}, one epoch before", stacklevel=4)
        return saved
    if damaged:
        raise FormatError(f"{'; '.join(damaged)}; delete to start again")
    return None


def save_failed_batch(folder: Path, module: nn.Module, steps: IntArray, sizes: Tensor) -> Path:
    """Write steps (P,) and sizes (B,) of a minibatch with the weights that met it, and say where."""
    tensors = {f"weights.{name}": tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
    tensors |= {"steps": torch.from_numpy(steps).contiguous(), "sizes": sizes.cpu().contiguous()}
    write_bytes(folder / FAILED, safetensors.torch.save(tensors))
    return folder / FAILED


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        if (part := archive.testzip()) is not None:  # torch does not compare checksums
            raise ValueError(f"{part} has another checksum")
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(saved, dict):
        raise TypeError(f"holds a {type(saved).__name__}, expected a dict")
    return saved
