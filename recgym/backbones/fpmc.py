"""FPMC: factorised personal Markov chains, what a user likes plus what follows the last item.

x(i | u, l) = <v_u^{U,I}, v_i^{I,U}> + <v_i^{I,L}, v_l^{L,I}> + b_i. The state is [v_u, v_l] and an item's vector
[v_i^{I,U}, v_i^{I,L}]: twice as wide as each factor. The paper has baskets and no b_i; here a basket is the last item.
Its S-BPR is `LossConfig(name="bpr", negatives=1)`, and its L2 penalties are AdamW's decay.

Source: Rendle, Freudenthaler, Schmidt-Thieme (2010), "Factorizing personalized Markov chains for next-basket
recommendation", sections 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from recgym.backbones.backbone import BackboneConfig, ItemTable
from recgym.backbones.ragged import Ragged
from recgym.backbones.user_vectors import UserVectors
from recgym.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class FPMCConfig(BackboneConfig):
    """How many users, and how wide; layers, heads and dropout change nothing, and one step of history is read."""

    model: str = "fpmc"
    """The name."""
    width: int = 64
    """Units of each factor, k; the state has 2k."""
    num_users: int = 0
    """Users of the training log, whose vectors are learned; 0: all are taken for unknown."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._at_least(0, "num_users")


class FPMCCache(NamedTuple):
    """All that B histories leave."""

    state: Tensor  # (B, 2k)


class FPMC(nn.Module):
    """Factor backbone; `advance` costs one look-up."""

    Config: ClassVar[type[BackboneConfig]] = FPMCConfig

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,)."""
        super().__init__()
        self.config, self.num_items, self.num_feedback = config, num_items, len(feedback_scale)
        assert isinstance(config, FPMCConfig)
        self.table = ItemTable(num_items, config.width, feedback_scale)  # v_l
        for effect in (self.table.feedback, self.table.gate):
            nn.init.zeros_(effect.weight)  # what feedback changes is learned from the paper's model on
        self.users = UserVectors(config.num_users, config.width)
        self.items = nn.Parameter(torch.randn(num_items, self.width) * config.width**-0.5)

    @property
    def width(self) -> int:
        """Units of the state, D = 2k."""
        return 2 * self.config.width

    def packed(self, history: Ragged) -> Tensor:
        """State after each step, (P, D)."""
        return self._after(history.items, history.feedback)

    def states(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State after each step: (..., T), (..., T, F) -> (..., T, D)."""
        return torch.where((items > 0).unsqueeze(-1), self._after(items, feedback), self.start_state())

    def personal(self, states: Tensor, users: Tensor) -> Tensor:
        """Let known users like what they like: (Q, D), (Q,) -> (Q, D)."""
        return states + nn.functional.pad(self.users.offsets(users), (0, self.config.width))

    def scores(self, state: Tensor) -> Tensor:
        """(..., D) -> (..., N)."""
        return nn.functional.linear(state, self.items, self.table.bias)

    def start_state(self) -> Tensor:
        """What everybody likes, and no last item, (D,)."""
        return nn.functional.pad(self.users.common, (0, self.config.width))

    def start(self, batch: int) -> FPMCCache:
        """Cache of empty histories."""
        return FPMCCache(self.start_state().repeat(batch, 1))

    def prefill(self, items: Tensor, feedback: Tensor) -> FPMCCache:
        """Cache after histories (B, L), (B, L, F)."""
        return FPMCCache(self.states(items[:, -1], feedback[:, -1]))

    def advance(self, cache: FPMCCache, items: Tensor, feedback: Tensor) -> tuple[FPMCCache, Tensor]:
        """One look-up; rows with item 0 stay."""
        state = torch.where((items > 0).unsqueeze(1), self._after(items, feedback), cache.state)
        return FPMCCache(state), state

    def item_vectors(self) -> Tensor:
        """(N, D)."""
        return self.items

    def item_bias(self) -> Tensor:
        """(N,)."""
        return self.table.bias

    @torch.no_grad()
    def fill(self, unmet: Tensor, vectors: Tensor, bias: Tensor) -> None:
        """Write vectors (K, D) and biases (K,) of the items `unmet` (K,), counted from 0."""
        self.items[unmet], self.table.bias[unmet] = vectors, bias

    def _after(self, items: Tensor, feedback: Tensor) -> Tensor:
        """[v, v_l]: (...,), (..., F) -> (..., D)."""
        last = self.table(items, feedback)
        return torch.cat([self.users.common.expand_as(last), last], -1)
