"""Independent jobs on a few processes, each with one thread: results as they come, Ctrl-C stops them all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from tqdm import tqdm

_PATIENCE = 1.0
"""Seconds between two looks at whether the parent still lives."""
Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, processes: int, description: str
) -> Iterator[tuple[Job, Result]]:
    """Yield (job, function(job)) as jobs end, with a progress bar.

    Args:
        function: at the top level of a module; it and the jobs travel to other processes.
        jobs: what to do.
        processes: at most; 1 works in this process.
        description: of the bar.

    Raises:
        Exception: what a job raised; the others are stopped.
    """
    with tqdm(total=len(jobs), desc=description, unit="job") as bar:
        if processes == 1 or len(jobs) < 2:
            for job in jobs:
                bar.set_postfix_str(str(job))
                result = function(job)
                bar.update()
                yield job, result
            return
        context = multiprocessing.get_context("spawn")
        with context.Pool(min(processes, len(jobs)), initializer=_quiet) as pool:
            for job, result in pool.imap_unordered(_Numbered(function), jobs):
                bar.update()
                bar.set_postfix_str(str(job))
                yield job, result
            pool.close()
            pool.join()


class _Numbered:
    """A function that gives its argument back beside the result; it can be pickled."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, job: Any) -> tuple[Any, Any]:
        return job, self.function(job)


def _quiet() -> None:
    """The parent alone hears Ctrl-C, and the process ends with it; one thread a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()


def _follow(parent: int) -> None:
    """End this process once `parent` is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(_PATIENCE)
    os._exit(1)
