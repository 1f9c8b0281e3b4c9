"""Speed of the environment against its floor: a bare loop of the same backbone's incremental step on the same batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch

import recgym  # noqa: F401 (registers RecSession-v0)
from experiments.bench.timing import alternate, megabytes, threads
from recgym.backbones.backbone import Backbone, BackboneConfig, make_backbone, module_of
from recgym.env.session import Sessions
from recgym.env.vector import RecSessionVectorEnv
from recgym.logs.sequences import Starts
from recgym.random import session_keys
from recgym.types import FeedbackKind, IntArray
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
        with threads(self.threads):
            self._measure()

    def _measure(self) -> None:
        print(f"width 64, two layers, history 50, {self.num_items:,} items, {self.threads} thread(s); user-steps/s")
        print(f"{'':28}{'floor':>12}{'environment':>14}{'cost / floor':>14}{'users':>9}")
        (rate,) = alternate((single_step(gymnasium.make("RecSession-v0")),), self.seconds, self.rounds)
        print(f"{'gym.make (sample users)':28}{'':12}{rate:14,.0f}{'':14}{1:9,}")
        for model in ("gru", "sasrec"):
            users = bench_users(model, self.num_items)
            for batch in (self.num_envs, 1):
                floor, env = alternate(
                    (_floor(users.backbone, batch), batch_step(RecSessionVectorEnv(batch, users=users))),
                    self.seconds,
                    self.rounds,
                )
                print(
                    f"{model + ' backbone':28}{floor * batch:12,.0f}{env * batch:14,.0f}{floor / env:14.2f}{batch:9,}"
                )
            state = megabytes(users.reset(torch.arange(self.num_envs)))
            print(f"{'  state of the users':28}{state:12.0f} MB at {self.num_envs:,}")
        print("\npeers, steps/s measured elsewhere:")
        for name, figures in PEERS:
            print(f"  {name:38}{figures}")


def bench_users(
    model: str,
    num_items: int,
    *,
    num_kinds: int = 3,
    num_starts: int = 1024,
    length: int = 50,
    device: torch.device | str = "cpu",
) -> LearnedUsers:
    """Users with fresh weights: what a step costs does not depend on what was learned."""
    kinds = (FeedbackKind(name="click"), *(FeedbackKind(name=f"kind{k}", given="click") for k in range(1, num_kinds)))
    config = BackboneConfig(model=model, width=64, layers=2, heads=2, length=length)
    backbone = make_backbone(config, num_items, np.ones(num_kinds, np.float32))
    module_of(backbone).requires_grad_(False).to(device)
    heads = Heads(HeadShape(num_items=num_items, state_width=64, num_kinds=num_kinds)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(1, num_items + 1, (num_starts, length), generator=generator)
    feedback = torch.rand(num_starts, length, num_kinds, generator=generator).round()
    starts = Starts(torch.arange(num_starts), items, feedback)
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


def batch_step(env: RecSessionVectorEnv) -> Callable[[], None]:
    """One step of a vector environment with all that belongs to it: reward, autoreset, observation; random actions."""
    env.reset(seed=0)
    actions = _actions(env.sessions, env.num_envs)
    count = [0]

    def step() -> None:
        env.step(actions[count[0] % len(actions)])
        count[0] += 1

    return step


def core_step(sessions: Sessions[Any], batch: int) -> Callable[[], None]:
    """One step of the sessions alone, on their device: neither observation nor autoreset."""
    slates = torch.from_numpy(_actions(sessions, batch)).view(-1, batch, sessions.config.slate_size) + 1
    slates = slates.to(sessions.device)
    with torch.inference_mode():
        state = [sessions.reset(session_keys(0, batch))]
    count = [0]

    def step() -> None:
        with torch.inference_mode():
            state[0], _ = sessions.step(state[0], slates[count[0] % len(slates)], checked=True)
        count[0] += 1

    return step


def single_step(env: gymnasium.Env[Any, Any]) -> Callable[[], None]:
    """One step of a single environment, and its resets; random actions."""
    env.reset(seed=0)
    actions = list(_actions(env.unwrapped.sessions, 1)[:, 0])  # type: ignore[attr-defined]
    count = [0]

    def step() -> None:
        *_, terminated, truncated, _ = env.step(actions[count[0] % len(actions)])
        count[0] += 1
        if terminated or truncated:
            env.reset()

    return step


def _actions(sessions: Sessions[Any], batch: int) -> IntArray:
    """Random actions of 16 steps or more, (T, B) or (T, B, K)."""
    slots = (sessions.config.slate_size,) if sessions.config.slate_size > 1 else ()
    return np.random.default_rng(0).integers(sessions.num_items, size=(max(16, 64 // batch), batch, *slots))
