"""How much memory many users take: each population in a process of its own, which has had no other peak before."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch

from experiments.bench.env import batch_step
from experiments.bench.timing import megabytes, most_resident, resident, threads
from recgym.env.vector import RecSessionVectorEnv
from recgym.random import session_keys
from simulators import WORLDS
from simulators.registry import world_vector_env

_STEPS = 5


class Memory(NamedTuple):
    """What a population takes, in 10^6 bytes."""

    state: float  # all tensors of the sessions
    growth: float  # at the peak, over what the process had with the users loaded and one session


def memory_of(name: str, num_users: int) -> Memory:
    """Memory of `num_users` sessions behind the vector environment, five steps long.

    Args:
        name: a known world, or "sample" for the learned users of the wheel.
        num_users: sessions at once.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, name, num_users, torch.get_num_threads()).result()


def population_env(name: str, num_users: int) -> RecSessionVectorEnv:
    """The vector environment of a known world, or of the sample users."""
    return world_vector_env(num_users, world=name) if name in WORLDS else RecSessionVectorEnv(num_users, users=name)


def _measured(name: str, num_users: int, num_threads: int) -> Memory:
    with threads(num_threads):
        one = population_env(name, 1)
        batch_step(one)()
        before = resident()
        sessions = one.sessions
        step = batch_step(RecSessionVectorEnv(num_users, sessions=sessions))
        for _ in range(_STEPS):
            step()
        growth = most_resident() - before
        with torch.inference_mode():
            return Memory(megabytes(sessions.reset(session_keys(0, num_users))), growth)
