"""Caser: convolutions over the last few items seen as an image, beside a vector of the user.

Horizontal filters span h neighbouring steps and all units, and keep their strongest response: patterns of h items
wherever they stand. Vertical filters weigh the steps of each unit: sums of the items by their place. A layer makes z of
both, and the item's vector W'_i is of twice the width: score = W'_i . [z, P_u] + b'_i.

Source: Tang and Wang (2018), "Personalized top-N sequential recommendation via convolutional sequence embedding",
sections 3.2 to 3.4; trained as there by `LossConfig(name="bce", negatives=3)`, on the next item alone (T = 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from recgym.backbones.backbone import BackboneConfig, ItemTable
from recgym.backbones.ragged import Ragged, pack, pasts, unpack
from recgym.backbones.user_vectors import UserVectors
from recgym.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class CaserConfig(BackboneConfig):
    """How wide, and which filters."""

    model: str = "caser"
    """The name."""
    width: int = 50
    """Units of the vectors that items are read by, of z and of users, d; the state has twice as many."""
    dropout: float = 0.5
    """Share of the filters' outputs dropped in training."""
    window: int = 5
    """Steps that the convolutions see, the paper's L; at most `length`."""
    horizontal: int = 16
    """Horizontal filters of each height 1 .. `window`."""
    vertical: int = 4
    """Vertical filters."""
    num_users: int = 0
    """Users of the training log, who get vectors of their own; 0: none is known."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if not 1 <= self.window <= self.length:
            raise ValueError(f"window is {self.window}, expected 1 to length ({self.length})")
        self._at_least(1, "horizontal", "vertical")
        self._at_least(0, "num_users")


class CaserCache(NamedTuple):
    """The last steps of B histories as the convolutions see them."""

    state: Tensor  # (B, 2 D)
    image: Tensor  # (B, window, D), zero where there was no step


class Caser(nn.Module):
    """Convolutional backbone; `advance` costs the convolutions over its window, however long the past."""

    Config: ClassVar[type[BackboneConfig]] = CaserConfig

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,)."""
        super().__init__()
        self.config, self.num_items, self.num_feedback = config, num_items, len(feedback_scale)
        assert isinstance(config, CaserConfig)
        self.window, width = config.window, config.width
        self.table = ItemTable(num_items, width, feedback_scale)
        heights = range(1, config.window + 1)
        self.horizontal = nn.ModuleList(nn.Conv1d(width, config.horizontal, height) for height in heights)
        self.vertical = nn.Linear(config.window, config.vertical)
        self.join = nn.Linear(config.window * config.horizontal + width * config.vertical, width)
        self.dropout = nn.Dropout(config.dropout)
        self.users = UserVectors(config.num_users, width)  # P_u
        self.vectors = nn.Parameter(torch.randn(num_items, 2 * width) / (2 * width))

    @property
    def width(self) -> int:
        """Units of the state, [z, P_u]."""
        return 2 * self.config.width

    def packed(self, history: Ragged) -> Tensor:
        """State after each step, (P, 2 D)."""
        steps, there = pasts(history.sizes, self.window, history.items.device)
        hidden = self.table(history.items, history.feedback)
        image = hidden.index_select(0, steps.flatten()).view(*steps.shape, hidden.shape[1]) * there.unsqueeze(2)
        return self._convolved(image)

    def states(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State after each step: (B, T), (B, T, F) -> (B, T, 2 D)."""
        history = pack(items, feedback)
        return unpack(self.packed(history), history.sizes, items.shape[1], self.start_state())

    def personal(self, states: Tensor, users: Tensor) -> Tensor:
        """Let known users have their own P_u: (Q, 2 D), (Q,) -> (Q, 2 D)."""
        return states + nn.functional.pad(self.users.offsets(users), (self.config.width, 0))

    def scores(self, state: Tensor) -> Tensor:
        """(..., 2 D) -> (..., N)."""
        return nn.functional.linear(state, self.vectors, self.table.bias)

    def start_state(self) -> Tensor:
        """Of an empty image, (2 D,)."""
        return self.start(1).state[0]

    def start(self, batch: int) -> CaserCache:
        """Cache of empty histories."""
        image = self.users.common.new_zeros(batch, self.window, self.config.width)
        return CaserCache(self._convolved(image), image)

    def prefill(self, items: Tensor, feedback: Tensor) -> CaserCache:
        """Cache after histories (B, L), (B, L, F)."""
        more = self.window - items.shape[1]
        items, feedback = nn.functional.pad(items, (more, 0)), nn.functional.pad(feedback, (0, 0, more, 0))
        image = self.table(items, feedback) * (items > 0).unsqueeze(2)
        return CaserCache(self._convolved(image), image)

    def advance(self, cache: CaserCache, items: Tensor, feedback: Tensor) -> tuple[CaserCache, Tensor]:
        """The convolutions over the last steps once more; rows with item 0 stay."""
        met = (items > 0).unsqueeze(1)
        image = torch.cat([cache.image[:, 1:], self.table(items, feedback).unsqueeze(1)], 1)
        image = torch.where(met.unsqueeze(2), image, cache.image)
        state = torch.where(met, self._convolved(image), cache.state)
        return CaserCache(state, image), state

    def item_vectors(self) -> Tensor:
        """W', (N, 2 D)."""
        return self.vectors

    def item_bias(self) -> Tensor:
        """(N,)."""
        return self.table.bias

    @torch.no_grad()
    def fill(self, unmet: Tensor, vectors: Tensor, bias: Tensor) -> None:
        """Write vectors (K, 2 D) and biases (K,) of the items `unmet` (K,), counted from 0."""
        self.vectors[unmet], self.table.bias[unmet] = vectors, bias

    def _convolved(self, image: Tensor) -> Tensor:
        """[z, P of an unknown user]: (Q, window, D) -> (Q, 2 D)."""
        units = image.transpose(1, 2)  # (Q, D, window)
        strongest = [torch.relu(filters(units)).amax(2) for filters in self.horizontal]
        features = torch.cat([*strongest, self.vertical(units).flatten(1)], 1)
        z = torch.relu(self.join(self.dropout(features)))
        return torch.cat([z, self.users.common.to(z.dtype).expand(len(z), -1)], 1)
