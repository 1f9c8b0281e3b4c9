"""HSTU: attention without softmax, weighed by position and by time, whose result is gated by the step that asks.

A layer computes, with f1 and f2 linear and norm without weights of its own,

    U, V, Q, K = silu(f1(norm X))
    A = silu(Q K^T + b_position + b_time) / n
    Y = X + f2(norm(A V) * U)

so that a step gathers more where more of the past fits, which softmax's weights, whose sum is 1, cannot say.

Source: Zhai et al. (2024), "Actions speak louder than words: trillion-parameter sequential transducers for generative
recommendations", equations 1 to 4; defaults of the authors' public run on MovieLens-1M (one head, states and item
vectors of unit length, temperature 0.05, dropout on the input and before f2 alone, f1 without bias), which trains with
sampled softmax of 128 uniform negatives without correction.

What differs from that code: n is the window L, there it is longer by the steps to be predicted; positions are distances
alone, with a bias for each head, there learned vectors of places enter too and heads share a bias; time is counted back
from the step that asks, there from the step to be predicted, whose time nobody knows who is asked for a recommendation;
items have a learned bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize, pad, silu

from recgym.backbones.attention import AttentionCache, Layer, Stack
from recgym.backbones.backbone import BackboneConfig, ItemTable
from recgym.backbones.ragged import Plan, Ragged, pack, plan, unpack
from recgym.types import FloatArray

_BUCKETS = 128
_STD = 0.02
"""Of fresh weights and of item vectors, which enter times sqrt(D): short vectors turn fast, as cosines ask of them."""
_EPSILON = 1e-6
"""Of the norm; not small beside the variance of A V, which is divided by n: layers start near the identity."""


@dataclass(frozen=True, kw_only=True)
class HSTUConfig(BackboneConfig):
    """How wide, and what attention and scores are made of; sizes are those of the authors' public run."""

    model: str = "hstu"
    """The name."""
    width: int = 50
    """Units of the state, D."""
    heads: int = 1
    """Attention heads."""
    length: int = 200
    """Steps of history that are read, L."""
    time_bias: bool = False
    """Attention knows how long ago steps were; off, since simulated users' steps have no time."""
    temperature: float | None = 0.05
    """Scores are cosines of state and item divided by this; None: dot products after a norm with weights."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, expected a positive number or None")


class HSTUCache(NamedTuple):
    """Keys and values of the last L steps of B histories, and when they were."""

    ring: AttentionCache
    time: Tensor  # (B, L) float64 seconds since the epoch by slot, nan where not known; (B, 0) without bias by time

    @property
    def state(self) -> Tensor:
        """(B, D)."""
        return self.ring.state


def buckets(gap: Tensor) -> Tensor:
    """Bucket of each gap in seconds, floor(log(max(|gap|, 1)) / 0.301) up to 127; 128 for gaps that are nan."""
    seconds = gap.abs().float().clamp_min(1)
    return (seconds.log() / 0.301).clamp_max(_BUCKETS - 1).nan_to_num(_BUCKETS).long()


class Transducer(Layer):
    """X + f2(norm(A V) * U)."""

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__()
        width, self.heads, self.length = config.width, config.heads, config.length
        self.project, self.gate = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.join = nn.Linear(width, width)
        self.by_distance = nn.Parameter(torch.empty(config.heads, config.length))
        self.by_time = nn.Parameter(torch.empty(_BUCKETS)) if config.time_bias else None
        self.dropout = nn.Dropout(config.dropout)
        nn.init.xavier_uniform_(self.join.weight)
        for weight in (self.project.weight, self.gate.weight, self.by_distance, self.by_time):
            if weight is not None:
                nn.init.normal_(weight, std=_STD)

    def heads_of(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> three of (..., heads, D / heads)."""
        query, key, value = silu(self.project(_norm(hidden))).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return query, key, value

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """(..., D), (..., D) -> (..., D)."""
        gated = _norm(attended / self.length) * silu(self.gate(_norm(hidden)))
        finished: Tensor = hidden + self.join(self.dropout(gated))
        return finished

    def by_gap(self, gap: Tensor) -> Tensor:
        """Bias by bucket of time, none where the time is not known: (b, T, S) int64 -> (b, 1, T, S)."""
        assert self.by_time is not None
        return pad(self.by_time, (0, 1)).index_select(0, gap.flatten()).view_as(gap).unsqueeze(1)


