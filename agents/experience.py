"""How off-policy agents meet users: epsilon-greedy sessions side by side, kept in a replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.choice import allow
from agents.learning import Row, of_sessions
from agents.replay import Batch, Replay
from agents.task import Task
from recgym.types import Observation


class Experience:
    """Sessions side by side and what they brought; draws come from torch's global generator, seeded by segments.

    Rows are kept on the CPU, whatever the device that networks live on.
    """

    def __init__(
        self,
        task: Task,
        config: Any,
        seed: int,
        *,
        slate_size: int = 1,
        alpha: float = 0.0,
        beta: float = 0.4,
        reach: int | None = None,
    ) -> None:
        """Start the sessions.

        Args:
            task: whose users.
            config: of the agent: `total_steps`, `num_envs`, `buffer_size`, `learning_starts`, `exploration_fraction`,
                `final_epsilon` and `backbone_exploration`; and `steps` of a transition, where it has more than one.
            seed: of the users and their luck.
            slate_size: items a step, K.
            alpha: exponent of the priorities; 0 draws uniformly.
            beta: exponent of the importance weights at the start; it rises to 1.
            reach: steps that a draw spans; None: those of a transition.

        Raises:
            ValueError: the buffer is too small to hold one transition.
        """
        self.config, self.beta, self.device = config, beta, task.device
        self.env, self.layout = task.environment(config.num_envs, seed, slate_size=slate_size), task.layout(slate_size)
        self.prior = task.item_vectors() if task.backbone is not None else None
        self.rows = torch.from_numpy(np.asarray(self.env.reset()))
        self.steps = 0
        kinds = getattr(self.env, "feedback", torch.zeros(1, 1, 1)).shape[2]
        self.replay = Replay(
            config.buffer_size,
            config.num_envs,
            self.layout.width,
            slate_size=slate_size,
            num_feedback=kinds,
            alpha=alpha,
        )
        self.reach = int(getattr(config, "steps", 1)) if reach is None else reach
        if self.replay.length <= max(2, self.reach):
            raise ValueError(
                f"buffer_size is {config.buffer_size}, which keeps {self.replay.length} steps of each of "
                f"{config.num_envs} sessions: expected more than {max(2, self.reach)}"
            )

    @property
    def epsilon(self) -> float:
        """Chance of an exploring step now."""
        config = self.config
        if self.steps < config.learning_starts:
            return 1.0
        share = min(1.0, self.steps / max(1.0, float(config.exploration_fraction * config.total_steps)))
        return 1.0 + share * (float(config.final_epsilon) - 1.0)

    @property
    def left(self) -> float:
        """Share of `total_steps` still to come."""
        return max(0.0, 1.0 - self.steps / float(self.config.total_steps))

    @property
    def ready(self) -> bool:
        """Whether there is enough to learn from."""
        return self.steps >= self.config.learning_starts and self.replay.size > max(2, self.reach)

    def practise(
        self,
        last: int,
        act: Callable[[], None],
        update: Callable[[], Tensor],
        copied: tuple[nn.Module, nn.Module] | None = None,
    ) -> list[Tensor]:
        """Act, keep and learn up to user step `last`: what each update gave.

        Args:
            last: user steps.
            act: takes one step of every session.
            update: one gradient step; the config's `gradient_steps` after each act, once there is enough to learn from.
            copied: a target and the network it is a copy of, made anew every `target_update_interval` steps.
        """
        found: list[Tensor] = []
        while self.steps < last:
            before = self.steps
            act()
            if copied is not None:
                interval = self.config.target_update_interval
                if self.steps // interval > before // interval:
                    copied[0].load_state_dict(copied[1].state_dict())
            if self.ready:
                found += [update() for _ in range(self.config.gradient_steps)]
        return found

    def act(self, scores: Callable[[Observation], Tensor]) -> None:
        """One step of every session: the best K items by `scores` (B, N), or exploring ones, never a forbidden one."""
        observation = self.layout.unpack(self.rows)
        seen = observation if self.device.type == "cpu" else self.layout.unpack(self.rows.to(self.device))
        with torch.no_grad():
            best = _top(allow(scores(seen), seen.mask), self.layout.slate_size).cpu()
        self.take(torch.where(torch.rand(len(best), 1) < self.epsilon, self._explore(observation), best))

    def take(self, action: Tensor) -> None:
        """One step of every session with the given items (B, K), from 0."""
        numbers = action[:, 0] if self.layout.slate_size == 1 else action
        after, reward, done, infos = self.env.step(numbers.numpy())
        cut = np.zeros(len(done), np.bool_)
        for row in np.flatnonzero(done):
            cut[row] = infos[row].get("TimeLimit.truncated", False)
        last = [torch.from_numpy(infos[row]["terminal_observation"]) for row in np.flatnonzero(cut)]
        feedback = getattr(self.env, "feedback", torch.zeros(len(done), 1, 1)).cpu()
        self.replay.add(
            row=self.rows,
            action=action,
            reward=torch.from_numpy(np.asarray(reward)),
            left=torch.from_numpy(done & ~cut),
            cut=torch.from_numpy(cut),
            last=torch.stack(last) if last else torch.zeros(0, self.layout.width),
            feedback=feedback,
        )
        self.rows = torch.from_numpy(np.asarray(after))
        self.steps += len(done)

    def sample(self, count: int, *, discount: float, steps: int = 1) -> Batch:
        """Draw from the replay, for the networks' device; see `Replay.sample`."""
        beta = self.beta + min(1.0, self.steps / self.config.total_steps) * (1 - self.beta)
        found = self.replay.sample(count, discount=discount, steps=steps, beta=beta)
        return Batch(*(part.to(self.device) for part in found))

    def row(self) -> Row:
        """Sessions that ended since the last row: how many, their mean return and length."""
        return {**of_sessions(*self.env.ended_sessions()), "epsilon": self.epsilon}  # type: ignore[attr-defined]

    def _explore(self, observation: Observation) -> Tensor:
        """Items (B, K) drawn uniformly, or from the backbone's ranking, without a repeat in a slate."""
        batch = len(observation.context)
        logits = torch.zeros(batch, self.layout.num_items)
        if self.prior is not None and observation.state is not None:
            liked = torch.addmm(self.prior[1], observation.state, self.prior[0].T)
            chosen = torch.rand(batch, 1) < self.config.backbone_exploration
            logits = torch.where(chosen, torch.log_softmax(liked, 1), logits)
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp_(1e-20, 1 - 6e-8)))
        return _top(allow(logits + noise, observation.mask), self.layout.slate_size)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "rows": self.rows.clone(),
            "steps": self.steps,
            "env": self.env.state_dict(),  # type: ignore[attr-defined]
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.rows, self.steps = state["rows"].clone(), state["steps"]
        self.env.load_state_dict(state["env"])  # type: ignore[attr-defined]
        self.replay.load_state_dict(state["replay"])


def _top(scores: Tensor, slate_size: int) -> Tensor:
    """The best items (B, K) from 0."""
    return scores.argmax(1, keepdim=True) if slate_size == 1 else scores.topk(slate_size, 1).indices
