"""Stable-Baselines3's view of `Sessions`: a native VecEnv, one batched torch step for all environments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.networks import features_of
from recgym.env.session import Sessions
from recgym.random import fold, session_keys
from recgym.trees import leaves, put
from recgym.types import BoolArray, FloatArray, IntArray

_Step = tuple[FloatArray, FloatArray, BoolArray, list[dict[str, Any]]]


class SessionsVecEnv(VecEnv):
    """`num_envs` sessions that restart in the step in which they end.

    Observations are the state and the context, (B, D + 1) float32; actions 0..N-1. SB3's DQN, PPO and A2C choose one
    item and know no masks, so training always runs with slates of one item and repeats allowed; the policy that comes
    out applies the mask, and fills a slate with its best K.

    Episode e of environment i has the key fold(fold(seed, i), e): the same whatever the other environments do. SB3
    gets the last observation of an ended session as `terminal_observation`, `TimeLimit.truncated` where the record was
    cut, and the session's return and length as `episode`. Rows that did not end share one empty info.
    """

    def __init__(self, sessions: Sessions[Any], num_envs: int, *, seed: int) -> None:
        """Start no session yet; `reset` does."""
        config = replace(sessions.config, slate_size=1, repeats="allow")
        self.sessions = type(sessions)(sessions.users, config, encoder=sessions.encoder)
        high = np.full(sessions.state_width + 1, np.inf, np.float32)
        super().__init__(
            num_envs, gymnasium.spaces.Box(-high, high, dtype=np.float32), gymnasium.spaces.Discrete(sessions.num_items)
        )
        self._nothing: dict[str, Any] = {}
        self._ended_returns: list[FloatArray] = []
        self._ended_lengths: list[IntArray] = []
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Let the next `reset` begin with episode 0 of every environment under `seed`."""
        self._keys = session_keys(seed, self.num_envs)  # (B,)
        self._episode = torch.zeros(self.num_envs, dtype=torch.int64)  # (B,)

    def reset(self) -> FloatArray:
        """Start the next episode everywhere; (B, D + 1)."""
        self._state = self.sessions.reset(fold(self._keys, self._episode))
        self._episode += 1
        self._return = np.zeros(self.num_envs, np.float32)
        self._length = np.zeros(self.num_envs, np.int64)
        return self._features(self._state).numpy().copy()

    def step_async(self, actions: IntArray) -> None:
        """Take note of the actions (B,), 0..N-1."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> _Step:
        """Observations (B, D + 1) after the step (of the new session where one ended), rewards, ends and infos."""
        slates = torch.from_numpy(self._actions).reshape(-1, 1).to(self.sessions.device, torch.int64) + 1
        self._state, outcome = self.sessions.step(self._state, slates)
        features = self._features(self._state).numpy().copy()
        reward = outcome.reward.to("cpu", torch.float32).numpy().copy()
        self._return += reward
        self._length += 1
        done = (outcome.terminated | outcome.truncated).cpu().numpy().copy()
        infos = [self._nothing] * self.num_envs
        if done.any():
            rows = np.flatnonzero(done)
            cut = (outcome.truncated & ~outcome.terminated).cpu().numpy()
            for row in rows:
                infos[row] = {
                    "terminal_observation": features[row].copy(),
                    "TimeLimit.truncated": bool(cut[row]),
                    "episode": {"r": float(self._return[row]), "l": int(self._length[row])},
                }
            self._ended_returns.append(self._return[rows])
            self._ended_lengths.append(self._length[rows])
            self._return[rows] = 0
            self._length[rows] = 0
            features[rows] = self._restart_rows(torch.from_numpy(rows)).numpy()
        return features, reward, done, infos

    def ended_sessions(self) -> tuple[FloatArray, IntArray]:
        """Returns (E,) and lengths (E,) of the sessions that ended since the last call."""
        returns = np.concatenate([np.zeros(0, np.float32), *self._ended_returns])
        lengths = np.concatenate([np.zeros(0, np.int64), *self._ended_lengths])
        self._ended_returns, self._ended_lengths = [], []
        return returns, lengths

    def state_dict(self) -> dict[str, Any]:
        """The sessions in progress, as tensors; their keys follow from the seed."""
        return {
            "leaves": [leaf.clone() for leaf in leaves(self._state)],
            "episode": self._episode.clone(),
            "return": torch.from_numpy(self._return.copy()),
            "length": torch.from_numpy(self._length.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the sessions that `state_dict` gave, under the same seed."""
        self._state = self.sessions.reset(self._keys)
        for leaf, saved in zip(leaves(self._state), state["leaves"], strict=True):
            leaf.copy_(saved)
        self._episode = state["episode"].clone()
        self._return, self._length = state["return"].numpy().copy(), state["length"].numpy().copy()

    def _restart_rows(self, rows: Tensor) -> Tensor:
        fresh = self.sessions.reset(fold(self._keys[rows], self._episode[rows]))
        self._episode[rows] += 1
        features = self._features(fresh)
        put(self._state, rows, fresh)
        return features

    def _features(self, state: Any) -> Tensor:
        with torch.no_grad():
            return features_of(self.sessions.observe(state, "state")).cpu()

    def close(self) -> None:
        """Nothing is held open."""

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """An attribute of this object, once for each environment; `render_mode` is None."""
        value = None if attr_name == "render_mode" else getattr(self, attr_name)
        return [value] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:  # noqa: ARG002
        """Refused: the environments are rows of one batch and share their attributes."""
        raise AttributeError(f"cannot set {attr_name!r}: SessionsVecEnv's environments share one `sessions`")

    def env_method(
        self,
        method_name: str,
        *args: Any,  # noqa: ARG002
        indices: Any = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> list[Any]:
        """Refused: there is no environment object to call."""
        raise AttributeError(f"cannot call {method_name!r}: SessionsVecEnv has no single environments; use `.sessions`")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:  # noqa: ARG002
        """False for each: rows of a batch are wrapped in nothing."""
        return [False] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[None]:
        """None for each environment: render one session with `gymnasium.make` instead."""
        return [None] * self.num_envs
