"""What training costs: user steps a second beside SB3's own vector environment, and where the time goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import stable_baselines3
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

import recgym  # noqa: F401 (registers RecSession-v0)
from agents import Task, make_agent
from agents.actor_critic import ItemActorCritic, networks
from agents.bridge import SessionsVecEnv
from agents.layout import Layout
from agents.learning import even_batch
from agents.replay import Replay
from experiments.bench.timing import machine, threads
from recgym.env.session import SessionConfig, Sessions
from recgym.users.storage import load_users

_EPOCHS, _BATCH = 3, 512


@dataclass(frozen=True, kw_only=True)
class LearningBench:
    """Measure training on the sample users."""

    users: int = 1_024
    """Sessions side by side on the native bridge."""
    envs: int = 8
    """Environments of the peer, `DummyVecEnv` of `gymnasium.make("RecSession-v0")`."""
    steps: int = 40_000
    """User steps of each training."""
    rounds: int = 2
    """Trainings of each, taken in turn; the best counts."""
    agents: tuple[str, ...] = ("ppo", "a2c", "dqn", "reinforce")
    """Agents whose time is split into environment and learning."""
    threads: int = 1
    """Torch threads."""
    device: str = "cpu"
    """Where users and networks live; "cuda" on a GPU."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("users", "envs", "steps", "rounds", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")

    def __call__(self) -> None:
        """Run the benchmark."""
        with threads(self.threads):
            print(f"{self.threads} torch thread(s), {machine()}")
            self._peer()
            self._shares()
        _memory()

    def _task(self) -> Task:
        users = load_users("sample", device=self.device)
        return Task(sessions=Sessions(users, SessionConfig()), backbone=users.backbone)

    def _peer(self) -> None:
        """PPO with one network and one rollout size, on the bridge and on SB3's own vector environment."""
        task = self._task()
        users: Any = task.sessions.users
        best = {"bridge": 0.0, "peer": 0.0}
        for _ in range(self.rounds):
            bridge = SessionsVecEnv(task.sessions, self.users, seed=0)
            best["bridge"] = max(best["bridge"], self._pace(task, bridge, self.steps))
            peer = DummyVecEnv([lambda: gymnasium.make("RecSession-v0", users=users)] * self.envs)
            best["peer"] = max(best["peer"], self._pace(task, peer, self.steps // 8))
        print(
            f"PPO, user steps/s with learning: {best['bridge']:,.0f} at {self.users:,} users on the bridge, "
            f"{best['peer']:,.0f} on {self.envs} environments of DummyVecEnv: {best['bridge'] / best['peer']:.1f} times"
        )

    def _pace(self, task: Task, env: Any, steps: int) -> float:
        length = max(1, 8 * self.users // env.num_envs // 8)  # the same steps a rollout
        rollout = min(length, max(2, steps // env.num_envs))
        model = stable_baselines3.PPO(
            ItemActorCritic, env, n_steps=rollout, batch_size=even_batch(rollout * env.num_envs, _BATCH),
            n_epochs=_EPOCHS, device=task.device, policy_kwargs=networks(task, hidden=64, temperature=1.0),
        )  # fmt: skip
        begun = time.perf_counter()
        model.learn(steps)
        return model.num_timesteps / (time.perf_counter() - begun)

    def _shares(self) -> None:
        """Seconds of each agent's training in the environment and in everything else."""
        step, spent = SessionsVecEnv.step_wait, [0.0]

        def timed(env: SessionsVecEnv) -> Any:
            begun = time.perf_counter()
            found = step(env)
            spent[0] += time.perf_counter() - begun
            return found

        for name in self.agents:
            agent: Any = replace(make_agent(name), total_steps=self.steps, segments=1)  # type: ignore[type-var]
            spent[0] = 0.0
            SessionsVecEnv.step_wait = timed  # type: ignore[assignment,method-assign]
            try:
                with TemporaryDirectory() as folder:
                    begun = time.perf_counter()
                    agent.train(self._task(), seed=0, folder=folder)
                    total = time.perf_counter() - begun
            finally:
                SessionsVecEnv.step_wait = step  # type: ignore[method-assign]
            print(
                f"{name}: {self.steps / total:,.0f} user steps/s; {spent[0] / total:.0%} of the time in the "
                f"environment, {1 - spent[0] / total:.0%} in choosing and learning"
            )


def _memory() -> None:
    """Bytes of a replay of 10^6 transitions whose observations are histories of 50 items with two kinds of feedback."""
    layout = Layout(num_items=10_000, state_width=64, history=50, num_feedback=2)
    small = Replay(4_096, 64, layout.width, num_feedback=2)
    stored = [part for part in vars(small).values() if isinstance(part, torch.Tensor)]
    each = sum(part.numel() * part.element_size() for part in stored) / (small.length * small.num_envs)
    print(
        f"replay of 10^6 transitions, history of 50 items, 2 kinds of feedback, state of 64: {each * 1e6 / 1e9:.2f} GB"
    )
