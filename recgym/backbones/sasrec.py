"""SASRec: causal self-attention over the history, with a ring of keys and values for incremental steps.

Attention looks back over a sliding window of `length` steps with a learned bias per distance, in place of absolute
positions: so a step's key and value never change as the window slides, and one step costs one row of attention.

Source: Kang and McAuley (2018), "Self-attentive sequential recommendation"; pre-normalisation of Xiong et al. (2020);
relative bias of Raffel et al. (2020), section 2.1; sliding window of Beltagy et al. (2020).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from recgym.backbones.backbone import BackboneConfig, ItemTable
from recgym.types import FloatArray


class AttentionCache(NamedTuple):
    """Keys and values of the last L steps of B histories."""

    state: Tensor  # (B, D)
    keys: Tensor  # (B, layers, heads, L, D / heads)
    values: Tensor  # (B, layers, heads, L, D / heads)
    pushes: Tensor  # (B,) int64: the next step goes to slot pushes % L
    size: Tensor  # (B,) int64: slots that hold a step, 0..L


class Block(nn.Module):
    """One pre-normalised attention layer with its feed-forward layer."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.by_distance = nn.Parameter(torch.zeros(config.heads, config.length))
        self.dropout = nn.Dropout(config.dropout)

    def heads_of(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, T, heads, D / heads), of (B, T, D)."""
        parts = self.project(self.before_attention(hidden)).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.unbind(2)
        return query, key, value

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """Residual connections and feed-forward layer: (B, T, D), (B, T, D) -> (B, T, D)."""
        hidden = hidden + self.dropout(self.join(attended))
        finished: Tensor = hidden + self.dropout(self.mlp(self.before_mlp(hidden)))
        return finished


class SASRec(nn.Module):
    """Attention backbone; `advance` costs one row of attention a layer."""

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,)."""
        super().__init__()
        self.config, self.num_items, self.num_feedback = config, num_items, len(feedback_scale)
        self.table = ItemTable(num_items, config.width, feedback_scale)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.begin = nn.Parameter(torch.zeros(config.width))
        self.dropout = nn.Dropout(config.dropout)

    @property
    def width(self) -> int:
        """Units of the state, D."""
        return self.config.width

    def states(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State after each step: (B, T), (B, T, F) -> (B, T, D); T may exceed the window."""
        return self._run(items, feedback)[0]

    def scores(self, state: Tensor) -> Tensor:
        """(..., D) -> (..., N)."""
        return self.table.scores(state)

    def start_state(self) -> Tensor:
        """Learned, (D,)."""
        return self.begin

    def start(self, batch: int) -> AttentionCache:
        """Cache of empty histories."""
        config = self.config
        shape = (batch, config.layers, config.heads, config.length, config.width // config.heads)
        keys, zero = self.begin.new_zeros(shape), torch.zeros(batch, dtype=torch.int64, device=self.begin.device)
        return AttentionCache(self.begin.expand(batch, -1).clone(), keys, keys.clone(), zero, zero.clone())

    def prefill(self, items: Tensor, feedback: Tensor) -> AttentionCache:
        """Cache after histories (B, L), (B, L, F); at most the window's length."""
        length = self.config.length
        if items.shape[1] > length:
            raise ValueError(f"prefill takes histories of at most {length} steps, got {items.shape[1]}")
        states, keys, values = self._run(items, feedback)
        pad = (0, 0, length - items.shape[1], 0)  # slots 0..L-1 hold the window, oldest first
        size = (items > 0).sum(1)
        return AttentionCache(
            states[:, -1].contiguous(),
            nn.functional.pad(torch.stack(keys, 1), pad),
            nn.functional.pad(torch.stack(values, 1), pad),
            torch.zeros_like(size),
            size,
        )

    def advance(self, cache: AttentionCache, items: Tensor, feedback: Tensor) -> tuple[AttentionCache, Tensor]:
        """One row of attention a layer; keys and values are written in place; rows with item 0 stay."""
        state, keys, values, pushes, size = cache
        length = self.config.length
        rows = torch.arange(len(items), device=items.device)
        slot = pushes.remainder(length)  # (B,)
        distance = (slot.unsqueeze(1) - torch.arange(length, device=items.device)).remainder(length)  # (B, L)
        met = items > 0
        everyone = bool(met.all())
        new_size = (size + 1).clamp_max(length)
        blocked = distance >= new_size.unsqueeze(1)  # (B, L)
        hidden = self.table(items, feedback).unsqueeze(1)  # (B, 1, D)
        for layer, block in enumerate(self._blocks):
            query, key, value = block.heads_of(hidden)  # (B, 1, heads, D / heads)
            for ring, row in ((keys, key), (values, value)):
                here = ring[:, layer]  # (B, heads, L, D / heads)
                new = row.squeeze(1)
                here[rows, :, slot] = new if everyone else torch.where(met.view(-1, 1, 1), new, here[rows, :, slot])
            bias = block.by_distance.T[distance].transpose(1, 2)  # (B, heads, L)
            bias = bias.masked_fill(blocked.unsqueeze(1), -torch.inf).unsqueeze(2)  # (B, heads, 1, L)
            attended = nn.functional.scaled_dot_product_attention(
                query.transpose(1, 2), keys[:, layer], values[:, layer], attn_mask=bias
            )
            hidden = block.finish(hidden, attended.transpose(1, 2).flatten(2))
        new_state = self.norm(hidden.squeeze(1))
        if not everyone:
            new_state = torch.where(met.unsqueeze(1), new_state, state)
            new_size = torch.where(met, new_size, size)
        return AttentionCache(new_state, keys, values, pushes + met, new_size), new_state

    def item_vectors(self) -> Tensor:
        """(N, D)."""
        return self.table.vectors()

    def item_bias(self) -> Tensor:
        """(N,)."""
        return self.table.bias

    @property
    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    def _run(self, items: Tensor, feedback: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """States (B, T, D), and keys and values of each layer, (B, heads, T, D / heads)."""
        place = torch.arange(items.shape[1], device=items.device)
        distance = place.unsqueeze(1) - place  # (T, T): from query to key
        inside = (distance >= 0) & (distance < self.config.length)
        there = items > 0  # (B, T)
        allowed = (inside & there.unsqueeze(1)) | torch.eye(len(place), dtype=torch.bool, device=items.device)
        blocked = ~allowed.unsqueeze(1)  # (B, 1, T, T)
        hidden = self.dropout(self.table(items, feedback))
        near = distance.clamp(0, self.config.length - 1)
        keys, values = [], []
        for block in self._blocks:
            query, key, value = (part.transpose(1, 2) for part in block.heads_of(hidden))
            bias = block.by_distance[:, near].unsqueeze(0).masked_fill(blocked, -torch.inf)  # (B, heads, T, T)
            attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            hidden = block.finish(hidden, attended.transpose(1, 2).flatten(2))
            keys.append(key)
            values.append(value)
        return torch.where(there.unsqueeze(2), self.norm(hidden), self.begin), keys, values
