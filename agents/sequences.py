"""Sequences of consecutive steps from a replay, with the recurrent memory that stood at their start.

A ring of memories stands beside the replay's rings, place by place. Sequences may cross the ends of sessions: `fresh`
says where the memory starts anew.

Source: Kapturowski et al. (2019), "Recurrent experience replay in distributed reinforcement learning" (R2D2), section
3: stored state and burn-in.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.recurrence import Memory
from agents.replay import Replay


class SequenceBatch(NamedTuple):
    """n sequences of T steps, and the row after the last one."""

    row: Tensor  # (T + 1, n, W)
    fresh: Tensor  # (T + 1, n) bool: a session starts with this row
    action: Tensor  # (T, n, K) int64 item numbers from 0
    reward: Tensor  # (T, n)
    left: Tensor  # (T, n) bool: the user left after the step
    before: Tensor  # (n, 2 H) memory before the first row: hidden, then cell
    cut: Tensor  # (C, 2) int64 step and sequence of steps after which a session was cut
    last: Tensor  # (C, W) rows after those steps

    def memory(self) -> Memory:
        """The memory before the first row, (n, H) each."""
        return Memory(*self.before.chunk(2, 1))


class SequenceRing:
    """Memories of the steps that a replay holds."""

    def __init__(self, replay: Replay, width: int) -> None:
        """Reserve room for memories of H = `width` units; `replay` may still be filled."""
        self.replay = replay
        self.before = torch.zeros(replay.length, replay.num_envs, 2 * width)
        self.fresh = torch.zeros(replay.length, replay.num_envs, dtype=torch.bool)

    def note(self, before: Memory, fresh: Tensor) -> None:
        """Keep memories (B, H) and starts of sessions (B,) before the step that the replay is about to `add`."""
        place = self.replay.place
        self.before[place] = torch.cat(before, 1)
        self.fresh[place] = fresh

    def sample(self, count: int, steps: int) -> SequenceBatch:
        """Draw n = `count` sequences of T = `steps` steps uniformly, with torch's global generator.

        Raises:
            ValueError: the replay holds no sequence as long.
        """
        replay = self.replay
        usable = replay.size - steps
        if usable < 1:
            raise ValueError(f"the replay holds {replay.size} steps of each session, expected more than {steps}")
        start = torch.randint(usable * replay.num_envs, (count,))
        first, env = start // replay.num_envs + replay.place - replay.size, start % replay.num_envs
        place = (first + torch.arange(steps + 1).unsqueeze(1)) % replay.length  # (T + 1, n)
        taken = place[:-1]
        cut = (replay.over & ~replay.left)[taken, env].nonzero()  # (C, 2)
        last = [torch.zeros(0, replay.row.shape[2])]
        for step, one in cut.tolist():
            envs, rows = replay.last[int(place[step, one])]
            last.append(rows[envs == env[one]])
        return SequenceBatch(
            row=replay.row[place, env], fresh=self.fresh[place, env], action=replay.action[taken, env].long(),
            reward=replay.reward[taken, env], left=replay.left[taken, env], before=self.before[place[0], env],
            cut=cut, last=torch.cat(last),
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides the replay's."""
        size = self.replay.size
        return {"before": self.before[:size].clone(), "fresh": self.fresh[:size].clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for name, values in state.items():
            getattr(self, name)[: len(values)] = values
