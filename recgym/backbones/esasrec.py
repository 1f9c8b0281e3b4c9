"""eSASRec: SASRec with LiGR layers, trained with sampled softmax.

A LiGR layer lets a gate of its input decide how much of attention and feed-forward enters:
h + sigmoid(W h) * A(norm h), then the same with a SwiGLU feed-forward layer.

Source: Tikhonovich et al. (2025), "eSASRec: enhancing transformer-based recommendations in a modular fashion"; layers
of Borisyuk et al. (2025), "From features to transformers: redefining ranking for scalable impact" (LiGR); SwiGLU of
Shazeer (2020), "GLU variants improve transformer".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from recgym.backbones.attention import Layer
from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.sasrec import SASRec


@dataclass(frozen=True, kw_only=True)
class ESASRecConfig(BackboneConfig):
    """How wide; defaults of the authors' runs on shops' logs."""

    model: str = "esasrec"
    """The name."""
    layers: int = 1
    """LiGR layers."""
    heads: int = 1
    """Attention heads."""
    expansion: int = 4
    """Width of the feed-forward layer, in widths of the state."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._at_least(1, "expansion")


class LiGR(Layer):
    """Gated residuals around pre-normalised attention and SwiGLU."""

    def __init__(self, config: ESASRecConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        inner = config.expansion * width
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.attention_gate, self.mlp_gate = nn.Linear(width, width), nn.Linear(width, width)
        self.by_distance = nn.Parameter(torch.zeros(config.heads, config.length))
        self.dropout = nn.Dropout(config.dropout)

    def heads_of(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> three of (..., heads, D / heads)."""
        query, key, value = self.project(self.before_attention(hidden)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return query, key, value

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """(..., D), (..., D) -> (..., D)."""
        hidden = hidden + torch.sigmoid(self.attention_gate(hidden)) * self.dropout(self.join(attended))
        gate, up = self.widen(self.before_mlp(hidden)).chunk(2, -1)
        inner = self.dropout(nn.functional.silu(gate) * up)
        finished: Tensor = hidden + torch.sigmoid(self.mlp_gate(hidden)) * self.dropout(self.narrow(inner))
        return finished


class ESASRec(SASRec):
    """SASRec whose layers are LiGR; its best loss is `LossConfig(name="sampled-softmax")`."""

    Config: ClassVar[type[BackboneConfig]] = ESASRecConfig

    def layer(self) -> Layer:
        """A fresh LiGR layer."""
        assert isinstance(self.config, ESASRecConfig)
        return LiGR(self.config)
