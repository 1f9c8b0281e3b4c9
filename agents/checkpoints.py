"""Checkpoints of training runs: one safetensors file of every tensor, with all else as JSON in its header.

Nothing is pickled, so that a policy folder, whose training ran in it, is safe to go on from, whoever made it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recgym.files import FormatError, write_bytes

CHECKPOINT = "checkpoints/last.safetensors"
FORMAT = "recgym-checkpoint-2"


def save_checkpoint(folder: Path, run: str, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts of the run that `run` describes; whole or not at all."""
    tensors: dict[str, Tensor] = {}
    header = {"format": FORMAT, "run": run, "content": json.dumps(_packed(content, tensors, set()))}
    write_bytes(folder / CHECKPOINT, safetensors.torch.save(tensors, header))


def load_checkpoint(folder: Path, run: str) -> dict[str, Any] | None:
    """The checkpoint in `folder`, or None where a run has not come to its first; tensors are on the CPU.

    Raises:
        FormatError: the file is truncated or foreign, or belongs to a run with other settings or another seed.
    """
    file = folder / CHECKPOINT
    if not file.exists():
        return None
    try:
        with safe_open(str(file), framework="pt") as stored:
            header = stored.metadata() or {}
            if header.get("format") != FORMAT:
                raise FormatError(f"{file}: field 'format' is not {FORMAT!r}; delete it to train from the start")
            theirs, ours = json.loads(header["run"]), json.loads(run)
            other = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
            if other:
                changes = ", ".join(f"{name} {theirs.get(name)!r} -> {ours.get(name)!r}" for name in other)
                raise FormatError(
                    f"{file}: belongs to a run with other settings ({changes}); resume with those, or start anew"
                )
            content: dict[str, Any] = _unpacked(json.loads(header["content"]), stored)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise FormatError(f"{file}: not a checkpoint ({error}); delete it to train from the start") from error
    return content


def _packed(part: Any, tensors: dict[str, Tensor], stores: set[int]) -> Any:
    """`part` as JSON, its tensors by name in `tensors`, each in a store of its own (`stores` holds their addresses)."""
    if isinstance(part, Tensor):
        kept = part.detach().cpu().contiguous()
        if kept.untyped_storage().data_ptr() in stores:
            kept = kept.clone()
        stores.add(kept.untyped_storage().data_ptr())
        name = str(len(tensors))
        tensors[name] = kept
        return {"tensor": name}
    if isinstance(part, dict):  # as pairs, since keys may be numbers
        return {"pairs": [[key, _packed(value, tensors, stores)] for key, value in part.items()]}
    if isinstance(part, list | tuple):
        return [_packed(value, tensors, stores) for value in part]
    if part is None or isinstance(part, bool | int | float | str):
        return part
    raise TypeError(f"a checkpoint holds tensors, numbers, strings, lists and dicts, not {type(part).__name__}")


def _unpacked(part: Any, stored: Any) -> Any:
    if isinstance(part, list):
        return [_unpacked(value, stored) for value in part]
    if not isinstance(part, dict):
        return part
    if "tensor" in part:
        return stored.get_tensor(part["tensor"]).clone()
    return {key: _unpacked(value, stored) for key, value in part["pairs"]}
