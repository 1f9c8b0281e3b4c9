"""What the benchmarks share: calls per second taken in turn, and the memory of a state and of a process."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from recgym.trees import leaves

_WARM_UP = 3
"""Calls before each measurement that do not count."""


def alternate(
    steps: tuple[Callable[[], None], ...],
    seconds: float,
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Calls per second of each, the best of `rounds` measurements taken in turn; a GPU is waited for.

    With `clock=time.process_time` seconds of a core count: what a machine that others use too can tell of one thread.
    """
    best = [0.0] * len(steps)
    for _ in range(rounds):
        for place, step in enumerate(steps):
            for _ in range(_WARM_UP):
                step()
            _wait()
            count, begin = 0, clock()
            while clock() - begin < seconds:
                step()
                count += 1
            _wait()
            best[place] = max(best[place], count / max(clock() - begin, 1e-9))
    return best


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block with `count` torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def megabytes(state: object) -> float:
    """Memory of all tensors of a state, 10^6 bytes."""
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves(state)) / 1e6


def resident() -> float:
    """Memory of this process now, 10^6 bytes; where the system does not tell, the most so far."""
    try:
        return _status("VmRSS")
    except OSError:
        return most_resident()


def most_resident() -> float:
    """The most memory that this process has had, 10^6 bytes."""
    try:
        return _status("VmHWM")  # of this program alone, where getrusage counts what its parent had at the start
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def machine() -> str:
    """Cores and load, to judge the figures by."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return f"{os.cpu_count()} cores, load {load} over 1, 5 and 15 minutes"


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:"))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
