"""Fixtures that several folders share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real logs, from RECGYM_DATA or beside the checkout; the test is skipped where it is absent."""
    folder = Path(os.environ.get("RECGYM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real logs: set RECGYM_DATA to a folder with ml100k/, obd_men/, ...")
    return folder


@pytest.fixture
def several_threads() -> Iterator[None]:
    """Torch adds up on four threads, where tests have one otherwise."""
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(1)
