"""SASRec: causal self-attention over the history, tied to the item vectors it reads.

Layers come in two kinds. "pre-norm": norm before attention and feed-forward, which trains steadily (Xiong et al. 2020).
"original": queries alone are normalised, residuals start from the normalised input, ReLU (the authors' code). Item
vectors start as short as theirs.

Source: Kang and McAuley (2018), "Self-attentive sequential recommendation", section 3; positions are distances here
(see `recgym.backbones.attention`), which a sliding window leaves as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from recgym.backbones.attention import AttentionCache, Layer, Stack
from recgym.backbones.backbone import BackboneConfig, ItemTable
from recgym.backbones.ragged import Ragged, pack, plan, unpack
from recgym.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class SASRecConfig(BackboneConfig):
    """Which layers, and how wide; sizes are the paper's, whose layers are `layer="original", expansion=1`."""

    model: str = "sasrec"
    """The name."""
    width: int = 50
    """Units of the state, D."""
    heads: int = 1
    """Attention heads."""
    layer: str = "pre-norm"
    """"pre-norm" or "original"."""
    expansion: int = 2
    """Width of the feed-forward layer, in widths of the state."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if self.layer not in _LAYERS:
            raise ValueError(f"layer is {self.layer!r}, expected one of {', '.join(_LAYERS)}")
        self._at_least(1, "expansion")


class PreNorm(Layer):
    """h + A(norm h), then h + F(norm h)."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        inner = config.expansion * width
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.by_distance = nn.Parameter(torch.zeros(config.heads, config.length))
        self.dropout = nn.Dropout(config.dropout)

    def heads_of(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> three of (..., heads, D / heads)."""
        query, key, value = self.project(self.before_attention(hidden)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return query, key, value

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """(..., D), (..., D) -> (..., D)."""
        hidden = hidden + self.dropout(self.join(attended))
        finished: Tensor = hidden + self.dropout(self.mlp(self.before_mlp(hidden)))
        return finished


class Original(Layer):
    """q = norm h + A(norm h; h), then x = norm q, x + F(x)."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.offer = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.join = nn.Linear(width, width)
        inner = config.expansion * width
        self.mlp = nn.Sequential(
            nn.Linear(width, inner), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(inner, width)
        )
        self.by_distance = nn.Parameter(torch.zeros(config.heads, config.length))
        self.dropout = nn.Dropout(config.dropout)

    def heads_of(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> three of (..., heads, D / heads)."""
        query = self.ask(self.before_attention(hidden)).unflatten(-1, (self.heads, -1))
        key, value = self.offer(hidden).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return query, key, value

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """(..., D), (..., D) -> (..., D)."""
        hidden = self.before_mlp(self.before_attention(hidden) + self.join(attended))
        finished: Tensor = hidden + self.dropout(self.mlp(hidden))
        return finished


_LAYERS: dict[str, Callable[[SASRecConfig], Layer]] = {"pre-norm": PreNorm, "original": Original}


class SASRec(nn.Module):
    """Attention backbone; `advance` costs one row of attention a layer."""

    Config: ClassVar[type[BackboneConfig]] = SASRecConfig

    def __init__(
        self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray, *, separate: bool = False
    ) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,); `separate` vectors to score items by."""
        super().__init__()
        self.config, self.num_items, self.num_feedback = config, num_items, len(feedback_scale)
        self.table = ItemTable(num_items, config.width, feedback_scale, separate=separate)
        self.table.start_small()
        self.layers = Stack(config, self.layer)
        self.norm: nn.Module = nn.LayerNorm(config.width)
        self.begin = nn.Parameter(torch.zeros(config.width))
        self.dropout = nn.Dropout(config.dropout)

    @property
    def width(self) -> int:
        """Units of the state, D."""
        return self.config.width

    def layer(self) -> Layer:
        """A fresh layer of the kind that the config names."""
        assert isinstance(self.config, SASRecConfig)
        return _LAYERS[self.config.layer](self.config)

    def packed(self, history: Ragged) -> Tensor:
        """State after each step, (P, D), with work on real steps alone."""
        return self._run(history)[0]

    def states(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State after each step: (B, T), (B, T, F) -> (B, T, D); T may exceed the window."""
        history = pack(items, feedback)
        return unpack(self.packed(history), history.sizes, items.shape[1], self.begin)

    def scores(self, state: Tensor) -> Tensor:
        """(..., D) -> (..., N)."""
        return self.table.scores(state)

    def start_state(self) -> Tensor:
        """Learned, (D,)."""
        return self.begin

    def start(self, batch: int) -> AttentionCache:
        """Cache of empty histories."""
        return self.layers.start(self.begin.expand(batch, -1))

    def prefill(self, items: Tensor, feedback: Tensor) -> AttentionCache:
        """Cache after histories (B, L), (B, L, F); at most the window's length."""
        history = pack(items, feedback)
        return self.layers.fill(self._run(history), history.sizes, self.begin)

    def advance(self, cache: AttentionCache, items: Tensor, feedback: Tensor) -> tuple[AttentionCache, Tensor]:
        """One row of attention a layer; keys and values are written in place; rows with item 0 stay."""
        return self.layers.advance(cache, self.table(items, feedback), items > 0, self.norm)

    def item_vectors(self) -> Tensor:
        """(N, D)."""
        return self.table.vectors()

    def item_bias(self) -> Tensor:
        """(N,)."""
        return self.table.bias

    def _run(self, history: Ragged) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """States (P, D), and keys and values of each layer, (P, heads, D / heads)."""
        hidden = self.dropout(self.table(history.items, history.feedback))
        hidden, keys, values = self.layers(hidden, plan(history.sizes, hidden.device))
        return self.norm(hidden), keys, values
