"""Speed of the environment against its floor: a bare loop of the same backbone's incremental step on the same batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch

import recgym  # noqa: F401 (registers RecSession-v0)
from recgym.backbones.backbone import Backbone, BackboneConfig, make_backbone, module_of
from recgym.env.vector import RecSessionVectorEnv
from recgym.logs.sequences import Starts
from recgym.trees import leaves
from recgym.types import FeedbackKind
from recgym.users.heads import Heads, HeadShape
from recgym.users.learned import LearnedUsers

PEERS = (
    ("RecSim interest evolution", "14.6 k single, 43 k at 1,000 users"),
    ("RecSim NG (TensorFlow, both cores)", "6.9 k single, 0.80 M at 1,000, 1.11 M at 10,000 users"),
    ("SARDINE", "22 k single item, 19 k slate 10"),
    ("KuaiSim (learned transformer user)", "319 single, 794 requests/s at 16"),
    ("VirtualTaobao", "4.8 k single, 246 k batched by our own loop"),
    ("RecoGym (1,000 products)", "12.8 k single"),
    ("EasyRL4Rec CoatEnv (table look-up)", "243 k single"),
)
"""Peers' user-steps/s with a random policy, measured once on a 2-core machine of this kind; for scale only."""


@dataclass(frozen=True, kw_only=True)
class EnvBench:
    """How the environment is measured."""

    num_envs: int = 1024
    """Users in the batch."""
    num_items: int = 4000
    """Items of the catalogue."""
    seconds: float = 2.0
    """Length of one measurement."""
    rounds: int = 3
    """Measurements of each, taken in turn; the best counts."""
    threads: int = 1
    """Torch threads."""

    def __call__(self) -> None:
        """Measure and print."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            self._measure()
        finally:
            torch.set_num_threads(before)

    def _measure(self) -> None:
        print(f"width 64, two layers, history 50, {self.num_items:,} items, {self.threads} thread(s); user-steps/s")
        print(f"{'':28}{'floor':>12}{'environment':>14}{'cost / floor':>14}{'users':>9}")
        (rate,) = _alternate((_single(gymnasium.make("RecSession-v0")),), self.seconds, self.rounds)
        print(f"{'gym.make (sample users)':28}{'':12}{rate:14,.0f}{'':14}{1:9,}")
        for model in ("gru", "sasrec"):
            users = bench_users(model, self.num_items)
            for batch in (self.num_envs, 1):
                floor, env = _alternate(
                    (_floor(users.backbone, batch), _environment(users, batch)), self.seconds, self.rounds
                )
                print(
                    f"{model + ' backbone':28}{floor * batch:12,.0f}{env * batch:14,.0f}{floor / env:14.2f}{batch:9,}"
                )
            print(f"{'  state of the users':28}{_megabytes(users, self.num_envs):12.0f} MB at {self.num_envs:,}")
        print("\npeers, steps/s measured elsewhere:")
        for name, figures in PEERS:
            print(f"  {name:38}{figures}")


def bench_users(model: str, num_items: int, *, num_kinds: int = 3, num_starts: int = 1024) -> LearnedUsers:
    """Users with fresh weights: what a step costs does not depend on what was learned."""
    kinds = (FeedbackKind(name="click"), *(FeedbackKind(name=f"kind{k}", given="click") for k in range(1, num_kinds)))
    config = BackboneConfig(model=model, width=64, layers=2, heads=2, length=50)
    backbone = make_backbone(config, num_items, np.ones(num_kinds, np.float32))
    module_of(backbone).requires_grad_(False)
    heads = Heads(HeadShape(num_items=num_items, state_width=64, num_kinds=num_kinds)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(1, num_items + 1, (num_starts, 50), generator=generator)
    starts = Starts(torch.arange(num_starts), items, torch.rand(num_starts, 50, num_kinds, generator=generator).round())
    topics = torch.cat([torch.tensor([-1]), torch.arange(num_items) % 20])
    return LearnedUsers(
        backbone=backbone, heads=heads, topics=topics, kinds=kinds, exposures=True, repeats=True, ignored_hazard=1.0,
        starts=starts,
    )  # fmt: skip


def _floor(backbone: Backbone, batch: int) -> Callable[[], None]:
    """One incremental step."""
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(1, backbone.num_items + 1, (64, batch), generator=generator)
    feedback = torch.rand(batch, backbone.num_feedback, generator=generator).round()
    state = [backbone.start(batch), 0]

    def step() -> None:
        with torch.no_grad():
            state[0], _ = backbone.advance(state[0], items[state[1] % 64], feedback)
        state[1] += 1

    return step


def _environment(users: LearnedUsers, batch: int) -> Callable[[], None]:
    """One step of the vector environment with all that belongs to it: reward, autoreset, observation."""
    env = RecSessionVectorEnv(batch, users=users)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(users.num_items, size=(64, batch))
    count = [0]

    def step() -> None:
        env.step(actions[count[0] % 64])
        count[0] += 1

    return step


def _single(env: gymnasium.Env[Any, Any]) -> Callable[[], None]:
    env.reset(seed=0)
    count = [0]

    def step() -> None:
        *_, terminated, truncated, _ = env.step(count[0] % 500)
        count[0] += 1
        if terminated or truncated:
            env.reset()

    return step


def _alternate(steps: tuple[Callable[[], None], ...], seconds: float, rounds: int) -> list[float]:
    """Calls per second of each, the best of `rounds` measurements taken in turn."""
    best = [0.0] * len(steps)
    for _ in range(rounds):
        for place, step in enumerate(steps):
            for _ in range(5):
                step()
            count, begin = 0, time.perf_counter()
            while (spent := time.perf_counter() - begin) < seconds:
                step()
                count += 1
            best[place] = max(best[place], count / spent)
    return best


def _megabytes(users: LearnedUsers, batch: int) -> float:
    """Memory of the state of `batch` users."""
    state = users.reset(torch.arange(batch))
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves(state)) / 1e6
