"""Histories of unequal length without padding: layers work on real steps, attention on blocks of like sizes.

In logs of shops most histories are short and a few are long: padded to the longest, nine steps of ten are nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from recgym.backbones.backbone import Backbone

_SMALLEST_BLOCK = 8
"""Histories up to this size share a block; every further block takes sizes up to twice those of the one before."""
OUT_OF_REACH = -1e30
"""Added to the score of a key that is not to be seen: softmax and silu make 0 of it, where of -inf silu makes nan."""

Mix = Callable[[Tensor], Tensor]
"""From the scores of keys, (b, heads, T, S), to the weights of their values."""


class Ragged(NamedTuple):
    """B histories of P steps in all, history after history."""

    items: Tensor  # (P,) int64 1..N
    feedback: Tensor  # (P, F)
    sizes: Tensor  # (B,) int64 on the CPU: steps of each history, may be 0
    time: Tensor | None = None  # (P,) float64 seconds since the epoch; None: not known
    users: Tensor | None = None  # (B,) int64 number of each history's user in the log; None: not known


class Block(NamedTuple):
    """Histories of like sizes as one padded rectangle, padding on the right."""

    steps: Tensor  # (b * width,) index of the step that stands in each cell; any real step where there is none
    there: Tensor  # (b * width,) bool: whether there is one
    rows: int  # b
    width: int


class Plan(NamedTuple):
    """How P ragged steps are laid out in blocks; made once for all layers."""

    blocks: list[Block]
    steps: Tensor  # (C,) the steps of all blocks' cells
    cells: Tensor  # (P,) cell of each step, 0..C-1


def places(sizes: Tensor) -> Tensor:
    """Place of each step in its history, from 0: (B,) -> (P,)."""
    begin = torch.repeat_interleave(torch.cumsum(sizes, 0) - sizes, sizes)
    return torch.arange(len(begin)) - begin


def pasts(sizes: Tensor, length: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """The last `length` steps up to each step, oldest first: (B,) -> (P, length) indices, and whether there is one."""
    place = places(sizes).to(device)
    back = torch.arange(length - 1, -1, -1, device=device)
    steps = torch.arange(len(place), device=device).unsqueeze(1) - back
    return steps.clamp_min(0), place.unsqueeze(1) >= back


def pack(items: Tensor, feedback: Tensor, time: Tensor | None = None) -> Ragged:
    """Real steps of left-padded (B, T), (B, T, F), (B, T)."""
    there = items > 0
    return Ragged(items[there], feedback[there], there.sum(1).cpu(), None if time is None else time[there])


def unpack(values: Tensor, sizes: Tensor, length: int, fill: Tensor | float = 0.0) -> Tensor:
    """Left-padded (B, length, ...) of ragged (P, ...), with `fill` where there is no step; no history may be longer."""
    cell = torch.repeat_interleave(torch.arange(1, len(sizes) + 1) * length - sizes, sizes) + places(sizes)
    shape = (len(sizes) * length, *values.shape[1:])
    start = torch.as_tensor(fill, dtype=values.dtype, device=values.device).expand(shape)
    return start.index_copy(0, cell.to(values.device), values).view(len(sizes), length, *values.shape[1:])


@torch.compiler.disable  # type: ignore[untyped-decorator]  # blocks depend on what the sizes are
def plan(sizes: Tensor, device: torch.device | str = "cpu") -> Plan:
    """Lay histories of `sizes` (B,) out in blocks."""
    size = sizes.numpy()
    first = np.cumsum(size) - size
    level = np.ceil(np.log2(np.maximum(size, _SMALLEST_BLOCK) / _SMALLEST_BLOCK)).astype(np.int64)
    cells, blocks, used = np.empty(int(size.sum()), np.int64), [], 0
    for one in np.unique(level[size > 0]):
        rows = np.flatnonzero((level == one) & (size > 0))
        width = int(size[rows].max())
        across = np.arange(width)
        there = across < size[rows, None]  # (b, width)
        at = np.where(there, first[rows, None] + across, first[rows, None])
        cells[at[there]] = used + np.flatnonzero(there)
        flat, real = torch.from_numpy(at.ravel()).to(device), torch.from_numpy(there.ravel()).to(device)
        blocks.append(Block(flat, real, len(rows), width))
        used += at.size
    steps = torch.cat([block.steps for block in blocks]) if blocks else torch.empty(0, dtype=torch.int64, device=device)
    return Plan(blocks, steps, torch.from_numpy(cells).to(device))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    *,
    window: int | None,
    bias: Tensor | None = None,
    pairwise: Sequence[Tensor] | None = None,
    dropout: float = 0.0,
    mix: Mix | None = None,
) -> Tensor:
    """sum_j weight_ij v_j over j = i - window + 1 .. i of the same history, or all its j; weights as in `blend`.

    Args:
        query: (P, heads, d).
        key: (P, heads, d).
        value: (P, heads, d).
        plan: of the P steps.
        window: steps that a step sees, itself among them; None: its whole history, later steps too, without bias.
        bias: (heads, window) by distance; None: none.
        pairwise: bias of each pair of cells, beside that by distance, (b, 1, width, width) a block; None: none.
        dropout: share of softmax's weights dropped.
        mix: what makes weights of scores; None: softmax.

    Returns:
        (P, heads, d).
    """
    joined = torch.stack((query, key, value), 1)  # (P, 3, heads, d)
    plain = bias is None and pairwise is None and mix is None
    parts, spread = [], joined.index_select(0, plan.steps).split([len(block.steps) for block in plan.blocks])
    for number, (block, cells) in enumerate(zip(plan.blocks, spread, strict=True)):
        mask = None
        if window is None:
            mask = block.there.view(block.rows, 1, 1, block.width)
        elif not plain or block.width > window:
            mask = distance_mask(block.width, window, bias, query)
            if pairwise is not None:
                mask = mask + pairwise[number].to(mask.dtype)
        q, k, v = cells.view(block.rows, block.width, *joined.shape[1:]).permute(2, 0, 3, 1, 4)  # (b, heads, width, d)
        out = blend(q, k, v, mask, mix=mix, dropout=dropout)
        parts.append(out.transpose(1, 2).reshape(-1, *query.shape[1:]))
    return torch.cat(parts).index_select(0, plan.cells) if parts else torch.empty_like(query)


def blend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, mix: Mix | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, or mix(q k^T + bias) v: (b, heads, T, d), (b, heads, S, d) twice, as query.

    `bias` (b or 1, heads or 1, T, S) has `OUT_OF_REACH` where a key is not to be seen; None, for softmax alone: T = S,
    and nothing later is seen.
    """
    if mix is None:
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout, is_causal=bias is None
        )
    assert bias is not None, "mix needs a bias that says what is out of reach"
    return mix(query @ key.mT + bias) @ value


