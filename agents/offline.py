"""Logged transitions as rows (see `agents.layout`), laid out once for every agent that learns from logs alone.

The rows of a session stand one after the other, the row after its last step behind them: what follows a step is the
next row, and never another session's. A truncated session keeps its last step. The history after a session's last
step is the one before, shifted by the step's items and feedback; between steps it is what the log says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.layout import Layout
from agents.networks import spread_gain
from agents.task import Task
from recgym.types import IntArray, Observation, Transitions

_PROBES = 256
"""Logged states that say how far the backbone's scores spread."""


class Minibatch(NamedTuple):
    """n transitions."""

    now: Tensor  # (n, W) rows
    action: Tensor  # (n,) int64 item numbers from 0
    reward: Tensor  # (n,)
    after: Tensor  # (n, W) rows after the step
    going: Tensor  # (n,) 1, or 0 where the user left
    to_go: Tensor  # (n,) undiscounted reward from this step to the end of its session


@dataclass(frozen=True, eq=False)
class Offline:
    """T logged steps of E sessions; a part of them is drawn from."""

    layout: Layout
    rows: Tensor  # (T + E, W) each session's rows, then the one after its last step
    place: Tensor  # (T,) row before each step; the next row is the one after it
    slates: Tensor  # (T, K) int64 items shown, from 0
    reward: Tensor  # (T,)
    going: Tensor  # (T,) 1, or 0 where the user left
    to_go: Tensor  # (T,) reward from this step to the end of the session
    episode: Tensor  # (T,) 0..E-1
    returns: Tensor  # (E,) reward of each session
    drawn: Tensor  # (M,) steps that `sample` draws from

    @classmethod
    def of(cls, task: Task, *, layout: Layout | None = None, slates: bool = False) -> Offline:
        """The transitions of `task.logged`, on the task's device, as `layout` says (None: the task's, one item a step).

        Raises:
            ValueError: there are none, or they lack what a row holds, or hold slates where `slates` is False.
        """
        logged = task.logged
        if logged is None or not logged.num_steps:
            raise ValueError("the agent learns from transitions, and the task has none: give Task(logged=...)")
        if logged.state is None or logged.final_state is None:
            raise ValueError(
                "the transitions have no state; collect them with keep=('state',), or read them with a backbone"
            )
        if logged.action.shape[1] != 1 and not slates:
            raise ValueError(
                f"the agent learns the choice of one item, the transitions hold slates of {logged.action.shape[1]}"
            )
        layout = layout or task.layout(1)
        enters_unseen = getattr(task.users, "exposures", True)
        place = torch.from_numpy(np.arange(logged.num_steps) + logged.episode)
        shown = torch.from_numpy(logged.action - 1)
        if int(shown.max()) >= layout.num_items:
            raise ValueError(f"the transitions show item {int(shown.max()) + 1}, the task has {layout.num_items}")
        parts = (
            _rows(logged, layout, enters_unseen=enters_unseen), place, shown,
            torch.from_numpy(logged.reward.astype(np.float32)), torch.from_numpy(~logged.terminated).float(),
            torch.from_numpy(_to_go(logged)), torch.from_numpy(logged.episode),
            torch.from_numpy(logged.returns.astype(np.float32)), torch.arange(logged.num_steps),
        )  # fmt: skip
        return cls(layout, *(part.to(task.device) for part in parts))

    def __len__(self) -> int:
        return len(self.drawn)

    @property
    def action(self) -> Tensor:
        """The first item of each step, from 0, (T,)."""
        return self.slates[:, 0]

    def sample(self, count: int) -> Minibatch:
        """Draw steps uniformly, with torch's global generator."""
        return self.at(self.drawn[torch.randint(len(self), (count,)).to(self.drawn.device)])

    def at(self, steps: Tensor) -> Minibatch:
        """The given steps (n,)."""
        place = self.place[steps]
        parts = (part[steps] for part in (self.action, self.reward, self.going, self.to_go))
        action, reward, going, to_go = parts
        return Minibatch(self.rows[place], action, reward, self.rows[place + 1], going, to_go)

    def best(self, share: float) -> Offline:
        """Draw only from this share of the sessions, those of the highest returns; at least one."""
        keep = max(1, round(share * len(self.returns)))
        chosen = torch.zeros(len(self.returns), dtype=torch.bool, device=self.returns.device)
        chosen[self.returns.argsort(descending=True, stable=True)[:keep]] = True
        return replace(self, drawn=self.drawn[chosen[self.episode[self.drawn]]])

    def split(self, share: float) -> tuple[Offline, Offline]:
        """Hold this share of the sessions out, drawn with torch's global generator: (what is left, what is held out).

        Raises:
            ValueError: one of the two is empty.
        """
        present = self.episode[self.drawn].unique()
        out = torch.zeros(len(self.returns), dtype=torch.bool, device=self.returns.device)
        out[present[torch.randperm(len(present))[: round(share * len(present))].to(present.device)]] = True
        held = out[self.episode[self.drawn]]
        if not bool(held.any()) or bool(held.all()):
            raise ValueError(f"a share of {share} holds {int(out.sum())} of {len(present)} sessions out: expected some")
        return replace(self, drawn=self.drawn[~held]), replace(self, drawn=self.drawn[held])

    def value_gain(self, task: Task, spread: float) -> float:
        """The gain at which the backbone's scores of logged states deviate by `spread`, in reward; 1 without one."""
        if task.backbone is None:
            return 1.0
        steps = self.drawn[:: max(1, len(self) // _PROBES)]
        state = self.rows[self.place[steps], : self.layout.state_width]
        return spread_gain(state.cpu(), *task.item_vectors(), spread)


def _to_go(logged: Transitions) -> Any:
    """Reward from each step to the end of its session, (T,) float32."""
    before = np.concatenate([[0.0], np.cumsum(logged.reward.astype(np.float64))])  # (T + 1,)
    end = np.searchsorted(logged.episode, logged.episode, side="right")  # (T,) first step of the next session
    return (before[end] - before[:-1]).astype(np.float32)


def _rows(logged: Transitions, layout: Layout, *, enters_unseen: bool) -> Tensor:
    """Rows (T + E, W) before every step and after every session."""
    first = np.searchsorted(logged.episode, np.arange(logged.num_episodes))
    size = np.bincount(logged.episode, minlength=logged.num_episodes)
    last = np.maximum(first + size - 1, 0)  # (E,)
    place, end = np.arange(logged.num_steps) + logged.episode, first + size + np.arange(logged.num_episodes)

    def joined(steps: Any, ends: Any) -> Any:
        found = np.zeros((len(place) + len(end), *steps.shape[1:]), steps.dtype)
        found[place], found[end] = steps, ends
        return torch.from_numpy(found)

    items = feedback = shown = None
    if layout.history:
        if logged.items is None or logged.history is None:
            raise ValueError(
                "the transitions have no history; collect them with keep=('state', 'history'), "
                "or read them with history=True"
            )
        before, amounts = _padded(logged.items, layout.history), _padded(logged.history, layout.history)
        longer = np.concatenate([before[last], logged.action[last]], 1)  # (E, L + K)
        longer_amounts = np.concatenate([amounts[last], logged.feedback[last]], 1)
        stays = np.ones(longer.shape, np.bool_)
        if not enters_unseen:
            stays[:, layout.history :] = logged.feedback[last, :, 0] > 0
        order = stays.argsort(1, kind="stable")[:, -layout.history :]  # what does not enter stands first, and is cut
        later = np.take_along_axis(longer, order, 1)
        later_amounts = np.take_along_axis(longer_amounts, order[:, :, None], 1)
        items, feedback = joined(before, later), joined(amounts.astype(np.float32), later_amounts)
    if layout.shown:
        ids = _shown(logged, last, layout.shown)
        shown = joined(ids[: logged.num_steps], ids[logged.num_steps :])
    seen = Observation(
        joined(logged.context, logged.final_context), state=joined(logged.state, logged.final_state),
        items=items, feedback=feedback,
    )  # fmt: skip
    return layout.pack(seen, shown)


def _padded(array: Any, length: int) -> Any:
    """The last `length` columns, with zeros on the left where there are fewer."""
    found = array[:, -length:]
    missing = [(0, 0), (length - found.shape[1], 0), *[(0, 0)] * (found.ndim - 2)]
    return np.pad(found, missing)


def _shown(logged: Transitions, last: IntArray, width: int) -> IntArray:
    """Ids that may not be shown again before each step, then after each session, (T + E, S).

    As the log's masks say; where it has none, the items of the session itself, the latest S of them.
    """
    count, size = logged.num_steps, logged.action.shape[1]
    found = np.zeros((count + len(last), width), np.int64)
    if logged.mask is None:
        ends = [*range(count), *(int(step) + 1 for step in last)]  # of the steps whose items are behind each row
        starts = [*(np.arange(count) - logged.step), *(last - logged.step[last])]
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            ids = logged.action[max(start, end - -(-width // size)) : end].ravel()[-width:]
            found[row, : len(ids)] = ids
        return found
    after = ~logged.mask[last]
    after[np.arange(len(last))[:, None], logged.action[last] - 1] = True
    for begin, forbidden in ((0, ~logged.mask), (count, after)):
        rows, columns = np.nonzero(forbidden)
        slot = np.arange(len(rows)) - np.searchsorted(rows, rows)
        if len(slot) and slot.max() >= width:
            raise ValueError(f"the log forbids {int(slot.max()) + 1} items at a step, the task's rows hold {width}")
        found[begin + rows, slot] = columns + 1
    return found
