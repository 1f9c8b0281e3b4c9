"""RecSession-v0, batched: one torch step for all environments, with Gymnasium's autoreset modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone
from recgym.env.render import Shown, draw, write
from recgym.env.resolve import resolve_sessions
from recgym.env.session import Repeats, SessionConfig, Sessions
from recgym.env.spaces import Surface
from recgym.random import fold, session_keys
from recgym.trees import put
from recgym.types import BoolArray, FloatArray, Reads
from recgym.users.model import UserModel

AUTORESET = ("next_step", "same_step", "disabled")
_Step = tuple[Any, FloatArray, BoolArray, BoolArray, dict[str, Any]]


class RecSessionVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """`num_envs` sessions of simulated users in lockstep; the single environment is the batch of one.

    Description, spaces, rewards and arguments are those of `RecSessionEnv`. Episode e of environment i under seed s has
    the key fold(session_keys(s, num_envs)[i], e): it is the same session whatever the other environments do.

    `autoreset` follows Gymnasium: "next_step" starts a new session in the step after the one that ended (its action is
    ignored, its reward 0), "same_step" at once (the last observation is in `info["final_obs"]`), "disabled" only when
    `reset(options={"reset_mask": mask})` asks for it.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 2}  # noqa: RUF012 (as Gymnasium)
    _state: Any = None
    _episode: Tensor | None = None

    def __init__(
        self,
        num_envs: int = 1,
        *,
        users: str | Path | UserModel[Any] = "sample",
        observation: Reads = "state",
        encoder: str | Path | Backbone | None = None,
        slate_size: int = 1,
        candidates: int | None = None,
        explore: float = 0.0,
        reward: Mapping[str, float] | None = None,
        repeats: Repeats = "allow",
        max_steps: int = 50,
        pessimism: float = 0.0,
        render_mode: str | None = None,
        autoreset: str = "next_step",
        device: str = "cpu",
        sessions: Sessions[Any] | None = None,
    ) -> None:
        """See `RecSessionEnv` for the arguments; `num_envs` sessions, `autoreset` one of `AUTORESET`."""
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}, expected at least 1")
        if autoreset not in AUTORESET:
            raise ValueError(f"autoreset is {autoreset!r}, expected one of {AUTORESET}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is {render_mode!r}, expected None or one of {self.metadata['render_modes']}")
        if sessions is None:
            config = SessionConfig(
                slate_size=slate_size, reward=reward, repeats=repeats, max_steps=max_steps, pessimism=pessimism
            )
            sessions = resolve_sessions(
                users, config, encoder=encoder, candidates=candidates, explore=explore, device=device
            )
        self.sessions: Sessions[Any] = sessions
        self.surface = Surface(self.sessions, observation)
        self.num_envs, self.render_mode, self.autoreset = num_envs, render_mode, autoreset
        self.single_observation_space = self.surface.observation_space
        self.single_action_space = self.surface.action_space
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.metadata = {**type(self).metadata, **_autoreset_metadata(autoreset)}
        self._roots: Tensor | None = None
        self._over = np.zeros(num_envs, np.bool_)
        self._records: list[list[Shown]] = [[] for _ in range(num_envs if render_mode else 0)]
        self._fresh = np.zeros(num_envs, np.bool_)

    @torch.inference_mode()  # faster than without gradients alone; nothing of it leaves this object
    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start sessions everywhere, or where `options["reset_mask"]` (B,) is True.

        Args:
            seed: of all environments, or one for each; None goes on with the next episodes.
            options: `reset_mask` alone.
        """
        mask = (options or {}).get("reset_mask")
        if seed is not None or self._roots is None:
            self._seed(seed)
        if mask is None or self._episode is None or self._state is None:
            self._state = self.sessions.reset(self._next_keys(None))
        else:
            rows = torch.from_numpy(np.flatnonzero(mask))
            put(self._state, rows, self.sessions.reset(self._next_keys(rows)))
        self._over[:] = False if mask is None else self._over & ~np.asarray(mask, np.bool_)
        for row, record in enumerate(self._records):
            if mask is None or mask[row]:
                record.clear()
        return self.surface.observe(self._state), self._info({}, np.zeros(self.num_envs, np.bool_))

    @torch.inference_mode()
    def step(self, actions: Any) -> _Step:
        """Show one slate in every session; actions (B,) or (B, K) from 0."""
        assert self._state is not None, "call reset before step"
        slates = self.surface.slates(actions, self.num_envs)
        restart = self._over.copy() if self.autoreset == "next_step" else np.zeros(self.num_envs, np.bool_)
        if self.autoreset == "disabled" and self._over.any():
            raise ValueError(f"session {int(np.argmax(self._over))} has ended: reset it before the next step")
        rows = torch.from_numpy(np.flatnonzero(restart))
        if len(rows) and self._state.shown is not None:
            self._state.shown[rows] = False  # ignored actions must not trip over the old session's repeats
        shown = self.sessions.items_of(self._state, slates) if self.render_mode is not None else slates
        self._state, outcome = self.sessions.step(self._state, slates, checked=True)
        reward = outcome.reward.cpu().numpy().astype(np.float32)
        terminated, truncated = outcome.terminated.cpu().numpy(), outcome.truncated.cpu().numpy()
        terms = {name: term.cpu().numpy() for name, term in outcome.terms.items()}
        if len(rows):
            put(self._state, rows, self.sessions.reset(self._next_keys(rows)))
            reward[restart], terminated[restart], truncated[restart] = 0, False, False
            for term in terms.values():
                term[restart] = 0
        self._over = terminated | truncated
        if self.render_mode is not None:
            self._note(shown, outcome.response.feedback, terminated, restart)
        info: dict[str, Any] = {f"reward_{name}": term for name, term in terms.items()}
        info["feedback"] = outcome.response.feedback.cpu().numpy()
        observation = self.surface.observe(self._state)
        if self.autoreset == "same_step" and self._over.any():
            observation = self._restart_at_once(observation, info)
        return observation, reward, terminated, truncated, self._info(info, ~restart)

    def render(self) -> tuple[Any, ...] | None:
        """Text ("ansi") or an image (H, W, 3) uint8 ("rgb_array") of each session so far."""
        if self.render_mode is None:
            return None
        paint = write if self.render_mode == "ansi" else draw
        return tuple(paint(self.sessions.users, record) for record in self._records)

    def close_extras(self, **_: Any) -> None:
        """Nothing is held open."""

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        if isinstance(seed, int | np.integer):
            self._np_random, self._np_random_seed = gymnasium.utils.seeding.np_random(int(seed))
            self._roots = session_keys(int(seed), self.num_envs)
        else:
            if len(seed) != self.num_envs:
                raise ValueError(
                    f"{len(seed)} seeds for {self.num_envs} environments; give one for each, or one in all"
                )
            known = [int(self.np_random.integers(2**31)) if one is None else int(one) for one in seed]
            self._roots = torch.cat([session_keys(one, 1) for one in known])
        self._episode = torch.zeros(self.num_envs, dtype=torch.int64)

    def _next_keys(self, rows: Tensor | None) -> Tensor:
        """Keys of the next episodes of `rows` (all if None), (R,)."""
        assert self._roots is not None
        assert self._episode is not None
        if rows is None:
            rows = torch.arange(self.num_envs)
        keys = fold(self._roots[rows], self._episode[rows])
        self._episode[rows] += 1
        return keys

    def _restart_at_once(self, observation: Any, info: dict[str, Any]) -> Any:
        """Begin new sessions where the old ones ended; their last observations go into `info`."""
        rows = torch.from_numpy(np.flatnonzero(self._over))
        last = np.empty(self.num_envs, dtype=object)
        final_mask, offered = self.surface.action_mask(self._state), self.surface.offered(self._state)
        for row in rows.tolist():
            last[row] = _row(observation, row)
        info["final_obs"], info["_final_obs"] = last, self._over.copy()
        final = {name: value.copy() for name, value in info.items() if not name.startswith(("final", "_"))}
        for value in final.values():
            value[~self._over] = 0
        if final_mask is not None:
            final["action_mask"] = final_mask
        if offered is not None:
            final["candidates"] = offered
        info["final_info"] = {**final, **{f"_{name}": self._over.copy() for name in final}}
        info["_final_info"] = self._over.copy()
        fresh = self.sessions.reset(self._next_keys(rows))
        put(self._state, rows, fresh)
        return self.surface.observe(self._state)

    def _info(self, info: dict[str, Any], happened: BoolArray) -> dict[str, Any]:
        """Gymnasium's layout of vector infos: an array a name, and beside it where it holds."""
        every = np.ones(self.num_envs, np.bool_)
        mask, offered = self.surface.action_mask(self._state), self.surface.offered(self._state)
        if mask is not None:
            info["action_mask"] = mask
        if offered is not None:
            info["candidates"] = offered
        for name in [name for name in info if not name.startswith(("_", "final"))]:
            info[f"_{name}"] = every if name in ("action_mask", "candidates") else happened.copy()
        return info

    def _note(self, slates: Tensor, feedback: Tensor, left: BoolArray, restart: BoolArray) -> None:
        """Remember for `render` what each session was shown; a record begins anew with its session."""
        for row, record in enumerate(self._records):
            if restart[row] or self._fresh[row]:
                record.clear()
            if not restart[row]:
                record.append(Shown(slates[row].tolist(), feedback[row].tolist(), bool(left[row])))
        self._fresh = self._over & (self.autoreset == "same_step")


def _row(observation: Any, row: int) -> Any:
    if isinstance(observation, dict):
        return {name: value[row] for name, value in observation.items()}
    return observation[row]


def _autoreset_metadata(autoreset: str) -> dict[str, Any]:
    """`autoreset_mode` for versions of Gymnasium that have it (1.1 and later)."""
    modes = getattr(gymnasium.vector, "AutoresetMode", None)
    return {} if modes is None else {"autoreset_mode": modes[autoreset.upper()]}
