"""GRU4Rec: gated recurrent layers over the history, scored against all items.

Source: Hidasi, Karatzoglou, Baltrunas, Tikk (2016), "Session-based recommendations with recurrent neural networks";
tied item vectors and the full softmax as in Petrov and Macdonald (2022) and Klenitskiy and Vasilev (2023), who found
that the loss matters more than the architecture. As its authors' code has it: `recgym.backbones.gru4rec`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from recgym.backbones.backbone import BackboneConfig, ItemTable
from recgym.backbones.ragged import Ragged, pack, unpack
from recgym.backbones.recurrence import Cell, RecurrentCache, advance, fill, run, start, weights_of
from recgym.types import FloatArray


class GRU4Rec(nn.Module):
    """Recurrent backbone; `advance` costs one cell a layer."""

    layer: ClassVar[type[nn.GRU | nn.RNN]] = nn.GRU
    cell: ClassVar[Cell] = staticmethod(torch.gru_cell)

    def __init__(
        self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray, *, separate: bool = False
    ) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,); `separate` vectors to score items by."""
        super().__init__()
        self.config, self.num_items, self.num_feedback = config, num_items, len(feedback_scale)
        self.table = ItemTable(num_items, config.width, feedback_scale, separate=separate)
        self.layers = nn.ModuleList(self.layer(config.width, config.width) for _ in range(config.layers))
        self.begin = nn.Parameter(torch.zeros(config.layers, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self._weights = weights_of(self.layers)  # looked up once

    @property
    def width(self) -> int:
        """Units of the state, D."""
        return self.config.width

    def packed(self, history: Ragged) -> Tensor:
        """State after each step, (P, D), with work on real steps alone."""
        return self._run(history)[-1]

    def states(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State after each step: (B, T), (B, T, F) -> (B, T, D)."""
        history = pack(items, feedback)
        return unpack(self.packed(history), history.sizes, items.shape[1], self.start_state())

    def scores(self, state: Tensor) -> Tensor:
        """(..., D) -> (..., N)."""
        return self.table.scores(state)

    def start_state(self) -> Tensor:
        """Learned, (D,)."""
        return self.begin[-1]

    def start(self, batch: int) -> RecurrentCache:
        """Cache of empty histories."""
        return start(self.begin, batch)

    def prefill(self, items: Tensor, feedback: Tensor) -> RecurrentCache:
        """Cache after histories (B, L), (B, L, F)."""
        history = pack(items, feedback)
        return fill(self._run(history), history.sizes, self.begin)

    def advance(self, cache: RecurrentCache, items: Tensor, feedback: Tensor) -> tuple[RecurrentCache, Tensor]:
        """One cell a layer; rows with item 0 stay."""
        return advance(self.cell, self._weights, cache, self.table(items, feedback), items > 0)

    def item_vectors(self) -> Tensor:
        """(N, D)."""
        return self.table.vectors()

    def item_bias(self) -> Tensor:
        """(N,)."""
        return self.table.bias

    def _run(self, history: Ragged) -> list[Tensor]:
        """Outputs of every layer, (P, D) each."""
        hidden = self.dropout(self.table(history.items, history.feedback))
        return run(self.cell, self._weights, self.begin, hidden, history.sizes, self.dropout)
