"""Stable-Baselines3's view of `Sessions`: a native VecEnv, one batched torch step for all environments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.layout import layout_of
from recgym.env.session import Sessions
from recgym.random import fold, session_keys
from recgym.trees import leaves, put
from recgym.types import BoolArray, FloatArray, IntArray

_Step = tuple[FloatArray, FloatArray, BoolArray, list[dict[str, Any]]]


class SessionsVecEnv(VecEnv):
    """`num_envs` sessions that restart in the step in which they end.

    Observations are rows as `agents.layout` lays them out, (B, W) float32; actions 0..N-1, or (K,) of them. SB3
    knows no masks: a row holds the ids that may not be shown again, and networks that read it forbid them.

    Episode e of environment i has the key fold(fold(seed, i), e): the same whatever the other environments do. SB3
    gets the last observation of an ended session as `terminal_observation`, `TimeLimit.truncated` where the record was
    cut, and the session's return and length as `episode`. Rows that did not end share one empty info. `feedback`
    (B, K, F) is that of the last step.
    """

    def __init__(self, sessions: Sessions[Any], num_envs: int, *, seed: int, history: int = 0) -> None:
        """Start no session yet; `reset` does."""
        self.sessions, self.layout = sessions, layout_of(sessions, history)
        high = np.full(self.layout.width, np.inf, np.float32)
        size, count = sessions.config.slate_size, sessions.num_items
        super().__init__(
            num_envs,
            gymnasium.spaces.Box(-high, high, dtype=np.float32),
            gymnasium.spaces.Discrete(count) if size == 1 else gymnasium.spaces.MultiDiscrete([count] * size),
        )
        self._nothing: dict[str, Any] = {}
        self._ended_returns: list[FloatArray] = []
        self._ended_lengths: list[IntArray] = []
        self.feedback = torch.zeros(num_envs, size, len(sessions.users.kinds))
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Let the next `reset` begin with episode 0 of every environment under `seed`."""
        self._keys = session_keys(seed, self.num_envs)  # (B,)
        self._episode = torch.zeros(self.num_envs, dtype=torch.int64)  # (B,)

    def reset(self) -> FloatArray:
        """Start the next episode everywhere; (B, D + 1)."""
        self._state = self.sessions.reset(fold(self._keys, self._episode))
        self._shown = self._shown_at_start(self._state)
        self._episode += 1
        self._return = np.zeros(self.num_envs, np.float32)
        self._length = np.zeros(self.num_envs, np.int64)
        return self._rows(self._state, self._shown)

    def step_async(self, actions: IntArray) -> None:
        """Take note of the actions (B,), 0..N-1."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> _Step:
        """Observations (B, D + 1) after the step (of the new session where one ended), rewards, ends and infos."""
        slates = torch.from_numpy(self._actions).reshape(self.num_envs, -1).to(self.sessions.device, torch.int64) + 1
        if self.layout.shown:
            place = self._length[:, None] * self.layout.slate_size + np.arange(self.layout.slate_size)
            self._shown.scatter_(1, torch.from_numpy(place).to(slates.device), slates)
        with torch.no_grad():
            self._state, outcome = self.sessions.step(self._state, slates)
        if self.layout.shown:  # what a new visit allows again is forgotten
            self._shown *= _forbidden(self._state.shown, self._shown)
        self.feedback = outcome.response.feedback
        features = self._rows(self._state, self._shown)
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
            features[rows] = self._restart_rows(torch.from_numpy(rows))
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
            "shown": self._shown.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the sessions that `state_dict` gave, under the same seed."""
        self._state = self.sessions.reset(self._keys)
        for leaf, saved in zip(leaves(self._state), state["leaves"], strict=True):
            leaf.copy_(saved)
        self._episode = state["episode"].clone()
        self._return, self._length = state["return"].numpy().copy(), state["length"].numpy().copy()
        self._shown = state["shown"].clone()

    def _restart_rows(self, rows: Tensor) -> FloatArray:
        fresh = self.sessions.reset(fold(self._keys[rows], self._episode[rows]))
        self._episode[rows] += 1
        shown = self._shown_at_start(fresh)
        features = self._rows(fresh, shown)
        put(self._state, rows, fresh)
        self._shown[rows.to(shown.device)] = shown
        return features

    def _rows(self, state: Any, shown: Tensor) -> FloatArray:
        with torch.no_grad():
            return self.layout.pack(self.sessions.observe(state, self.layout.reads), shown).cpu().numpy().copy()

    def _shown_at_start(self, state: Any) -> Tensor:
        """Ids (B, S) that may not be shown in fresh sessions: room for the session's own, then the history's."""
        batch = len(state.steps)
        if not self.layout.shown:
            return torch.zeros(batch, 0, dtype=torch.int64, device=self.sessions.device)
        items, _ = self.sessions.users.history(state.users)
        own = torch.zeros(batch, self.layout.shown - items.shape[1], dtype=torch.int64, device=items.device)
        return torch.cat([own, items * _forbidden(state.shown, items)], 1)

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
        indices: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> list[Any]:
        """Each environment's row of `action_masks`, which sb3-contrib asks for; there is no other object to call."""
        if method_name == "action_masks":
            masks = self.action_masks()
            return [masks[index] for index in self._get_indices(indices)]
        raise AttributeError(f"cannot call {method_name!r}: SessionsVecEnv has no single environments; use `.sessions`")

    def action_masks(self) -> BoolArray:
        """True where an item may be shown now, once for each slot: (B, K N)."""
        size = self.layout.slate_size
        if not self.layout.shown:
            return np.ones((self.num_envs, size * self.layout.num_items), np.bool_)
        return self.layout.mask(self._shown).repeat(1, size).cpu().numpy()

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:  # noqa: ARG002
        """False for each: rows of a batch are wrapped in nothing."""
        return [False] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[None]:
        """None for each environment: render one session with `gymnasium.make` instead."""
        return [None] * self.num_envs


def _forbidden(mask: Tensor | None, items: Tensor) -> Tensor:
    """Whether the mask (B, N) of what was shown holds each of the ids (B, S); False for 0."""
    assert mask is not None
    return torch.nn.functional.pad(mask, (1, 0)).gather(1, items)
