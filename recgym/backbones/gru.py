"""GRU4Rec: gated recurrent layers over the history, scored against all items.

Source: Hidasi, Karatzoglou, Baltrunas, Tikk (2016), "Session-based recommendations with recurrent neural networks";
tied item vectors and the full softmax as in Petrov and Macdonald (2022) and Klenitskiy and Vasilev (2023), who found
that the loss matters more than the architecture.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from recgym.backbones.backbone import BackboneConfig, ItemTable
from recgym.types import FloatArray


class GRUCache(NamedTuple):
    """Hidden states of B histories."""

    state: Tensor  # (B, D): hidden state of the last layer
    lower: Tensor  # (B, layers - 1, D): of the layers below it


class GRU4Rec(nn.Module):
    """Recurrent backbone; `advance` costs one cell a layer."""

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,)."""
        super().__init__()
        self.config, self.num_items, self.num_feedback = config, num_items, len(feedback_scale)
        self.table = ItemTable(num_items, config.width, feedback_scale)
        self.layers = nn.ModuleList(nn.GRU(config.width, config.width, batch_first=True) for _ in range(config.layers))
        self.begin = nn.Parameter(torch.zeros(config.layers, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self._weights = [cell.all_weights[0] for cell in self._cells]  # the parameters themselves, looked up once

    @property
    def width(self) -> int:
        """Units of the state, D."""
        return self.config.width

    def states(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State after each step: (B, T), (B, T, F) -> (B, T, D)."""
        outputs, size = self._run(items, feedback)
        place = torch.arange(items.shape[1], device=items.device) - (items.shape[1] - size).unsqueeze(1)  # (B, T)
        there = (place >= 0).unsqueeze(2)
        back = place.clamp_min(0).unsqueeze(2).expand_as(outputs[-1])
        return torch.where(there, outputs[-1].gather(1, back), self.start_state())

    def scores(self, state: Tensor) -> Tensor:
        """(..., D) -> (..., N)."""
        return self.table.scores(state)

    def start_state(self) -> Tensor:
        """Learned, (D,)."""
        return self.begin[-1]

    def start(self, batch: int) -> GRUCache:
        """Cache of empty histories."""
        begin = self.begin.unsqueeze(0).expand(batch, -1, -1)
        return GRUCache(begin[:, -1].clone(), begin[:, :-1].clone())

    def prefill(self, items: Tensor, feedback: Tensor) -> GRUCache:
        """Cache after histories (B, L), (B, L, F)."""
        outputs, size = self._run(items, feedback)
        last = (size - 1).clamp_min(0).view(-1, 1, 1).expand(-1, 1, self.width)
        hidden = torch.stack([output.gather(1, last).squeeze(1) for output in outputs], 1)  # (B, layers, D)
        hidden = torch.where((size > 0).view(-1, 1, 1), hidden, self.begin)
        return GRUCache(hidden[:, -1].contiguous(), hidden[:, :-1].contiguous())

    def advance(self, cache: GRUCache, items: Tensor, feedback: Tensor) -> tuple[GRUCache, Tensor]:
        """One cell a layer; rows with item 0 stay."""
        hidden = self.table(items, feedback)  # (B, D)
        lower = []
        for layer, weights in enumerate(self._weights):
            before = cache.lower[:, layer] if layer < len(self._weights) - 1 else cache.state
            hidden = torch.gru_cell(hidden, before, *weights)
            lower.append(hidden)
        state = lower.pop()
        below = torch.stack(lower, 1) if lower else cache.lower
        if not bool(items.all()):
            met = items > 0
            state = torch.where(met.unsqueeze(1), state, cache.state)
            below = torch.where(met.view(-1, 1, 1), below, cache.lower)
        return GRUCache(state, below), state

    def item_vectors(self) -> Tensor:
        """(N, D)."""
        return self.table.vectors()

    def item_bias(self) -> Tensor:
        """(N,)."""
        return self.table.bias

    @property
    def _cells(self) -> list[nn.GRU]:
        return cast("list[nn.GRU]", list(self.layers))

    def _run(self, items: Tensor, feedback: Tensor) -> tuple[list[Tensor], Tensor]:
        """Outputs of every layer with the padding moved to the right, (B, T, D) each, and the sizes (B,)."""
        length = items.shape[1]
        size = (items > 0).sum(1)  # (B,)
        place = torch.arange(length, device=items.device) + (length - size).unsqueeze(1)
        place = place.clamp_max(length - 1)  # (B, T): what stands past the end is never read
        shifted = feedback.gather(1, place.unsqueeze(2).expand(-1, -1, feedback.shape[2]))
        hidden = self.dropout(self.table(items.gather(1, place), shifted))
        outputs = []
        for layer, cell in enumerate(self._cells):
            begin = self.begin[layer].expand(1, len(items), -1).contiguous()
            output, _ = cell(hidden, begin)
            outputs.append(output)
            hidden = self.dropout(output)
        outputs[-1] = hidden
        return outputs, size
