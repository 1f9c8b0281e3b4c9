"""FPMC: factorised personal Markov chains, what a user likes plus what follows the last item.

x(i | u, l) = <v_u^{U,I}, v_i^{I,U}> + <v_i^{I,L}, v_l^{L,I}> + b_i. The state is [v_u, v_l] and an item's vector
[v_i^{I,U}, v_i^{I,L}]: twice as wide as each factor. The paper has baskets and no b_i; here a basket is the last item.
Its S-BPR is `LossConfig(name="bpr", negatives=1)`, its L2 penalties are that config's `penalty`.

Source: Rendle, Freudenthaler, Schmidt-Thieme (2010), "Factorizing personalized Markov chains for next-basket
recommendation", sections 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.last_item import LastItem, LastItemConfig
from recgym.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class FPMCConfig(LastItemConfig):
    """How many users, and how wide."""

    model: str = "fpmc"
    """The name."""
    width: int = 64
    """Units of each factor, k; the state has 2k."""


class FPMC(LastItem):
    """Factor backbone; `advance` costs one look-up."""

    Config: ClassVar[type[BackboneConfig]] = FPMCConfig

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,)."""
        super().__init__(config, num_items, feedback_scale)  # the table holds v_l
        self.items = nn.Parameter(torch.randn(num_items, self.width) * config.width**-0.5)

    @property
    def width(self) -> int:
        """Units of the state, D = 2k."""
        return 2 * self.config.width

    def after(self, items: Tensor, feedback: Tensor) -> Tensor:
        """[v, v_l]: (...,), (..., F) -> (..., D)."""
        last = self.table(items, feedback)
        return torch.cat([self.users.common.expand_as(last), last], -1)

    def start_state(self) -> Tensor:
        """What everybody likes, and no last item, (D,)."""
        return nn.functional.pad(self.users.common, (0, self.config.width))

    def personal(self, states: Tensor, users: Tensor) -> Tensor:
        """Let known users like what they like: (Q, D), (Q,) -> (Q, D)."""
        return states + nn.functional.pad(self.users.offsets(users), (0, self.config.width))

    def item_vectors(self) -> Tensor:
        """[v_i^{I,U}, v_i^{I,L}], (N, D)."""
        return self.items

    @torch.no_grad()
    def fill(self, unmet: Tensor, vectors: Tensor, bias: Tensor) -> None:
        """Write vectors (K, D) and biases (K,) of the items `unmet` (K,), counted from 0."""
        self.items[unmet], self.table.bias[unmet] = vectors, bias
