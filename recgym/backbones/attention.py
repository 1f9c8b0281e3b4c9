"""A stack of causal attention layers: one pass over ragged histories, or one row of attention a step.

Attention looks back over a sliding window of L steps with a learned bias per distance, in place of absolute positions:
so a step's key and value never change as the window slides, and keys and values wait in a ring for the steps to come.

Source: relative bias of Raffel et al. (2020), section 2.1; sliding window of Beltagy et al. (2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.ragged import OUT_OF_REACH, Mix, Plan, attend, blend, unpack


class AttentionCache(NamedTuple):
    """Keys and values of the last L steps of B histories."""

    state: Tensor  # (B, D)
    keys: Tensor  # (B, layers, heads, L, D / heads)
    values: Tensor  # (B, layers, heads, L, D / heads)
    pushes: Tensor  # (B,) int64: the next step goes to slot pushes % L
    size: Tensor  # (B,) int64: slots that hold a step, 0..L


class Layer(nn.Module):
    """What the stack asks of a layer; its page says the rest."""

    by_distance: nn.Parameter  # (heads, L)

    def heads_of(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (..., heads, D / heads), of (..., D)."""
        raise NotImplementedError

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """Residual connections and feed-forward layer: (..., D), (..., D) -> (..., D)."""
        raise NotImplementedError

    def by_gap(self, gap: Tensor) -> Tensor:
        """Bias by the time between steps, for layers that know of it: (b, T, S) int64 -> (b, 1, T, S)."""
        raise NotImplementedError


class Stack(nn.ModuleList):
    """Layers one after the other; `mix` makes weights of scores, None: softmax."""

    def __init__(self, config: BackboneConfig, layer: Callable[[], Layer], mix: Mix | None = None) -> None:
        super().__init__(layer() for _ in range(config.layers))
        self.mix = mix
        self.length, self.heads, self.depth = config.length, config.heads, config.width // config.heads
        self.dropout = config.dropout

    def forward(
        self, hidden: Tensor, plan: Plan, gaps: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The whole pass: (P, D) -> (P, D), and each layer's keys and values, (P, heads, D / heads).

        `gaps` say how far apart in time the cells of each block are, (b, width, width), in buckets of the layers.
        """
        keys, values = [], []
        for layer in self._all():
            query, key, value = layer.heads_of(hidden)
            attended = attend(
                query, key, value, plan,
                window=self.length, bias=layer.by_distance,
                pairwise=None if gaps is None else [layer.by_gap(gap) for gap in gaps],
                dropout=self.dropout if self.training else 0.0, mix=self.mix,
            )  # fmt: skip
            hidden = layer.finish(hidden, attended.flatten(1))
            keys.append(key)
            values.append(value)
        return hidden, keys, values

    def start(self, state: Tensor) -> AttentionCache:
        """Cache of empty histories whose state is (B, D)."""
        keys = state.new_zeros(len(state), len(self), self.heads, self.length, self.depth)
        none = torch.zeros(len(state), dtype=torch.int64, device=state.device)
        return AttentionCache(state.clone(), keys, keys.clone(), none, none.clone())

    def fill(self, run: tuple[Tensor, list[Tensor], list[Tensor]], sizes: Tensor, begin: Tensor) -> AttentionCache:
        """Cache after histories of `sizes` (B,) at most L: states, keys and values of a whole pass; `begin` (D,)."""
        states, keys, values = run
        if len(sizes) and int(sizes.max()) > self.length:
            raise ValueError(f"prefill takes histories of at most {self.length} steps, got {int(sizes.max())}")
        size = sizes.to(states.device)
        last = unpack(states, sizes, self.length, begin)[:, -1]
        rings = (
            unpack(torch.stack(part, 1), sizes, self.length) for part in (keys, values)
        )  # (B, L, layers, heads, d)
        first, second = (ring.permute(0, 2, 3, 1, 4).contiguous() for ring in rings)  # slots 0..L-1, oldest first
        return AttentionCache(last.contiguous(), first, second, torch.zeros_like(size), size)

    def advance(
        self,
        cache: AttentionCache,
        hidden: Tensor,
        met: Tensor,
        finish: Callable[[Tensor], Tensor],
        gap: Tensor | None = None,
    ) -> tuple[AttentionCache, Tensor]:
        """One row of attention a layer for (B, D), then `finish`; keys and values are written in place.

        Rows that have not `met` (B,) a step stay as they are. `gap` (B, 1, L): how far in time each slot lies back.
        """
        state, keys, values, pushes, size = cache
        everyone = bool(met.all())
        rows = torch.arange(len(hidden), device=hidden.device)
        slot = pushes.remainder(self.length)  # (B,)
        distance = (slot.unsqueeze(1) - torch.arange(self.length, device=hidden.device)).remainder(
            self.length
        )  # (B, L)
        grown = (size + 1).clamp_max(self.length)
        blocked = (distance >= grown.unsqueeze(1)).unsqueeze(1)  # (B, 1, L)
        for number, layer in enumerate(self._all()):
            query, key, value = layer.heads_of(hidden)  # (B, heads, D / heads)
            for ring, row in ((keys, key), (values, value)):
                here = ring[:, number]  # (B, heads, L, D / heads)
                here[rows, :, slot] = row if everyone else torch.where(met.view(-1, 1, 1), row, here[rows, :, slot])
            bias = layer.by_distance.T[distance].transpose(1, 2).masked_fill(blocked, OUT_OF_REACH).unsqueeze(2)
            if gap is not None:
                bias = bias + layer.by_gap(gap)  # (B, heads, 1, L)
            attended = blend(query.unsqueeze(2), keys[:, number], values[:, number], bias, mix=self.mix)
            hidden = layer.finish(hidden, attended.flatten(1))
        new = finish(hidden)
        if not everyone:
            new, grown = torch.where(met.unsqueeze(1), new, state), torch.where(met, grown, size)
        return AttentionCache(new, keys, values, pushes + met, grown), new

    def _all(self) -> Iterator[Layer]:
        return cast("Iterator[Layer]", iter(self))
