"""What backbones share that read the last item alone: FPMC and TransRec."""

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
class LastItemConfig(BackboneConfig):
    """How many users, and how wide; layers, heads and dropout change nothing, and one step of history is read."""

    num_users: int = 0
    """Users of the training log, whose vectors are learned; 0: all are taken for unknown."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._at_least(0, "num_users")


class LastItemCache(NamedTuple):
    """All that B histories leave."""

    state: Tensor  # (B, D)


class LastItem(nn.Module):
    """Backbone whose state is a function of the last step and of who somebody is; `advance` costs one look-up.

    A page says what the state is (`after`, `start_state`, `personal`), and what it is multiplied with.
    """

    Config: ClassVar[type[BackboneConfig]] = LastItemConfig

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,)."""
        super().__init__()
        self.config, self.num_items, self.num_feedback = config, num_items, len(feedback_scale)
        assert isinstance(config, LastItemConfig)
        self.table = ItemTable(num_items, config.width, feedback_scale)  # vectors of the item that was left
        for effect in (self.table.feedback, self.table.gate):
            nn.init.zeros_(effect.weight)  # what feedback changes is learned from the paper's model on
        self.users = UserVectors(config.num_users, config.width)

    def after(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State of somebody unknown after a step: (...,), (..., F) -> (..., D)."""
        raise NotImplementedError

    def start_state(self) -> Tensor:
        """State before the first step, (D,)."""
        raise NotImplementedError

    def item_vectors(self) -> Tensor:
        """Vectors that states are multiplied with, (N, D)."""
        raise NotImplementedError

    def item_bias(self) -> Tensor:
        """(N,)."""
        return self.table.bias

    def packed(self, history: Ragged) -> Tensor:
        """State after each step, (P, D)."""
        return self.after(history.items, history.feedback)

    def states(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State after each step: (..., T), (..., T, F) -> (..., T, D)."""
        return torch.where((items > 0).unsqueeze(-1), self.after(items, feedback), self.start_state())

    def scores(self, state: Tensor) -> Tensor:
        """(..., D) -> (..., N)."""
        return nn.functional.linear(state, self.item_vectors(), self.item_bias())

    def start(self, batch: int) -> LastItemCache:
        """Cache of empty histories."""
        return LastItemCache(self.start_state().repeat(batch, 1))

    def prefill(self, items: Tensor, feedback: Tensor) -> LastItemCache:
        """Cache after histories (B, L), (B, L, F)."""
        return LastItemCache(self.states(items[:, -1], feedback[:, -1]))

    def advance(self, cache: LastItemCache, items: Tensor, feedback: Tensor) -> tuple[LastItemCache, Tensor]:
        """One look-up; rows with item 0 stay."""
        state = torch.where((items > 0).unsqueeze(1), self.after(items, feedback), cache.state)
        return LastItemCache(state), state
