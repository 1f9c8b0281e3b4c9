"""The heads on a backbone's state: how likely each feedback is for any item, and how likely the user leaves.

The feedback head is modulated by the item (FiLM): hidden = relu(A s * gate[i] + shift[i] + W x), where gate and shift
are linear in the item's backbone vector and a few free coordinates, so that one table look-up serves any item and the
cost of a step does not grow with the catalogue. Source: Perez et al. (2018), "FiLM", equation 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from recgym.gathering import rows_at
from recgym.users.recent import NUM_FEATURES, NUM_HABITS, NUM_MET

_SHORT_GRID = 64
"""Values that a rounded amount can take, up to which its mean is summed exactly."""
_INPUTS = NUM_FEATURES + NUM_HABITS + NUM_MET + 1
"""Features of a shown item: the session's, the longer history's, how it was met before, and the backbone's score."""


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
    context_width: int = 0
    """Columns of what is known before a session begins."""


class Shown(NamedTuple):
    """What the heads say about B slates of K items, before calibration."""

    logits: Tensor  # (B, K, F): log-odds of binary kinds, standardised log amount of real ones
    hidden: Tensor  # (B, K, H)
    inputs: Tensor  # (B, K, X + 1)
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
        self.context = nn.Parameter(torch.zeros(kinds + 1, shape.context_width))
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
        row = self.item_row(torch.cat([vectors, rows_at(self.item_embedding, items)], -1))
        return torch.cat([row, vectors / scale, ((bias - mean) / scale).unsqueeze(-1)], -1)

    def offsets(self, context: Tensor) -> Tensor:
        """What is known before a session moves its log-odds by this, (B, C) -> (B, F + 1): feedback, then leaving."""
        return linear(context, self.context)

    def expected_amount(self, logit: Tensor, column: int) -> Tensor:
        """Mean of a real kind as it is drawn: log-normal, on the grid of the log and within its range; same shape.

        With X the log-normal amount, least a, most b, step g: a + g sum_k P(X >= a + (k - 1/2) g) on a short grid, else
        E min(max(X, a), b) = a F(u) + exp(m + s^2 / 2) (F(v - s) - F(u - s)) + b (1 - F(v)), F the standard normal
        distribution function, u = (log a - m) / s and v = (log b - m) / s.
        """
        mean, scale, least, most, step = self.amount[:, column].unbind()
        log_mean, spread = mean + scale * logit, self.residual[column].clamp_min(1e-6)
        places = float((most - least) / step) if float(step) > 0 else math.inf
        ndtr = torch.special.ndtr
        if places <= _SHORT_GRID:
            borders = least + (torch.arange(round(places), device=logit.device) + 0.5) * step
            above: Tensor = ndtr((log_mean.unsqueeze(-1) - borders.log()) / spread)  # (..., places)
            return least + step * above.sum(-1)
        most = most.clamp_max(1e30)  # where the log has no amount, nothing bounds it
        low, high = (least.log() - log_mean) / spread, (most.log() - log_mean) / spread
        inside = (log_mean + spread**2 / 2).exp() * (ndtr(high - spread) - ndtr(low - spread))
        amount: Tensor = least * ndtr(low) + inside + most * ndtr(-high)
        return amount

    def weights(self) -> HeadWeights:
        """The weights as plain tensors, side by side where they read the same input."""
        return HeadWeights(
            read=self.read.weight,
            read_bias=self.read.bias,
            inputs=torch.cat([self.mix.weight, self.direct.weight]),
            out=self.out.weight,
            out_bias=self.out.bias,
            slot=self.slot,
            leave_mix=self.leave_mix.weight,
            leave_out=torch.cat([self.leave_out.weight, self.leave_direct.weight], 1),
            leave_bias=self.leave_out.bias,
        )


class HeadWeights(NamedTuple):
    """What judging slates takes: a simulated step has no time to look up modules."""

    read: Tensor  # (H + H', D)
    read_bias: Tensor  # (H + H',)
    inputs: Tensor  # (H + F, X + 1): into the hidden layer, and straight to the logits
    out: Tensor  # (F, H)
    out_bias: Tensor  # (F,)
    slot: Tensor  # (slots, F)
    leave_mix: Tensor  # (H', H + X + 1 + F)
    leave_out: Tensor  # (1, H' + X + 1 + F): from the hidden layer, and straight from the inputs
    leave_bias: Tensor  # (1,)

    def show(self, state: Tensor, rows: Tensor, features: Tensor, slots: Tensor | None = None) -> Shown:
        """Judge slates: `state` (B, D), `rows` (B, K, R), `features` (B, K, X) of all memories.

        `slots` (B, K) int64 are the positions of the items; None: 0..K-1.
        """
        kinds, width = self.out.shape
        gate, shift, direct, vector, bias = rows.split([width, width, kinds, state.shape[1], 1], 2)
        read = linear(state, self.read, self.read_bias)  # (B, H + H')
        score = torch.baddbmm(bias, vector, state.unsqueeze(2))  # (B, K, 1)
        inputs = torch.cat([features, score], 2)  # (B, K, X + 1)
        mixed = linear(inputs, self.inputs)  # (B, K, H + F)
        user = read[:, :width].unsqueeze(1)  # (B, 1, H)
        hidden = torch.relu(torch.addcmul(user + shift, user, gate) + mixed[:, :, :width])  # (B, K, H)
        logits = linear(hidden, self.out, self.out_bias) + direct + mixed[:, :, width:]  # (B, K, F)
        if len(self.slot) > 1:
            place = torch.arange(rows.shape[1], device=rows.device) if slots is None else slots
            logits = logits + rows_at(self.slot, place.clamp(max=len(self.slot) - 1))
        return Shown(logits, hidden, inputs, read[:, width:])

    def leave(self, shown: Shown, feedback: Tensor) -> Tensor:
        """Log-odds of leaving after `feedback` (B, K, F), before calibration, (B,): slates count by their mean."""
        both = torch.cat([shown.hidden, shown.inputs, torch.log1p(feedback)], 2)  # (B, K, H + X + 1 + F)
        pooled = both.squeeze(1) if both.shape[1] == 1 else both.mean(1)
        hidden = torch.relu(shown.leave_state + linear(pooled, self.leave_mix))  # (B, H')
        last = torch.cat([hidden, pooled[:, shown.hidden.shape[2] :]], 1)
        return linear(last, self.leave_out, self.leave_bias).squeeze(1)


def draw_amounts(logit: Tensor, draws: Tensor, law: tuple[Tensor, ...], *, on_grid: bool) -> Tensor:
    """Log-normal amounts within their range, from calibrated standardised logs and uniform draws, any shape.

    `law`: log-mean, log-scale, least, most, step, and the standard deviation of the log around its prediction.
    """
    mean, scale, least, most, step, residual = law
    noise = torch.special.ndtri(draws.clamp(2.0**-25, 1 - 2.0**-24))
    amount = (mean + scale * logit + residual * noise).exp()
    if on_grid:
        amount = (amount / step).round() * step
    inside: Tensor = amount.clamp(least, most)
    return inside