class HSTU(nn.Module):
    """Attention backbone; `advance` costs one row of attention a layer. Times of steps may be None: not known."""

    Config: ClassVar[type[BackboneConfig]] = HSTUConfig

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,)."""
        super().__init__()
        assert isinstance(config, HSTUConfig)
        self.config: BackboneConfig = config
        self.num_items, self.num_feedback = num_items, len(feedback_scale)
        self.reads_time, self.temperature = config.time_bias, config.temperature
        self.table = ItemTable(num_items, config.width, feedback_scale)
        self.table.start_small(_STD)
        self.layers = Stack(config, lambda: Transducer(config), mix=silu)
        self.norm = nn.LayerNorm(config.width) if config.temperature is None else nn.Identity()
        self.begin = nn.Parameter(torch.zeros(config.width))
        self.dropout = nn.Dropout(config.dropout)

    @property
    def width(self) -> int:
        """Units of the state, D."""
        return self.config.width

    def packed(self, history: Ragged) -> Tensor:
        """State after each step, (P, D), with work on real steps alone."""
        return self._run(history)[0]

    def states(self, items: Tensor, feedback: Tensor, time: Tensor | None = None) -> Tensor:
        """State after each step: (B, T), (B, T, F), (B, T) -> (B, T, D); T may exceed the window."""
        history = pack(items, feedback, time)
        return unpack(self.packed(history), history.sizes, items.shape[1], self.begin)

    def scores(self, state: Tensor) -> Tensor:
        """(..., D) -> (..., N)."""
        return nn.functional.linear(state, self.item_vectors(), self.item_bias())

    def start_state(self) -> Tensor:
        """Learned, (D,), of any length."""
        return self.begin

    def start(self, batch: int) -> HSTUCache:
        """Cache of empty histories."""
        ring = self.layers.start(self.begin.expand(batch, -1))
        return HSTUCache(ring, self._unknown(batch))

    def prefill(self, items: Tensor, feedback: Tensor, time: Tensor | None = None) -> HSTUCache:
        """Cache after histories (B, L), (B, L, F), (B, L); at most the window's length."""
        history = pack(items, feedback, time)
        ring = self.layers.fill(self._run(history), history.sizes, self.begin)
        if history.time is None or not self.reads_time:
            return HSTUCache(ring, self._unknown(len(items)))
        return HSTUCache(ring, unpack(history.time, history.sizes, self.config.length, torch.nan))

    def advance(
        self, cache: HSTUCache, items: Tensor, feedback: Tensor, time: Tensor | None = None
    ) -> tuple[HSTUCache, Tensor]:
        """One row of attention a layer; the ring is written in place; rows with item 0 stay; `time` (B,)."""
        met, times, gap = items > 0, cache.time, None
        if self.reads_time:
            now = times.new_full((len(items),), torch.nan) if time is None else time.to(times.dtype)
            slot = cache.ring.pushes.remainder(self.config.length).unsqueeze(1)
            times = times.scatter_(1, slot, torch.where(met.unsqueeze(1), now.unsqueeze(1), times.gather(1, slot)))
            gap = buckets(now.unsqueeze(1) - times).unsqueeze(1)
        ring, state = self.layers.advance(cache.ring, self._read(items, feedback), met, self._finish, gap)
        return HSTUCache(ring, times), state

    def item_vectors(self) -> Tensor:
        """(N, D), of unit length if scores are cosines."""
        vectors = self.table.vectors()
        return vectors if self.temperature is None else normalize(vectors, dim=-1)

    def item_bias(self) -> Tensor:
        """(N,)."""
        return self.table.bias

    @torch.no_grad()
    def fill(self, unmet: Tensor, vectors: Tensor, bias: Tensor) -> None:
        """Write vectors (K, D) and biases (K,) of the items `unmet` (K,), from 0; cosines are of what is read."""
        self.table.bias[unmet] = bias
        if self.temperature is None:
            self.table.vectors()[unmet] = vectors

    def _read(self, items: Tensor, feedback: Tensor) -> Tensor:
        read: Tensor = self.table(items, feedback) * self.config.width**0.5
        return read

    def _unknown(self, batch: int) -> Tensor:
        """Times of a ring whose steps have none."""
        shape = (batch, self.config.length if self.reads_time else 0)
        return torch.full(shape, torch.nan, dtype=torch.float64, device=self.begin.device)

    def _finish(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.norm(hidden)
        return normed if self.temperature is None else normalize(normed, dim=-1) / self.temperature

    def _run(self, history: Ragged) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """States (P, D), and keys and values of each layer, (P, heads, D / heads)."""
        hidden = self.dropout(self._read(history.items, history.feedback))
        layout = plan(history.sizes, hidden.device)
        gaps = _gaps(history.time, layout) if self.reads_time and history.time is not None else None
        hidden, keys, values = self.layers(hidden, layout, gaps)
        return self._finish(hidden), keys, values


def _gaps(time: Tensor, layout: Plan) -> list[Tensor]:
    """Buckets of the time between the cells of each block, (b, width, width)."""
    cells = (time[block.steps].view(block.rows, block.width) for block in layout.blocks)
    return [buckets(row.unsqueeze(2) - row.unsqueeze(1)) for row in cells]


def _norm(hidden: Tensor) -> Tensor:
    return layer_norm(hidden, hidden.shape[-1:], eps=_EPSILON)
