"""Runs a Stable-Baselines3 algorithm in segments, each ended by a row of the curve and a checkpoint.

A segment starts from what the checkpoint holds (weights, optimiser, counters, the sessions in progress) and from a seed
of its own. So a run resumed after a kill ends with the numbers it would have had.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from tqdm import tqdm

from agents.checkpoints import load_checkpoint, save_checkpoint
from agents.learning import (
    LearningCurve,
    Row,
    describe,
    isolated_randomness,
    of_sessions,
    seed_segment,
)
from agents.task import Task
from agents.training import Judgement, check_finite
from recgym.policy import StoredPolicy

_COUNTERS = ("num_timesteps", "_n_updates", "_current_progress_remaining")
_NEVER = 1 << 40
"""Rounds between SB3's own log rows: the segments write ours."""
_ROLLOUT = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns")
_TERMS = ("loss", "objective")
"""Ends of the names under which SB3 notes what it optimises."""


def train(
    agent: Any,
    make_model: Callable[[Any], BaseAlgorithm],
    make_policy: Callable[[BaseAlgorithm], StoredPolicy],
    task: Task,
    *,
    seed: int,
    folder: Path | str,
    resume: bool,
    progress: bool,
) -> StoredPolicy:
    """Train until the model has seen `agent.total_steps` user steps, from the checkpoint if `resume`.

    Args:
        agent: the config: `total_steps` (rounded up to whole rollouts), `num_envs`, `segments`, `stopping`; a
            checkpoint of another is refused.
        make_model: a fresh SB3 algorithm on a VecEnv, once torch's generator is seeded.
        make_policy: the policy of a model as it is.
        task: what it learns from.
        seed: of exploration, sampling, shuffling, weights and users.
        folder: gets `log.jsonl`, `tensorboard/` and `checkpoints/last.safetensors`.
        resume: go on from the checkpoint where there is one.
        progress: show a bar.
    """
    folder, run, total_steps = Path(folder), describe(agent, seed), agent.total_steps
    folder.mkdir(parents=True, exist_ok=True)
    with isolated_randomness():
        env = task.environment(agent.num_envs, seed)
        seed_segment(seed, -1)
        model = make_model(env)
        checkpoint = load_checkpoint(folder, run) if resume else None
        curve = LearningCurve(folder, checkpoint["rows"] if checkpoint else [])
        model.set_logger(Logger(folder=None, output_formats=[]))
        judgement = Judgement(agent.stopping, task, seed)
        if checkpoint:
            _restore(model, env, checkpoint)
            judgement.load_state_dict(checkpoint["judgement"])
        left = total_steps - model.num_timesteps
        with tqdm(
            total=total_steps, initial=model.num_timesteps, disable=not progress, unit="step", desc=type(agent).__name__
        ) as bar:
            segment = _Segments(
                env, curve, bar, judgement, lambda: make_policy(model), run=run, total_steps=total_steps,
                segments=agent.segments, seed=seed,
            )  # fmt: skip
            try:
                if left > 0 and not judgement.over:
                    model.learn(left, callback=segment, log_interval=_NEVER, reset_num_timesteps=checkpoint is None)
            finally:
                curve.close()
        return judgement.pick(make_policy(model))


class _Segments(BaseCallback):
    """Ends a segment at the first rollout that starts at or after its last step, when all updates are done."""

    def __init__(
        self,
        env: Any,
        curve: LearningCurve,
        bar: Any,
        judgement: Judgement,
        policy: Callable[[], StoredPolicy],
        *,
        run: str,
        total_steps: int,
        segments: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.env, self.curve, self.bar, self.judgement, self.policy = env, curve, bar, judgement, policy
        self.run, self.total_steps, self.segments, self.seed = run, total_steps, segments, seed
        self._rollout: dict[str, Any] = {}

    def _on_training_start(self) -> None:
        self._begin()

    def _on_rollout_start(self) -> None:
        self._check()
        if self.model.num_timesteps >= self._end and not self.judgement.over:
            self._finish()
            self._begin()

    def _on_step(self) -> bool:
        return not self.judgement.over

    def _on_rollout_end(self) -> None:
        buffer: Any = self.locals["rollout_buffer"]
        self._rollout = {
            name: getattr(buffer, name) for name in _ROLLOUT
        }  # SB3 forgets them before the next one starts
        self.bar.update(self.model.num_timesteps - self.bar.n)

    def _on_training_end(self) -> None:
        self._check()
        if not self.judgement.over:
            self._finish()

    def _begin(self) -> None:
        segment = self.model.num_timesteps * self.segments // self.total_steps
        self._end = -(-(segment + 1) * self.total_steps // self.segments)
        seed_segment(self.seed, segment)

    def _check(self) -> None:
        """Stop where a loss that SB3 noted is not finite."""
        values = self.model.logger.name_to_value
        terms = {name: torch.tensor(float(value)) for name, value in values.items() if name.endswith(_TERMS)}
        if terms:
            check_finite(
                self.curve.folder, terms, {name: torch.from_numpy(part) for name, part in self._rollout.items()}
            )

    def _finish(self) -> None:
        row: Row = {"step": self.model.num_timesteps, **of_sessions(*self.env.ended_sessions())}
        values = {name: float(value) for name, value in self.model.logger.name_to_value.items()}
        noted = {name: value for name, value in values.items() if name.startswith("train/")}
        row.update({name: value if math.isfinite(value) else None for name, value in noted.items()})
        self.judgement.judge(self.policy(), row)
        self.curve.add(row)
        if row["session_reward"] is not None:
            self.bar.set_postfix(session_reward=f"{row['session_reward']:.2f}")
        state = {**_state(self.model, self.env), "judgement": self.judgement.state_dict()}
        save_checkpoint(self.curve.folder, self.run, {"rows": self.curve.rows, **state})


def _state(model: BaseAlgorithm, env: Any) -> dict[str, Any]:
    """All that the next segment depends on, as tensors, numbers and strings."""
    state = {
        "counters": {name: float(getattr(model, name)) for name in _COUNTERS if hasattr(model, name)},
        "policy": model.policy.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "last_observation": torch.from_numpy(np.array(model._last_obs)),
        "last_starts": torch.from_numpy(np.asarray(model._last_episode_starts).copy()),
        "sessions": env.state_dict(),
    }
    if (memory := getattr(model, "_last_lstm_states", None)) is not None:
        state["memory"] = [part.clone() for part in (*memory.pi, *memory.vf)]
    return state


def _restore(model: BaseAlgorithm, env: Any, state: dict[str, Any]) -> None:
    for name, value in state["counters"].items():
        setattr(model, name, type(getattr(model, name))(value))
    model.policy.load_state_dict(state["policy"])
    model.policy.optimizer.load_state_dict(state["optimizer"])
    model._last_obs = state["last_observation"].numpy()
    model._last_episode_starts = state["last_starts"].numpy()
    env.load_state_dict(state["sessions"])
    if "memory" in state:
        memory = [part.to(model.device) for part in state["memory"]]
        recurrent: Any = model
        recurrent._last_lstm_states = type(recurrent._last_lstm_states)(tuple(memory[:2]), tuple(memory[2:]))
