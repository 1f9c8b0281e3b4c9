"""Speed and memory of known worlds and of learned users: batched, single, in bulk, beside their peers, on a GPU.

Compare figures of one run, and mind the load that it prints: two threads on cores that others use too wait for each
other and lose far more than their share. Single environments count seconds of a core, which others hardly change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import gymnasium
import torch

from experiments.bench.env import batch_step, bench_users, core_step, single_step
from experiments.bench.memory import memory_of, population_env
from experiments.bench.peers import measured_peers
from experiments.bench.timing import alternate, machine, threads
from experiments.worlds import band
from recgym.env.session import Sessions
from recgym.env.vector import RecSessionVectorEnv
from simulators import WORLDS
from simulators.registry import world_vector_env

Part = Literal["batched", "single", "memory", "scaling", "peers", "gpu"]
FLOORS = {"interest-evolution": 2e6, "interest-evolution-fixed": 5e6}
"""User-steps/s that a batch on two cores should reach: with ten fresh candidates a step, and with fixed ones."""
SINGLE = 20_000
"""Steps/s that a single environment of a known world should reach."""
MEGABYTES = 4000
"""Memory in which 100,000 users should fit."""
BULK = ("interest-evolution", "storefront", "sample")
"""Populations whose memory and scaling are measured."""
_LEARNED = ("gru", "sasrec")


@dataclass(frozen=True, kw_only=True)
class WorldsBench:
    """How the worlds are measured."""

    parts: tuple[Part, ...] = get_args(Part)
    """What to measure."""
    names: tuple[str, ...] = ()
    """Which worlds; none: all that need no files of the user's."""
    num_envs: int = 10_000
    """Users in a batch."""
    seconds: float = 0.5
    """Length of one measurement."""
    rounds: int = 3
    """Measurements of each, taken in turn; the best counts."""
    threads: int = 2
    """Torch threads."""
    clock: Literal["wall", "core"] = "wall"
    """Seconds that batches and scaling count: of the wall, or of a core ("core" with one thread, on a busy machine)."""
    bulk_users: int = 100_000
    """Users at once, for the memory."""
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Batches to compare the cost of a user-step at."""
    learned_users: int = 1_024
    """Batch of learned users whose catalogue and history grow."""
    catalogues: tuple[int, ...] = (500, 5_000, 50_000)
    """Catalogue sizes of learned users, in items."""
    lengths: tuple[int, ...] = (50, 200)
    """Lengths of their histories, in items."""
    peer_python: Path | None = None
    """Interpreter in which RecSim or SARDINE is installed; none: their figures are left out."""
    peer_sessions: int = 300
    """Sessions of the random policy there and here."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in self.names:
            if name not in WORLDS or WORLDS[name].files:
                ours = ", ".join(sorted(key for key, world in WORLDS.items() if not world.files))
                raise ValueError(f"no world without files is called {name!r}; there are {ours}")
        for field in ("num_envs", "rounds", "threads", "bulk_users", "learned_users"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}, expected at least 1")
        if self.peer_sessions < 2:
            raise ValueError(f"peer_sessions is {self.peer_sessions}, expected at least 2: an interval needs them")

    def __call__(self) -> None:
        """Measure and print."""
        with threads(self.threads):
            measured = f"best of {self.rounds} x {self.seconds:g} s of the {self.clock}"
            print(f"{self.threads} torch thread(s), {measured}; {machine()}")
            for part in self.parts:
                getattr(self, f"_{part}")()
            print(f"\n{machine()} at the end")

    @property
    def _clock(self) -> Callable[[], float]:
        return time.perf_counter if self.clock == "wall" else time.process_time

    @property
    def _worlds(self) -> tuple[str, ...]:
        return self.names or tuple(name for name, world in WORLDS.items() if not world.files)

    def _batched(self) -> None:
        print(f"\nbatches of {self.num_envs:,} users, M user-steps/s{'':13}environment  core step  slate")
        for name in self._worlds:
            env = world_vector_env(self.num_envs, world=name)
            steps = batch_step(env), core_step(env.sessions, self.num_envs)
            whole, core = (
                rate * self.num_envs for rate in alternate(steps, self.seconds, self.rounds, clock=self._clock)
            )
            floor = FLOORS.get(name, 0.0)
            print(
                f"  {name:44}{whole / 1e6:11.2f}{core / 1e6:11.2f}{WORLDS[name].slate_size:7}"
                + (f"   floor {floor / 1e6:g}: {_verdict(core, floor)}" if floor else ""),
                flush=True,
            )

    def _single(self) -> None:
        print(f"\nsingle environments (gym.make), steps per second of a core; floor {SINGLE:,}")
        for name in self._worlds:
            env = gymnasium.make(f"simulators:{WORLDS[name].gym_id}")
            (rate,) = alternate((single_step(env),), self.seconds, self.rounds, clock=time.process_time)
            print(f"  {name:44}{rate:11,.0f}   {_verdict(rate, SINGLE)}", flush=True)

    def _memory(self) -> None:
        print(f"\nmemory of {self.bulk_users:,} users in a process of their own, MB; at most {MEGABYTES:,}")
        for name in BULK:
            found = memory_of(name, self.bulk_users)
            verdict = "fits" if found.growth < MEGABYTES else "DOES NOT FIT"
            print(f"  {name:24}state {found.state:9,.0f}   peak growth {found.growth:9,.0f}   {verdict}", flush=True)

    def _scaling(self) -> None:
        print("\nscaling, ns per user-step (share of the first)")
        for name in BULK:
            envs = [population_env(name, size) for size in self.sizes]
            self._row(f"{name}, users", self.sizes, [batch_step(env) for env in envs], self.sizes)
        same = (self.learned_users,) * max(len(self.catalogues), len(self.lengths))
        for model in _LEARNED:  # the core step: a new session copies its history, which is as long as it is
            grown = [bench_users(model, items) for items in self.catalogues]
            steps = [core_step(Sessions(users), self.learned_users) for users in grown]
            self._row(f"{model}, items of the catalogue", self.catalogues, steps, same)
            grown = [bench_users(model, self.catalogues[0], length=length) for length in self.lengths]
            steps = [core_step(Sessions(users), self.learned_users) for users in grown]
            self._row(f"{model}, length of history", self.lengths, steps, same)

    def _row(
        self, label: str, sizes: tuple[int, ...], steps: list[Callable[[], None]], batches: tuple[int, ...]
    ) -> None:
        rates = alternate(tuple(steps), self.seconds, self.rounds, clock=self._clock)
        costs = [1e9 / rate / batch for rate, batch in zip(rates, batches, strict=False)]
        cells = (f"{size:9,}: {cost:8,.0f} ({cost / costs[0]:.2f})" for size, cost in zip(sizes, costs, strict=True))
        print(f"  {label:34}{''.join(cells)}", flush=True)

    def _peers(self) -> None:
        if self.peer_python is None:
            print("\npeers: none asked for (--worlds.peer-python: an interpreter with recsim or sardine)")
            return
        print(f"\npeers, random policy, steps per second of a core; reward of {self.peer_sessions} sessions of each")
        for peer in measured_peers(self.peer_python, seconds=self.seconds, sessions=self.peer_sessions):
            if peer.missing:
                print(f"  {peer.peer:32}not there: {peer.missing}")
                continue
            single = single_step(gymnasium.make(f"simulators:{WORLDS[peer.world].gym_id}"))
            many = batch_step(world_vector_env(self.num_envs, world=peer.world))
            with threads(1):
                rate, batches = alternate((single, many), self.seconds, self.rounds, clock=time.process_time)
            ours = band(peer.world, sessions=self.peer_sessions, seed=0)["random"]
            error = (ours.high - ours.low) / (2 * 1.96)
            apart = (ours.value - peer.mean) / (error**2 + peer.error**2) ** 0.5
            print(
                f"  {peer.peer:32}{peer.rate:9,.0f}, ours {rate:9,.0f} single and {batches * self.num_envs:12,.0f} in"
                f" batches; reward {peer.mean:8.2f} +- {peer.error:.2f}, ours {ours.value:8.2f} +- {error:.2f},"
                f" {apart:+.1f} standard errors apart",
                flush=True,
            )

    def _gpu(self) -> None:
        if not torch.cuda.is_available():
            print("\ngpu: none here")
            return
        print(f"\n{torch.cuda.get_device_name()}, M user-steps/s (environment, core step)")
        for name in (*self._worlds, *_LEARNED):
            cells = []
            for size in self.sizes:
                if name in WORLDS:
                    env = world_vector_env(size, world=name, device="cuda")
                else:
                    users = bench_users(name, self.catalogues[0], device="cuda")
                    env = RecSessionVectorEnv(size, users=users)
                steps = batch_step(env), core_step(env.sessions, size)
                whole, core = (rate * size / 1e6 for rate in alternate(steps, self.seconds, self.rounds))
                cells.append(f"{size:9,}: {whole:8.2f}, {core:8.2f}")
            print(f"  {name:44}{''.join(cells)}", flush=True)


def _verdict(rate: float, floor: float) -> str:
    return "reached" if rate >= floor else f"short, {rate / floor:.2f} of it"
