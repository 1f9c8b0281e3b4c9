"""Recurrent layers over ragged histories, and one step at a time: pure functions that the recurrent backbones share.

Steps are laid out by their place in the history, the longest history first, so that those of one place are neighbours
and a layer takes them in one product: no padding, and as many products as the longest history has steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recgym.backbones.ragged import places

Cell = Callable[..., Tensor]
"""(B, D), (B, D) and a layer's weights -> (B, D), as `torch.gru_cell`."""
Weights = Sequence[Sequence[Tensor]]
"""Of each layer, from the lowest: input, hidden, and their biases."""


class RecurrentCache(NamedTuple):
    """Hidden states of B histories."""

    state: Tensor  # (B, D): hidden state of the last layer
    lower: Tensor  # (B, layers - 1, D): of the layers below it


class Layout(NamedTuple):
    """P steps by place, and within a place by the size of their history, the longest first."""

    order: Tensor  # (P,) step that stands there
    back: Tensor  # (P,) where each step stands
    widths: list[int]  # histories that have a first, second, ... step


def weights_of(layers: Iterable[nn.Module]) -> Weights:
    """The parameters themselves of `nn.RNN`s or `nn.GRU`s of one layer each."""
    return [layer.all_weights[0] for layer in layers if isinstance(layer, nn.RNNBase)]


def layout(sizes: Tensor, device: torch.device) -> Layout:
    """Lay histories of `sizes` (B,) out."""
    place = places(sizes)
    rank = torch.argsort(torch.argsort(sizes, descending=True, stable=True))
    order = torch.argsort(place * len(sizes) + torch.repeat_interleave(rank, sizes))
    back = torch.argsort(order)
    return Layout(order.to(device), back.to(device), torch.bincount(place).tolist())


def run(
    cell: Cell, weights: Weights, begin: Tensor, hidden: Tensor, sizes: Tensor, dropout: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Outputs of every layer after `dropout`, (P, D) each.

    Args:
        cell: of all layers.
        weights: of each layer.
        begin: (layers, D) states of an empty history.
        hidden: (P, D) what the first layer reads.
        sizes: (B,) steps of each history.
        dropout: of a layer's output.
    """
    order, back, widths = layout(sizes, hidden.device)
    hidden, outputs = hidden.index_select(0, order), []
    for layer, own in enumerate(weights):
        state, states = begin[layer].expand(len(sizes), -1), [hidden[:0]]
        for part, width in zip(hidden.split(widths), widths, strict=True):
            state = cell(part, state[:width], *own)
            states.append(state)
        hidden = dropout(torch.cat(states))
        outputs.append(hidden.index_select(0, back))
    return outputs


def start(begin: Tensor, batch: int) -> RecurrentCache:
    """Cache of empty histories; `begin` (layers, D)."""
    hidden = begin.expand(batch, -1, -1)
    return RecurrentCache(hidden[:, -1].clone(), hidden[:, :-1].clone())


def fill(outputs: Sequence[Tensor], sizes: Tensor, begin: Tensor) -> RecurrentCache:
    """Cache after histories of `sizes` (B,): the layers' outputs (P, D) at the last step, or `begin` (layers, D)."""
    size = sizes.to(begin.device)
    last = torch.where(size > 0, size.cumsum(0), 0)
    hidden = torch.cat([begin.unsqueeze(0), torch.stack(list(outputs), 1)]).index_select(0, last)  # (B, layers, D)
    return RecurrentCache(hidden[:, -1].contiguous(), hidden[:, :-1].contiguous())


def advance(
    cell: Cell, weights: Weights, cache: RecurrentCache, hidden: Tensor, met: Tensor
) -> tuple[RecurrentCache, Tensor]:
    """One cell a layer for (B, D); rows that have not `met` (B,) a step stay as they are."""
    lower: list[Tensor] = []
    for layer, own in enumerate(weights):
        hidden = cell(hidden, cache.lower[:, layer] if layer < len(weights) - 1 else cache.state, *own)
        lower.append(hidden)
    state = lower.pop()
    below = torch.stack(lower, 1) if lower else cache.lower
    if not bool(met.all()):
        state = torch.where(met.unsqueeze(1), state, cache.state)
        below = torch.where(met.view(-1, 1, 1), below, cache.lower)
    return RecurrentCache(state, below), state