def distance_mask(width: int, window: int, bias: Tensor | None, like: Tensor) -> Tensor:
    """(heads, width, width) to add to attention: `bias` by distance within the window, `OUT_OF_REACH` elsewhere."""
    place = torch.arange(width, device=like.device)
    distance = place.unsqueeze(1) - place  # (width, width): from query to key
    outside = (distance < 0) | (distance >= window)
    if bias is None:
        inside = like.new_zeros(1, width, width)
    else:  # gather's gradient is added up in order, that of bias[:, ...] as threads come
        flat = distance.clamp(0, window - 1).flatten().expand(len(bias), -1)
        inside = bias.gather(1, flat).view(-1, width, width)
    return inside.masked_fill(outside, OUT_OF_REACH).to(like.dtype)


def encode(backbone: Backbone, history: Ragged) -> Tensor:
    """State after each step, (P, D): by the backbone's own `packed`, else by `states` on one block after the other."""
    packed = getattr(backbone, "packed", None)
    if packed is not None:
        return cast("Tensor", packed(history))
    order, states = [], []
    for block in plan(history.sizes, history.items.device).blocks:
        steps = block.steps[block.there]
        sizes = block.there.view(block.rows, block.width).sum(1).cpu()
        items, feedback = (unpack(part[steps], sizes, block.width) for part in (history.items, history.feedback))
        order.append(steps)
        states.append(backbone.states(items, feedback)[items > 0])
    if not states:
        return history.feedback.new_zeros(0, backbone.width)
    return torch.cat(states).index_select(0, torch.argsort(torch.cat(order)))
