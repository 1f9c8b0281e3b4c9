"""Work on processes that share memory: forked from this one, in turns where asked, and never outliving it."""

from __future__ import annotations

import io
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

_PATIENCE = 0.5
"""Seconds between two looks at whether the parent still lives."""


def can_fork() -> bool:
    """Whether gradients can be computed in forked processes: on Linux without a GPU, and not from a daemon.

    A forked process cannot go on with the parent's CUDA context, nor with the autograd threads of a machine with a GPU.
    """
    return sys.platform == "linux" and not torch.cuda.is_available() and not multiprocessing.current_process().daemon


class Turns:
    """Lets `count` processes go one after another, 0, 1, ..., count - 1, 0, 1, ..."""

    def __init__(self, count: int) -> None:
        """It is the turn of 0."""
        context = multiprocessing.get_context("fork")
        self._ready = [context.Semaphore(int(index == 0)) for index in range(count)]
        self._parent = os.getpid()

    @contextmanager
    def turn(self, index: int) -> Iterator[None]:
        """Wait for the turn of `index`, and give it on to the next."""
        while not self._ready[index].acquire(timeout=_PATIENCE):
            check_parent(self._parent)
        yield
        self._ready[(index + 1) % len(self._ready)].release()


def check_parent(parent: int) -> None:
    """End this process where `parent` is not its parent any more."""
    if os.getppid() != parent:
        os._exit(1)


def forked(jobs: Sequence[Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Run each job in a process forked from this one; their results in order.

    Args:
        jobs: give tensors, numbers, strings, and lists and dicts of them; each computes on one thread.

    Raises:
        FloatingPointError: a job did, with its message.
        RuntimeError: a job raised something else, or its process was killed. The others are ended.
    """
    context = multiprocessing.get_context("fork")
    processes, receivers = [], []
    try:
        for index, job in enumerate(jobs):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(job, sender), daemon=True, name=f"worker-{index}")
            with warnings.catch_warnings():  # Python 3.12 warns of threads: TensorBoard's, which hold nothing of ours
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            sender.close()
            processes.append(process)
            receivers.append(receiver)
        results: dict[int, dict[str, Any]] = {}
        while len(results) < len(jobs):
            waiting = [receiver for index, receiver in enumerate(receivers) if index not in results]
            for ready in multiprocessing.connection.wait(waiting):
                index = receivers.index(ready)  # type: ignore[arg-type]
                results[index] = _result(receivers[index], processes[index])
        return [results[index] for index in range(len(jobs))]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for receiver in receivers:
            receiver.close()


def _result(receiver: Any, process: Any) -> dict[str, Any]:
    try:
        content = receiver.recv_bytes()
    except EOFError:
        process.join()
        raise RuntimeError(f"{process.name} ended without a result, exit code {process.exitcode}") from None
    found: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    if "error" in found:
        kind = FloatingPointError if found["kind"] == "FloatingPointError" else RuntimeError
        raise kind(f"{process.name}: {found['error']}")
    return found


def _work(job: Callable[[], dict[str, Any]], sender: Any) -> None:
    """What the process does; an interrupt goes to the parent alone, which ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        found = job()
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}", "kind": type(error).__name__}
    buffer = io.BytesIO()
    torch.save(found, buffer)
    sender.send_bytes(buffer.getvalue())
    sender.close()
