"""Checkpoints come back as they were, number by number; what is foreign, truncated or another run's is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.checkpoints import CHECKPOINT, load_checkpoint, save_checkpoint
from recgym.files import FormatError


def test_everything_comes_back(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    content: dict[str, Any] = {
        "numbers": [1, 0.1, -math.inf, True, None, "x"],
        "state": {0: {"step": torch.tensor(3.0), "betas": [0.9, 0.999]}, "empty": {}},
        "tensors": [base, base[0], base.T, base.bool(), torch.zeros(0, 4, dtype=torch.int32), torch.tensor(7)],
        "double": torch.tensor([1 / 3], dtype=torch.float64),
    }
    save_checkpoint(tmp_path, "{}", content)
    found = load_checkpoint(tmp_path, "{}")
    assert found is not None
    assert found["numbers"] == content["numbers"] and found["state"]["empty"] == {}
    assert found["state"][0]["betas"] == [0.9, 0.999] and found["state"][0]["step"].shape == ()
    for one, other in zip(found["tensors"], content["tensors"], strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    assert float(found["double"]) == 1 / 3
    found["tensors"][0].fill_(5.0)
    again = load_checkpoint(tmp_path, "{}")
    assert again is not None and torch.equal(again["tensors"][0], base)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, "{}") is None
    save_checkpoint(tmp_path, '{"seed": 0}', {"x": torch.ones(3)})
    with pytest.raises(FormatError, match=r"other settings \(seed 0 -> 1\)"):
        load_checkpoint(tmp_path, '{"seed": 1}')
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[:-4])
    with pytest.raises(FormatError, match="not a checkpoint"):
        load_checkpoint(tmp_path, '{"seed": 0}')
    (tmp_path / CHECKPOINT).write_bytes(whole.replace(b"recgym-checkpoint-2", b"recgym-checkpoint-0"))
    with pytest.raises(FormatError, match="'format' is not 'recgym-checkpoint-2'"):
        load_checkpoint(tmp_path, '{"seed": 0}')
    with pytest.raises(TypeError, match="not set"):
        save_checkpoint(tmp_path, "{}", {"x": {1, 2}})
