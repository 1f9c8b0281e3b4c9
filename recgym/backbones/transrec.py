"""TransRec: a user is a translation from the last item's point to the next one's.

x(i | u, l) = b_i - |g_l + t + t_u - g_i|^2, all points g in the unit ball. With q = g_l + t + t_u this is
<q, 2 g_i> + b_i - |g_i|^2 - |q|^2, whose last term ranks nothing: so q is the state, 2 g_i an item's vector.

The authors project points that have left the ball back after each step of gradient descent. Here g_i = e_i /
max(1, |e_i|) of free e_i wherever a point is read: no step leaves the ball, whatever the optimiser. Feedback moves the
point that is left, within the ball. S-BPR is `LossConfig(name="bpr", negatives=1)`, L2 penalties are its `penalty`.

Distances are symmetric: all steps of a walk that returns to its start score the same in sum as those of the walk back.

Source: He, Kang, McAuley (2017), "Translation-based recommendation", section 3, with the squared L2 distance.
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
class TransRecConfig(LastItemConfig):
    """How many users, and how wide."""

    model: str = "transrec"
    """The name."""


class TransRec(LastItem):
    """Translation backbone; `advance` costs one look-up."""

    Config: ClassVar[type[BackboneConfig]] = TransRecConfig

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,)."""
        super().__init__(config, num_items, feedback_scale)  # the table holds e_i, the users' vectors are t and t_u
        self.begin = nn.Parameter(torch.zeros(config.width))

    @property
    def width(self) -> int:
        """Units of the state, D."""
        return self.config.width

    def after(self, items: Tensor, feedback: Tensor) -> Tensor:
        """g_l + t: (...,), (..., F) -> (..., D)."""
        return into_ball(self.table(items, feedback)) + self.users.common

    def start_state(self) -> Tensor:
        """Learned, (D,)."""
        return self.begin

    def personal(self, states: Tensor, users: Tensor) -> Tensor:
        """The state moved by t_u: (Q, D), (Q,) -> (Q, D)."""
        return states + self.users.offsets(users)

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


def into_ball(points: Tensor) -> Tensor:
    """Each point e as e / max(1, |e|), (..., D)."""
    size: Tensor = torch.linalg.vector_norm(points, dim=-1, keepdim=True)
    return points / size.clamp_min(1)
