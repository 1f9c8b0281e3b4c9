"""SASRec.pytorch, the field's common reference, epoch by epoch in a process of its own.

It is used as it stands in a checkout of github.com/pmixer/SASRec.pytorch: its model, its sampler with three workers,
its loss and optimiser; only the loop over minibatches and the seconds are written here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from recgym.logs.sequences import Sequences
from recgym.types import IntArray

_PATIENCE = 60
"""Seconds that it may take to end by itself; killed, it would leave its sampler's workers behind."""
_SCRIPT = """
import argparse, sys, time
import numpy as np, torch
folder, threads = sys.argv[1], int(sys.argv[2])
sys.path.insert(0, folder)
from model import SASRec
from utils import WarpSampler, data_partition
if __name__ == "__main__":
    torch.set_num_threads(threads)
    train, _, _, users, items = data_partition("log")
    args = argparse.Namespace(device="cpu", hidden_units=50, maxlen=50, num_blocks=2, num_heads=1, dropout_rate=.2,
                              norm_first=False)
    sampler = WarpSampler(train, users, items, batch_size=128, maxlen=50, n_workers=3)
    model = SASRec(users, items, args)
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(.9, .98))
    criterion = torch.nn.BCEWithLogitsLoss()
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        for _ in range((users - 1) // 128 + 1):
            user, history, right, wrong = (np.array(part) for part in sampler.next_batch())
            good, bad = model(user, history, right, wrong)
            there = np.where(right != 0)
            good, bad = good[there], bad[there]
            loss = criterion(good, torch.ones_like(good)) + criterion(bad, torch.zeros_like(bad))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(time.perf_counter() - begin, flush=True)
    sampler.close()
"""


class Peer:
    """A running SASRec.pytorch."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def epoch(self) -> float:
        """Seconds of one more epoch.

        Raises:
            ValueError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
            return float(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise ValueError(f"SASRec.pytorch ended with {self._process.poll()}; its message stands above") from error


@contextmanager
def running_peer(folder: Path, sequences: Sequences, threads: int) -> Iterator[Peer]:
    """Start SASRec.pytorch on the users and items of `sequences`; `folder` holds its model.py and utils.py.

    Raises:
        ValueError: the folder holds no SASRec.pytorch, or it does not start.
    """
    folder = next((place for place in (folder, folder / "python") if (place / "model.py").is_file()), folder)
    if not (folder / "utils.py").is_file():
        raise ValueError(
            f"{folder}: no model.py and utils.py of SASRec.pytorch; clone github.com/pmixer/SASRec.pytorch"
        )
    with TemporaryDirectory() as scratch:
        (Path(scratch) / "data").mkdir()
        pairs: IntArray = np.stack([sequences.user_of_step + 1, sequences.item.astype(np.int64)], 1)
        np.savetxt(Path(scratch) / "data" / "log.txt", pairs, fmt="%d")
        (Path(scratch) / "peer.py").write_text(_SCRIPT)
        process = subprocess.Popen(
            [sys.executable, "peer.py", str(folder.resolve()), str(threads)],
            cwd=scratch, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise ValueError(f"{folder}: SASRec.pytorch does not start; its message stands above")
            yield Peer(process)
        finally:
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_PATIENCE)  # its input ends: so it ends, and its sampler's workers before
            process.kill()
            process.wait()
