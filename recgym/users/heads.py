"""The heads on a backbone's state: how likely each feedback is for any item, and how likely the user leaves.

The feedback head is modulated by the item (FiLM): hidden = relu(A s * gate[i] + shift[i] + W x), where gate and shift
are linear in the item's backbone vector and a few free coordinates, so that one table look-up serves any item and the
cost of a step does not grow with the catalogue. Source: Perez et al. (2018), "FiLM", equation 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recgym.users.recent import NUM_FEATURES, NUM_HABITS

_INPUTS = NUM_FEATURES + NUM_HABITS + 2
"""Features of a shown item: the session's, the longer history's, whether consumed before, and the backbone's score."""


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """Sizes of the heads."""

    num_items: int
    state_width: int
    num_kinds: int
    slots: int = 1
    """Slate positions that the logs tell apart."""
    width: int = 64
    leave_width: int = 32
    item_width: int = 16


class Shown(NamedTuple):
    """What the heads say about B slates of K items, before calibration."""

    logits: Tensor  # (B, K, F): log-odds of binary kinds, standardised log amount of real ones
    hidden: Tensor  # (B, K, H)
    inputs: Tensor  # (B, K, X + 2)
    leave_state: Tensor  # (B, H'): the state as the leaving head reads it


class Heads(nn.Module):
    """Feedback and leaving heads with their calibration."""

    shape: HeadShape
    score_scale: Tensor  # (2,): mean and standard deviation of the backbone's scores
    slope: Tensor  # (F + 1,): calibration of each kind and of leaving (last): slope * logit + intercept
    intercept: Tensor  # (F + 1,)
    effect_scale: Tensor  # (F + 1,): standard deviation of the sessions' own intercepts
    amount: Tensor  # (5, F): log-mean, log-scale, least, most and step of real kinds; step 0: any amount
    residual: Tensor  # (F,): standard deviation of the log amount around its prediction, in log units

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        kinds, width = shape.num_kinds, shape.width
        self.item_embedding = nn.Parameter(torch.zeros(shape.num_items + 1, shape.item_width))
        self.item_row = nn.Linear(shape.state_width + shape.item_width, 2 * width + kinds)
        self.read = nn.Linear(shape.state_width, width + shape.leave_width)
        self.mix = nn.Linear(_INPUTS, width, bias=False)
        self.out = nn.Linear(width, kinds)
        self.direct = nn.Linear(_INPUTS, kinds, bias=False)
        self.slot = nn.Parameter(torch.zeros(shape.slots, kinds))
        self.leave_mix = nn.Linear(width + _INPUTS + kinds, shape.leave_width, bias=False)
        self.leave_out = nn.Linear(shape.leave_width, 1)
        self.leave_direct = nn.Linear(_INPUTS + kinds, 1, bias=False)
        self.register_buffer("score_scale", torch.tensor([0.0, 1.0]))
        self.register_buffer("slope", torch.ones(kinds + 1))
        self.register_buffer("intercept", torch.zeros(kinds + 1))
        self.register_buffer("effect_scale", torch.zeros(kinds + 1))
        self.register_buffer("amount", torch.tensor([0.0, 1.0, 0.0, torch.inf, 0.0]).unsqueeze(1).repeat(1, kinds))
        self.register_buffer("residual", torch.ones(kinds))

    def rows(self, items: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
        """All that the feedback head needs of `items` (...,), from backbone `vectors` (..., D) and `bias` (...,).

        Returns (..., R): gate, shift, direct logits, scaled vector, scaled bias.
        """
        mean, scale = self.score_scale
        row = self.item_row(torch.cat([vectors, self.item_embedding[items]], -1))
        return torch.cat([row, vectors / scale, ((bias - mean) / scale).unsqueeze(-1)], -1)

    def show(self, state: Tensor, rows: Tensor, features: Tensor, seen: Tensor, slots: Tensor | None = None) -> Shown:
        """Judge slates: `state` (B, D), `rows` (B, K, R), `features` (B, K, X) of both memories, `seen` (B, K) float32.

        `slots` (B, K) int64 are the positions of the items; None: 0..K-1.
        """
        width, kinds = self.shape.width, self.shape.num_kinds
        gate, shift, direct, vector, bias = rows.split([width, width, kinds, state.shape[1], 1], 2)
        user, leave_state = self.read(state).split([width, self.shape.leave_width], 1)
        score = vector @ state.unsqueeze(2) + bias  # (B, K, 1)
        inputs = torch.cat([features, seen.unsqueeze(2), score], 2)  # (B, K, X + 2)
        user = user.unsqueeze(1)  # (B, 1, H)
        hidden = torch.relu(user + shift + user * gate + self.mix(inputs))  # (B, K, H)
        logits = self.out(hidden) + direct + self.direct(inputs)  # (B, K, F)
        if self.shape.slots > 1:
            place = torch.arange(rows.shape[1], device=rows.device) if slots is None else slots
            logits = logits + self.slot[place.clamp(max=self.shape.slots - 1)]
        return Shown(logits, hidden, inputs, leave_state)

    def leave(self, shown: Shown, feedback: Tensor, met: Tensor | None = None) -> Tensor:
        """Log-odds of leaving after `feedback` (B, K, F), before calibration, (B,); `met` (B, K) marks real items."""
        seen = torch.cat([shown.inputs, torch.log1p(feedback)], 2)  # (B, K, X + 2 + F)
        both = torch.cat([shown.hidden, seen], 2)
        if both.shape[1] == 1:
            pooled = both.squeeze(1)
        elif met is None:
            pooled = both.mean(1)
        else:
            weight = met.to(both.dtype).unsqueeze(2)
            pooled = (both * weight).sum(1) / weight.sum(1).clamp(min=1)
        hidden = torch.relu(shown.leave_state + self.leave_mix(pooled))  # (B, H')
        logit: Tensor = self.leave_out(hidden) + self.leave_direct(pooled[:, self.shape.width :])
        return logit.squeeze(1)
