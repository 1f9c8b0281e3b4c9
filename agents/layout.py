"""One observation as one row of numbers, and back: what Stable-Baselines3's environments and our replay keep.

A row stands where a dictionary of arrays would: histories as item ids and amounts, never as states, so that a million
transitions fit in memory. From left to right:

    state        D          the encoder's state, or what the world shows of the user
    candidates   N X        features of fresh candidates, where the world brings them
    items        L          ids of the history, most recent last, 0 pads on the left
    feedback     L F        amounts of each kind, item by item
    shown        S          ids that may not be shown again, 0 for none yet
    context      1          steps of this session, in hundreds
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recgym.env.session import Sessions
from recgym.random import session_keys
from recgym.types import Observation, Reads

_EXACT = 1 << 24
"""Whole numbers up to which float32 is exact."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Widths of a row's parts."""

    num_items: int
    """Size of the catalogue, or candidates a step, N."""
    state_width: int
    """Width of the state without the candidates' features, D."""
    candidate_width: int = 0
    """Features of each fresh candidate, X; 0 for a fixed catalogue."""
    history: int = 0
    """Items of the history that are read, L."""
    num_feedback: int = 0
    """Kinds of feedback, F; 0 where no history is read."""
    slate_size: int = 1
    """Items shown at each step, K: so many of the history share an age."""
    shown: int = 0
    """Ids that may not be shown again, S; 0 where repeats are allowed."""

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.num_items >= _EXACT:
            raise ValueError(f"num_items is {self.num_items}, expected less than {_EXACT}: ids are kept as float32")
        if bool(self.history) != bool(self.num_feedback):
            raise ValueError(
                f"history is {self.history} and num_feedback {self.num_feedback}: expected both or neither"
            )

    @property
    def width(self) -> int:
        """Numbers of a row, W."""
        return sum(self._widths)

    @property
    def sizes(self) -> dict[str, int]:
        """What an observation measures: items N, its state with candidates' features, kinds of feedback F."""
        found = {"items": self.num_items, "state": self.state_width + self.num_items * self.candidate_width}
        return {**found, "feedback": self.num_feedback} if self.history else found

    @property
    def reads(self) -> Reads:
        """What a policy needs of the observation to fill a row."""
        return "all" if self.history else "state"

    @property
    def _widths(self) -> tuple[int, ...]:
        history = self.history
        return (
            self.state_width, self.num_items * self.candidate_width, history, history * self.num_feedback, self.shown, 1
        )  # fmt: skip

    def pack(self, observation: Observation, shown: Tensor | None = None) -> Tensor:
        """Rows (B, W) of an observation, with the ids `shown` (B, S) that its mask stands for.

        Raises:
            ValueError: the observation lacks a part, or a part has another width.
        """
        parts = [_need(observation.state, "state")]  # with the candidates behind it
        if self.history:
            items, feedback = _need(observation.items, "items"), _need(observation.feedback, "feedback")
            parts += [items[:, -self.history :].float(), feedback[:, -self.history :].flatten(1)]
        if self.shown:
            parts.append(_need(shown, "shown").float())
        rows = torch.cat([*parts, observation.context], 1)
        if rows.shape[1] != self.width:
            raise ValueError(f"the observation makes rows of {rows.shape[1]} numbers, expected {self.width}: {self}")
        return rows

    def unpack(self, rows: Tensor) -> Observation:
        """The observation whose rows (B, W) these are; its `state` holds no candidates."""
        state, candidates, items, feedback, shown, context = rows.split(self._widths, 1)
        batch = len(rows)
        return Observation(
            context,
            state=state,
            items=items.long() if self.history else None,
            feedback=feedback.view(batch, self.history, self.num_feedback) if self.history else None,
            mask=self.mask(shown.long()) if self.shown else None,
            candidates=candidates.view(batch, self.num_items, self.candidate_width) if self.candidate_width else None,
        )

    def mask(self, shown: Tensor) -> Tensor:
        """True where an item may be shown: ids (B, S) -> (B, N)."""
        free = torch.ones(len(shown), self.num_items + 1, dtype=torch.bool, device=shown.device)
        return free.scatter_(1, shown, False)[:, 1:]


def layout_of(sessions: Sessions[Any], history: int = 0) -> Layout:
    """How these sessions' observations stand in rows, with `history` items of the visible history.

    Raises:
        ValueError: a history is asked for that the users do not keep.
    """
    config, users = sessions.config, sessions.users
    probe = sessions.observe(sessions.reset(session_keys(0, 1)), "all")
    assert probe.items is not None
    kept = probe.items.shape[1]
    if history > kept:
        raise ValueError(f"the policy should read {history} items of the history, but the users keep {kept}")
    masked = config.repeats != "allow"
    width = 0 if probe.candidates is None else probe.candidates.shape[2]
    return Layout(
        num_items=sessions.num_items,
        state_width=sessions.state_width - sessions.num_items * width,
        candidate_width=width,
        history=history,
        num_feedback=len(users.kinds) if history else 0,
        slate_size=config.slate_size,
        shown=kept + config.max_steps * config.slate_size if masked else 0,
    )


def _need(part: Tensor | None, name: str) -> Tensor:
    if part is None:
        raise ValueError(f"the observation has no {name}; ask for what the policy `reads`")
    return part
