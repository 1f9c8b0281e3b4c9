"""Logged steps as the heads read them: state, short-term memory, what was consumed before, and what happened."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone
from recgym.backbones.encoding import Encoded, encode_sessions
from recgym.logs.sequences import Sequences, batches, windows
from recgym.types import IntArray
from recgym.users import recent as memory
from recgym.users.context import context_of
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
    context: Tensor  # (M', C) what was known when the session began: `recgym.users.context`
    weight: Tensor  # (M',) float32 by which the step counts, mean 1: inverse propensities, where they are known


def topics_of(sequences: Sequences) -> Tensor:
    """Topic of each item id, (N + 1,) int64 from 1: its category, or the item itself; padding is -1."""
    categories = sequences.categories
    topics = np.arange(1, sequences.num_items + 1) if categories is None else categories + 1
    return torch.from_numpy(np.append(-1, topics).astype(np.int64))


def seen_before(history: Tensor, consumed: Tensor, items: Tensor) -> Tensor:
    """Whether `items` (B, K) stand in `history` (B, L) as `consumed` (B, L; bool, or 0 and 1), (B, K) float32."""
    return ((history * consumed).unsqueeze(1) == items.unsqueeze(2)).any(2).to(torch.float32)


def read_slates(
    backbone: Backbone,
    sequences: Sequences,
    sessions: IntArray,
    *,
    censor_seconds: float,
    propensity_clip: float = 0.0,
    encoded: Encoded | None = None,
    progress: bool = False,
) -> Slates:
    """Read the given sessions (S',) of the log.

    Args:
        backbone: encodes the state before each step.
        sequences: the log.
        sessions: numbers of sessions.
        censor_seconds: a session active this close to the end of the log may have gone on: its end is not known.
        propensity_clip: largest weight of a step, where a uniform logger's steps weigh 1; 0: all steps count the same.
        encoded: the same sessions, where `encode_sessions` has read them already.
        progress: show a progress bar.
    """
    steps, state, _ = encoded or encode_sessions(backbone, sequences, sessions, progress=progress)
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
        context=_context(sequences, sessions)[np.repeat(np.arange(len(sessions)), size)],
        weight=_weights(sequences, steps, propensity_clip),
    )


def _context(sequences: Sequences, sessions: IntArray) -> Tensor:
    """Clock and profile at the start of each session, (S', C)."""
    first = sequences.session_bounds[sessions]
    time = torch.from_numpy(np.asarray(sequences.time[first], np.int64))
    if sequences.profile is None:
        return context_of(time, None)
    return context_of(time, torch.from_numpy(sequences.profile[sequences.user_of_step[first]]))


def _weights(sequences: Sequences, steps: IntArray, clip: float) -> Tensor:
    """min(1 / (N propensity), clip), scaled to mean 1, (M',); 1 where the propensity is not known."""
    chance = np.asarray(sequences.propensity[steps], np.float64)
    known = np.isfinite(chance) & (chance > 0) & (clip > 0)
    weight = np.ones(len(steps))
    weight[known] = np.minimum(1 / (sequences.num_items * chance[known]), clip)
    if known.any():
        weight[known] /= weight[known].mean()
    return torch.from_numpy(weight.astype(np.float32))


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
