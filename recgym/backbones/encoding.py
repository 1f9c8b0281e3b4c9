"""Logged sessions as a backbone sees them: its state before every step and after the last."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recgym.backbones.backbone import Backbone, module_of
from recgym.logs.sequences import Sequences, cut
from recgym.types import IntArray

_POSITIONS = 1 << 16
"""Steps encoded at once, with padding."""


class Encoded(NamedTuple):
    """S' sessions with M' steps in all, session after session."""

    steps: IntArray  # (M',) index of each step in the log
    before: Tensor  # (M', D) float32: state before each step
    after: Tensor  # (S', D) float32: state after each session's last step


@torch.no_grad()
def encode_sessions(backbone: Backbone, sequences: Sequences, sessions: IntArray, *, progress: bool = False) -> Encoded:
    """Read each session from the L steps before it on, as a simulated session that starts there would.

    Args:
        backbone: the encoder.
        sequences: the log.
        sessions: (S',) numbers of sessions.
        progress: show a progress bar.
    """
    length, device = backbone.config.length, next(module_of(backbone).parameters()).device
    first, end = sequences.session_bounds[sessions], sequences.session_bounds[sessions + 1]
    begin = np.maximum(first - length, sequences.offsets[sequences.user_of_step[first]]) if len(first) else first
    size = end - first  # (S',)
    offset = np.append(0, np.cumsum(size))
    before = torch.empty(int(offset[-1]), backbone.width)
    after = torch.empty(len(sessions), backbone.width)
    order = np.argsort(end - begin, kind="stable")
    with tqdm(total=len(sessions), desc="encoding sessions", unit="session", disable=not progress) as bar:
        done = 0
        while done < len(order):
            longest = int((end - begin)[order[done]])
            rows = order[done : done + max(1, _POSITIONS // max(longest * 2, 1))]
            width = int((end - begin)[rows].max())
            items, feedback = cut(sequences, begin[rows], end[rows], width)
            states = backbone.states(torch.from_numpy(items).to(device), torch.from_numpy(feedback).to(device)).cpu()
            start = backbone.start_state().expand(len(rows), 1, -1).cpu()
            states = torch.cat([start, states], 1)  # (B, width + 1, D): before each step, and after the last
            for row, session in zip(states, rows, strict=True):
                before[offset[session] : offset[session + 1]] = row[-1 - size[session] : -1]
                after[session] = row[-1]
            done += len(rows)
            bar.update(len(rows))
    steps = np.repeat(first - offset[:-1], size) + np.arange(offset[-1])
    return Encoded(steps, before, after)
