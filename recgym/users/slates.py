"""Logged steps as the heads read them: state, short-term memory, what was consumed before, and what happened."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone
from recgym.backbones.encoding import encode_sessions
from recgym.logs.sequences import Sequences, batches, windows
from recgym.types import IntArray
from recgym.users import recent as memory
from recgym.users.recent import Recent


class Slates(NamedTuple):
    """M' logged steps, each a slate of one item, session after session; take rows with `recgym.trees.take`."""

    state: Tensor  # (M', D) before the step
    recent: Recent  # the session's memory before the step, leading dimension M'
    history: Tensor  # (M', L) int64: items met before, left-padded
    consumed: Tensor  # (M', L) bool: whether they were consumed
    item: Tensor  # (M',) int64 1..N
    slot: Tensor  # (M',) int64: position in the slate
    feedback: Tensor  # (M', F)
    leaves: Tensor  # (M',) float32: 1 where the session ended here
    known: Tensor  # (M',) bool: whether it is known that it did or did not
    session: Tensor  # (M',) int64 0..S'-1


def topics_of(sequences: Sequences) -> Tensor:
    """Topic of each item id, (N + 1,) int64 from 1: its category, or the item itself; padding is -1."""
    categories = sequences.categories
    topics = np.arange(1, sequences.num_items + 1) if categories is None else categories + 1
    return torch.from_numpy(np.append(-1, topics).astype(np.int64))


def seen_before(history: Tensor, consumed: Tensor, items: Tensor) -> Tensor:
    """Whether `items` (B, K) stand in `history` (B, L) as `consumed` (B, L; bool, or 0 and 1), (B, K) float32."""
    return ((history * consumed).unsqueeze(1) == items.unsqueeze(2)).any(2).to(torch.float32)


def read_slates(
    backbone: Backbone, sequences: Sequences, sessions: IntArray, *, censor_seconds: float, progress: bool = False
) -> Slates:
    """Read the given sessions (S',) of the log.

    Args:
        backbone: encodes the state before each step.
        sequences: the log.
        sessions: numbers of sessions.
        censor_seconds: a session active this close to the end of the log may have gone on: its end is not known.
        progress: show a progress bar.
    """
    steps, state, _ = encode_sessions(backbone, sequences, sessions, progress=progress)
    length = backbone.config.length
    history = torch.zeros(len(steps), length, dtype=torch.int64)
    consumed = torch.zeros(len(steps), length, dtype=torch.bool)
    for part in batches(len(steps), 8192):
        items, reaction = windows(sequences, steps[part], length)
        history[part], consumed[part] = torch.from_numpy(items), torch.from_numpy(reaction[:, :, 0] > 0)
    bounds = sequences.session_bounds
    size = np.diff(bounds)[sessions]
    last = np.cumsum(size) - 1 if len(size) else np.zeros(0, np.int64)
    leaves, known = np.zeros(len(steps), np.float32), np.ones(len(steps), np.bool_)
    leaves[last] = 1
    end = int(np.max(sequences.time)) if sequences.num_steps else 0
    known[last] = sequences.time[bounds[sessions + 1] - 1] < end - censor_seconds
    feedback = torch.from_numpy(np.asarray(sequences.feedback[steps], np.float32))
    item = torch.from_numpy(sequences.item[steps].astype(np.int64))
    return Slates(
        state=state,
        recent=_memories(topics_of(sequences)[item], feedback[:, 0], size),
        history=history,
        consumed=consumed,
        item=item,
        slot=torch.from_numpy(np.maximum(sequences.position[steps], 0).astype(np.int64)),
        feedback=feedback,
        leaves=torch.from_numpy(leaves),
        known=torch.from_numpy(known),
        session=torch.from_numpy(np.repeat(np.arange(len(sessions)), size)),
    )


def _memories(topics: Tensor, first_feedback: Tensor, size: IntArray) -> Recent:
    """The memory before each of the steps (M',) of sessions of `size` (S',) steps."""
    start = torch.from_numpy(np.cumsum(size) - size)
    found = memory.fresh(len(topics))
    now = memory.fresh(len(size))
    positive = (first_feedback > 0).to(torch.float32)
    for step in range(int(size.max()) if len(size) else 0):
        here = torch.from_numpy(np.flatnonzero(size > step))
        row = start[here] + step
        past = Recent(*(leaf[here] for leaf in now))
        for whole, part in zip(found, past, strict=True):
            whole[row] = part
        new = memory.remember(past, topics[row].unsqueeze(1), positive[row].unsqueeze(1))
        for whole, part in zip(now, new, strict=True):
            whole[here] = part
    return found
