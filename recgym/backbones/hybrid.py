"""A static matrix factorisation joined to a sequential encoder: what somebody is like, and what they just did.

x(i | u, history) = g <h, v_i> + (1 - g) <p_u, q_i> + b_i, with the encoder's state h and item vectors v_i. The share g
is fixed, or a gate of both parts: g = sigmoid(z), z = w [h; p_u] + c.

Source: matrix factorisation of Koren, Bell, Volinsky (2009), "Matrix factorization techniques for recommender
systems"; a fixed sum with the sequential part as in Kang and McAuley (2018, section 3.6) and Rendle et al. (2010); the
gate as in Ma, Kang, Liu (2019), "Hierarchical gating networks for sequential recommendation".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from recgym.backbones.backbone import Backbone, BackboneConfig, ItemTable, make_backbone
from recgym.backbones.cold import write_items
from recgym.backbones.ragged import Ragged, encode
from recgym.backbones.user_vectors import UserVectors
from recgym.types import FloatArray

_SATURATED = 20.0
"""Largest |z| of the gate: there g is 0 or 1 in float32, and h can still be told from g h."""


@dataclass(frozen=True, kw_only=True)
class HybridConfig(BackboneConfig):
    """Which encoder, how it is joined, how many users; the other fields are the encoder's."""

    model: str = "hybrid"
    """The name."""
    encoder: str = "sasrec"
    """A key of `BACKBONES` that trains on next items; its own fields have their defaults."""
    weight: float | None = None
    """Share g of the encoder; None: a learned gate."""
    num_users: int = 0
    """Users of the training log, whose p_u are learned; 0: all are taken for unknown."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if self.encoder == self.model:
            raise ValueError(f"encoder is {self.encoder!r}, expected another backbone")
        if self.weight is not None and not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight}, expected a share in [0, 1] or None")
        self._at_least(0, "num_users")


class HybridCache(NamedTuple):
    """What B histories leave."""

    state: Tensor  # (B, D)
    encoder: Any  # the encoder's cache


class Hybrid(nn.Module):
    """Joined backbone; `advance` costs that of its encoder.

    The state is [g h, (1 - g) p], of somebody unknown. A learned gate's z stands behind it, where item vectors are 0:
    from it `personal` finds the gate of a known user without reading the history again.
    """

    Config: ClassVar[type[BackboneConfig]] = HybridConfig

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,)."""
        super().__init__()
        self.config, self.num_items, self.num_feedback = config, num_items, len(feedback_scale)
        assert isinstance(config, HybridConfig)
        plain = BackboneConfig(
            model=config.encoder, width=config.width, layers=config.layers, heads=config.heads,
            length=config.length, dropout=config.dropout,
        )  # fmt: skip
        seed = int(torch.randint(2**31, ()))
        self.encoder: Backbone = make_backbone(plain, num_items, feedback_scale, seed=seed)
        if hasattr(self.encoder, "training_pairs"):
            raise ValueError(f"encoder is {config.encoder!r}, expected one that trains on next items")
        self.users = UserVectors(config.num_users, config.width)
        self.factors = nn.Parameter(torch.randn(num_items, config.width) * config.width**-0.5)  # q_i
        self.gate = nn.Linear(self.encoder.width + config.width, 1) if config.weight is None else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)

    @property
    def table(self) -> ItemTable:
        """The encoder's."""
        return self.encoder.table

    @property
    def width(self) -> int:
        """Units of the state, D."""
        return self.encoder.width + self.config.width + (self.gate is not None)

    def packed(self, history: Ragged) -> Tensor:
        """State after each step, (P, D)."""
        return self._join(encode(self.encoder, history))

    def states(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State after each step: (B, T), (B, T, F) -> (B, T, D)."""
        return self._join(self.encoder.states(items, feedback))

    def personal(self, states: Tensor, users: Tensor) -> Tensor:
        """[g h, (1 - g) p_u] with the gate of each user: (Q, D), (Q,) -> (Q, D)."""
        offsets = self.users.offsets(users)  # (Q, k)
        factors = self.users.common + offsets
        sequential, after = states[:, : self.encoder.width], states[:, self.encoder.width + self.config.width :]
        if self.gate is None:
            return torch.cat([sequential, (1 - self._weight) * factors], 1)
        moved = _bounded(after + nn.functional.linear(offsets, self.gate.weight[:, self.encoder.width :]))
        ratio = (nn.functional.logsigmoid(moved) - nn.functional.logsigmoid(after)).exp()
        return torch.cat([ratio * sequential, torch.sigmoid(-moved) * factors, moved], 1)

    def scores(self, state: Tensor) -> Tensor:
        """(..., D) -> (..., N)."""
        return nn.functional.linear(state, self.item_vectors(), self.item_bias())

    def start_state(self) -> Tensor:
        """(D,)."""
        return self._join(self.encoder.start_state())

    def start(self, batch: int) -> HybridCache:
        """Cache of empty histories."""
        return self._cache(self.encoder.start(batch))

    def prefill(self, items: Tensor, feedback: Tensor) -> HybridCache:
        """Cache after histories (B, L), (B, L, F)."""
        return self._cache(self.encoder.prefill(items, feedback))

    def advance(self, cache: HybridCache, items: Tensor, feedback: Tensor) -> tuple[HybridCache, Tensor]:
        """One step of the encoder; rows with item 0 stay."""
        new = self._cache(self.encoder.advance(cache.encoder, items, feedback)[0])
        return new, new.state

    def item_vectors(self) -> Tensor:
        """[v_i, q_i], (N, D)."""
        vectors = torch.cat([self.encoder.item_vectors(), self.factors], 1)
        return nn.functional.pad(vectors, (0, self.width - vectors.shape[1]))

    def item_bias(self) -> Tensor:
        """(N,)."""
        return self.encoder.item_bias()

    @torch.no_grad()
    def fill(self, unmet: Tensor, vectors: Tensor, bias: Tensor) -> None:
        """Write vectors (K, D) and biases (K,) of the items `unmet` (K,), counted from 0."""
        write_items(self.encoder, unmet, vectors[:, : self.encoder.width], bias)
        self.factors[unmet] = vectors[:, self.encoder.width : self.encoder.width + self.config.width]

    @property
    def _weight(self) -> float:
        assert isinstance(self.config, HybridConfig)
        assert self.config.weight is not None
        return self.config.weight

    def _cache(self, encoder: Any) -> HybridCache:
        return HybridCache(self._join(encoder.state), encoder)

    def _join(self, hidden: Tensor) -> Tensor:
        """State of somebody unknown, (..., width of the encoder) -> (..., D)."""
        factors = self.users.common.expand(*hidden.shape[:-1], -1)
        if self.gate is None:
            return torch.cat([self._weight * hidden, (1 - self._weight) * factors], -1)
        z = _bounded(self.gate(torch.cat([hidden, factors], -1)))
        return torch.cat([torch.sigmoid(z) * hidden, torch.sigmoid(-z) * factors, z], -1)


def _bounded(z: Tensor) -> Tensor:
    return z.clamp(-_SATURATED, _SATURATED)
