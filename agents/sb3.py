"""Runs a Stable-Baselines3 algorithm in segments, each ended by a row of the curve and a checkpoint.

A segment starts from what the checkpoint holds (weights, optimiser, counters, replay buffer, the sessions in progress)
and from a seed of its own. So a run resumed after a kill ends with the numbers it would have had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from tqdm import tqdm

from agents.bridge import SessionsVecEnv
from agents.learning import LearningCurve, Row, load_checkpoint, save_checkpoint, seed_segment

_COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_current_progress_remaining",
    "_n_calls",
    "exploration_rate",
)
_NEVER = 1 << 40
"""Rounds between SB3's own log rows: the segments write ours."""
_BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def learn(
    model: BaseAlgorithm,
    env: SessionsVecEnv,
    *,
    run: str,
    total_steps: int,
    segments: int,
    seed: int,
    folder: Path,
    resume: bool,
    progress: bool,
) -> None:
    """Train `model` until it has seen `total_steps` steps of `env`, from the checkpoint if `resume`.

    Args:
        model: a fresh SB3 algorithm on `env`.
        env: the sessions it learns in.
        run: description of agent and seed; a checkpoint of another run is refused.
        total_steps: user steps, rounded up to whole rollouts.
        segments: rows of the curve and checkpoints, spread evenly.
        seed: of exploration, sampling and shuffling; the model's own seed made its weights.
        folder: gets `log.jsonl`, `tensorboard/` and `checkpoints/last.pt`.
        resume: go on from the checkpoint where there is one.
        progress: show a bar.
    """
    checkpoint = load_checkpoint(folder, run) if resume else None
    curve = LearningCurve(folder, checkpoint["rows"] if checkpoint else [])
    model.set_logger(Logger(folder=None, output_formats=[]))
    if checkpoint:
        _restore(model, env, checkpoint)
    left = total_steps - model.num_timesteps
    with tqdm(
        total=total_steps, initial=model.num_timesteps, disable=not progress, unit="step", desc=type(model).__name__
    ) as bar:
        segment = _Segments(env, curve, bar, run=run, total_steps=total_steps, segments=segments, seed=seed)
        try:
            if left > 0:
                model.learn(left, callback=segment, log_interval=_NEVER, reset_num_timesteps=checkpoint is None)
        finally:
            curve.close()


class _Segments(BaseCallback):
    """Ends a segment at the first rollout that starts at or after its last step, when all updates are done."""

    def __init__(
        self,
        env: SessionsVecEnv,
        curve: LearningCurve,
        bar: Any,
        *,
        run: str,
        total_steps: int,
        segments: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.env, self.curve, self.bar = env, curve, bar
        self.run, self.total_steps, self.segments, self.seed = run, total_steps, segments, seed

    def _on_training_start(self) -> None:
        self._begin()

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps >= self._end:
            self._finish()
            self._begin()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.bar.update(self.model.num_timesteps - self.bar.n)

    def _on_training_end(self) -> None:
        self._finish()

    def _begin(self) -> None:
        segment = self.model.num_timesteps * self.segments // self.total_steps
        self._end = -(-(segment + 1) * self.total_steps // self.segments)
        seed_segment(self.seed, segment)

    def _finish(self) -> None:
        rewards, lengths = self.env.ended_sessions()
        row: Row = {
            "step": self.model.num_timesteps,
            "sessions": len(rewards),
            "session_reward": float(rewards.mean()) if len(rewards) else None,
            "session_length": float(lengths.mean()) if len(rewards) else None,
        }
        values = self.model.logger.name_to_value
        row.update({name: float(value) for name, value in values.items() if name.startswith("train/")})
        self.curve.add(row)
        if row["session_reward"] is not None:
            self.bar.set_postfix(session_reward=f"{row['session_reward']:.2f}")
        save_checkpoint(self.curve.folder, self.run, {"rows": self.curve.rows, **_state(self.model, self.env)})


def _state(model: BaseAlgorithm, env: SessionsVecEnv) -> dict[str, Any]:
    """All that the next segment depends on, as tensors, numbers and strings."""
    state = {
        "counters": {name: float(getattr(model, name)) for name in _COUNTERS if hasattr(model, name)},
        "policy": model.policy.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "last_observation": torch.from_numpy(np.array(model._last_obs)),
        "last_starts": torch.from_numpy(np.asarray(model._last_episode_starts).copy()),
        "sessions": env.state_dict(),
    }
    if isinstance(buffer := getattr(model, "replay_buffer", None), ReplayBuffer):
        filled = buffer.buffer_size if buffer.full else buffer.pos
        state["buffer"] = {name: torch.from_numpy(getattr(buffer, name)[:filled]) for name in _BUFFER}
        state["buffer_place"] = {"pos": buffer.pos, "full": buffer.full}
    return state


def _restore(model: BaseAlgorithm, env: SessionsVecEnv, state: dict[str, Any]) -> None:
    for name, value in state["counters"].items():
        setattr(model, name, type(getattr(model, name))(value))
    model.policy.load_state_dict(state["policy"])
    model.policy.optimizer.load_state_dict(state["optimizer"])
    model._last_obs = state["last_observation"].numpy()
    model._last_episode_starts = state["last_starts"].numpy()
    env.load_state_dict(state["sessions"])
    if isinstance(buffer := getattr(model, "replay_buffer", None), ReplayBuffer):
        for name, values in state["buffer"].items():
            getattr(buffer, name)[: len(values)] = values.numpy()
        buffer.pos, buffer.full = state["buffer_place"]["pos"], state["buffer_place"]["full"]
