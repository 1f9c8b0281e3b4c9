"""TransRec: a user is a translation from the last item's point to the next one's.

x(i | u, l) = b_i - |g_l + t + t_u - g_i|^2, all points g in the unit ball. With q = g_l + t + t_u this is
<q, 2 g_i> + b_i - |g_i|^2 - |q|^2, whose last term ranks nothing: so q is the state, 2 g_i an item's vector.

The authors project points that have left the ball back after each step of gradient descent. Here g_i = e_i /
max(1, |e_i|) of free e_i wherever a point is read: no step leaves the ball, whatever the optimiser. Feedback moves the
point that is left, within the ball. S-BPR is `LossConfig(name="bpr", negatives=1)`, L2 penalties are AdamW's decay.

Distances are symmetric: all steps of a walk that returns to its start score the same in sum as those of the walk back.

Source: He, Kang, McAuley (2017), "Translation-based recommendation", section 3, with the squared L2 distance.
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
class TransRecConfig(BackboneConfig):
    """How many users, and how wide; layers, heads and dropout change nothing, and one step of history is read."""

    model: str = "transrec"
    """The name."""
    num_users: int = 0
    """Users of the training log, whose translations are learned; 0: all are taken for unknown."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._at_least(0, "num_users")


class TransRecCache(NamedTuple):
    """All that B histories leave."""

    state: Tensor  # (B, D)


class TransRec(nn.Module):
    """Translation backbone; `advance` costs one look-up."""

    Config: ClassVar[type[BackboneConfig]] = TransRecConfig

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,)."""
        super().__init__()
        self.config, self.num_items, self.num_feedback = config, num_items, len(feedback_scale)
        assert isinstance(config, TransRecConfig)
        self.table = ItemTable(num_items, config.width, feedback_scale)  # e_i
        for effect in (self.table.feedback, self.table.gate):
            nn.init.zeros_(effect.weight)  # what feedback changes is learned from the paper's model on
        self.users = UserVectors(config.num_users, config.width)  # t, t_u
        self.begin = nn.Parameter(torch.zeros(config.width))

    @property
    def width(self) -> int:
        """Units of the state, D."""
        return self.config.width

    def packed(self, history: Ragged) -> Tensor:
        """State after each step, (P, D)."""
        return self._after(history.items, history.feedback)

    def states(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State after each step: (..., T), (..., T, F) -> (..., T, D)."""
        return torch.where((items > 0).unsqueeze(-1), self._after(items, feedback), self.start_state())

    def personal(self, states: Tensor, users: Tensor) -> Tensor:
        """The state moved by t_u: (Q, D), (Q,) -> (Q, D)."""
        return states + self.users.offsets(users)

    def scores(self, state: Tensor) -> Tensor:
        """(..., D) -> (..., N)."""
        return nn.functional.linear(state, self.item_vectors(), self.item_bias())

    def start_state(self) -> Tensor:
        """Learned, (D,)."""
        return self.begin

    def start(self, batch: int) -> TransRecCache:
        """Cache of empty histories."""
        return TransRecCache(self.begin.repeat(batch, 1))

    def prefill(self, items: Tensor, feedback: Tensor) -> TransRecCache:
        """Cache after histories (B, L), (B, L, F)."""
        return TransRecCache(self.states(items[:, -1], feedback[:, -1]))

    def advance(self, cache: TransRecCache, items: Tensor, feedback: Tensor) -> tuple[TransRecCache, Tensor]:
        """One look-up; rows with item 0 stay."""
        state = torch.where((items > 0).unsqueeze(1), self._after(items, feedback), cache.state)
        return TransRecCache(state), state

    def item_vectors(self) -> Tensor:
        """2 g_i, (N, D)."""
        return 2 * into_ball(self.table.vectors())

    def item_bias(self) -> Tensor:
        """b_i - |g_i|^2, (N,)."""
        return self.table.bias - into_ball(self.table.vectors()).square().sum(1)

    @torch.no_grad()
    def fill(self, unmet: Tensor, vectors: Tensor, bias: Tensor) -> None:
        """Write vectors (K, D), cut to the ball, and biases (K,) of the items `unmet` (K,), counted from 0."""
        points = into_ball(vectors / 2)
        self.table.vectors()[unmet] = points
        self.table.bias[unmet] = bias + points.square().sum(1)

    def _after(self, items: Tensor, feedback: Tensor) -> Tensor:
        """g_l + t: (...,), (..., F) -> (..., D)."""
        return into_ball(self.table(items, feedback)) + self.users.common


def into_ball(points: Tensor) -> Tensor:
    """Each point e as e / max(1, |e|), (..., D)."""
    size: Tensor = torch.linalg.vector_norm(points, dim=-1, keepdim=True)
    return points / size.clamp_min(1)
