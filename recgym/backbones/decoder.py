"""Transformer decoder: causal layers as first published, with an output layer of its own.

Norms come after each residual, h = norm(h + A(h)), then norm(h + F(h)) with F two layers and ReLU; the vectors that
score items are not those that are read. SASRec differs in both, and so do most decoders since. Positions are distances
here (see `recgym.backbones.attention`), in place of sinusoids.

Source: Vaswani et al. (2017), "Attention is all you need", sections 3.1 and 3.3, without attention to an encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from recgym.backbones.attention import Layer
from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.sasrec import SASRec
from recgym.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(BackboneConfig):
    """How wide."""

    model: str = "decoder"
    """The name."""
    expansion: int = 4
    """Width of the feed-forward layer, in widths of the state."""
    dropout: float = 0.1
    """Share of units dropped in training."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._at_least(1, "expansion")


class PostNorm(Layer):
    """norm(h + A(h)), then norm(h + F(h))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        inner = config.expansion * width
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))
        self.after_attention, self.after_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.by_distance = nn.Parameter(torch.zeros(config.heads, config.length))
        self.dropout = nn.Dropout(config.dropout)

    def heads_of(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> three of (..., heads, D / heads)."""
        query, key, value = self.project(hidden).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return query, key, value

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """(..., D), (..., D) -> (..., D)."""
        hidden = self.after_attention(hidden + self.dropout(self.join(attended)))
        finished: Tensor = self.after_mlp(hidden + self.dropout(self.mlp(hidden)))
        return finished


class Decoder(SASRec):
    """SASRec's pass over layers that norm last, and a separate output layer."""

    Config: ClassVar[type[BackboneConfig]] = DecoderConfig

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,)."""
        super().__init__(config, num_items, feedback_scale, separate=True)
        self.norm = nn.Identity()  # the last layer ends in one

    def layer(self) -> Layer:
        """A fresh layer that norms last."""
        assert isinstance(self.config, DecoderConfig)
        return PostNorm(self.config)
