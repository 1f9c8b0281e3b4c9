"""Any Gymnasium environment with numbered actions as a task: what agents are proven on where the answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper
from torch import Tensor

from agents.layout import Layout
from agents.networks import Critic, ItemScorer
from recgym.env.session import CONTEXT_STEPS
from recgym.policy import recalled
from recgym.random import fold, session_keys
from recgym.types import FloatArray, Policy, Transitions


@dataclass(frozen=True, kw_only=True)
class GymTask:
    """An environment with a flat Box of observations and Discrete actions; does what `agents.task.Task` does.

    A row is the observation and the steps of the episode in hundreds. Nothing is shown, so nothing is masked, and runs
    in it cannot be resumed: the environment's own state is not in the checkpoint.
    """

    make: Callable[[], gymnasium.Env[Any, Any]]
    """Makes one environment."""
    logged: Transitions | None = None
    """Transitions for agents that learn from logs."""

    backbone = None
    users = None
    item_features = None
    item_categories = None
    history = 0
    slate_size = 1
    device = torch.device("cpu")

    @property
    def sessions(self) -> Any:
        """Refused: there are no users here.

        Raises:
            ValueError: always; the agent that asks needs their feedback.
        """
        raise ValueError("a plain Gymnasium environment has no users, whose feedback this agent reads: use agents.Task")

    def layout(self, slate_size: int | None = None) -> Layout:  # noqa: ARG002 (one action a step)
        """The observation, then the steps."""
        env = self.make()
        assert isinstance(env.action_space, gymnasium.spaces.Discrete) and env.observation_space.shape is not None
        return Layout(num_items=int(env.action_space.n), state_width=int(np.prod(env.observation_space.shape)))

    def environment(self, num_envs: int, seed: int, *, slate_size: int | None = None) -> GymRows:  # noqa: ARG002
        """Environments side by side that restart where they end."""
        return GymRows([self.make] * num_envs, seed)

    def scorer(self, *, gain: float = 1.0, slate_size: int | None = None, **fields: Any) -> ItemScorer:  # noqa: ARG002
        """A fresh network whose scores are zero."""
        return ItemScorer(self.layout(), **fields)

    def critic(self, *, slate_size: int | None = None, **fields: Any) -> Critic:  # noqa: ARG002
        """A fresh network for values of states."""
        return Critic(self.layout(), **fields)

    def item_vectors(self) -> tuple[Tensor, Tensor]:
        """Refused: actions have no vectors."""
        raise ValueError("the task has no backbone, and so no item vectors")

    def value_gain(self, spread: float, seed: int) -> float:  # noqa: ARG002
        """No backbone, no gain."""
        return 1.0

    def judge(self, policy: Policy, sessions: int, seed: int) -> float:
        """Mean return of `policy` over the first episodes of so many environments.

        Not over the episodes that end first: those are the short ones.
        """
        env, layout = self.environment(sessions, seed), self.layout()
        rows: Any = env.reset()
        returns, going = np.zeros(sessions), np.ones(sessions, np.bool_)
        step, memory, done = 0, None, None
        while going.any():
            keys = fold(session_keys(seed, len(rows)), step)
            seen = recalled(policy, layout.unpack(torch.from_numpy(rows)), memory, fresh=done)
            rows, reward, ended, _ = env.step(policy.act(seen, keys)[:, 0].numpy() - 1)
            returns += going * reward
            going &= ~ended
            step, memory, done = step + 1, seen.memory, torch.from_numpy(np.asarray(ended))
        return float(returns.mean())


class GymRows(VecEnvWrapper):
    """Environments whose observations are rows: the flat observation, then the steps of the episode in hundreds."""

    def __init__(self, makers: list[Callable[[], gymnasium.Env[Any, Any]]], seed: int) -> None:
        """Make them; `reset` starts the first episodes under `seed`."""
        inner = DummyVecEnv(makers)
        inner.seed(seed)
        assert inner.observation_space.shape is not None
        width = int(np.prod(inner.observation_space.shape)) + 1
        high = np.full(width, np.inf, np.float32)
        super().__init__(inner, observation_space=gymnasium.spaces.Box(-high, high, dtype=np.float32))
        self.returns: list[float] = []
        self.lengths: list[int] = []

    def reset(self) -> FloatArray:
        """First rows, (B, W)."""
        self._length = np.zeros(self.num_envs, np.int64)
        self._return = np.zeros(self.num_envs)
        return self._rows(np.asarray(self.venv.reset()), self._length)

    def step_wait(self) -> tuple[FloatArray, Any, Any, list[dict[str, Any]]]:
        """Rows after the step, rewards, ends and infos."""
        after, reward, done, infos = self.venv.step_wait()
        self._length += 1
        self._return += reward
        for row in np.flatnonzero(done):
            last = np.asarray(infos[row]["terminal_observation"])[None]
            infos[row]["terminal_observation"] = self._rows(last, self._length[row : row + 1])[0]
            self.returns.append(float(self._return[row]))
            self.lengths.append(int(self._length[row]))
            self._return[row], self._length[row] = 0, 0
        return self._rows(np.asarray(after), self._length), reward, done, infos

    def ended_sessions(self) -> tuple[Any, Any]:
        """Returns (E,) and lengths (E,) of the episodes that ended since the last call."""
        found = np.array(self.returns), np.array(self.lengths)
        self.returns, self.lengths = [], []
        return found

    def has_attr(self, attr_name: str) -> bool:
        """Whether the environments have it; masks are made up where they have none."""
        return attr_name == "action_masks" or super().has_attr(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call it in each environment; every action is allowed where there are no `action_masks`."""
        if method_name == "action_masks" and not super().has_attr(method_name):
            assert isinstance(self.action_space, gymnasium.spaces.Discrete)
            return [np.ones(int(self.action_space.n), np.bool_)] * self.num_envs
        return super().env_method(method_name, *args, indices=indices, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the environments keep their state to themselves."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refused.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a run in a plain Gymnasium environment cannot be resumed")

    @staticmethod
    def _rows(observations: Any, length: Any) -> FloatArray:
        flat = observations.reshape(len(observations), -1)
        return np.concatenate([flat, length[:, None] / CONTEXT_STEPS], 1).astype(np.float32)
