"""KuaiSim's immediate response: how a user reacts to each item of a slate, in seven behaviours.

The published simulator scores behaviours with a transformer trained on the KuaiRand log. That log is not at hand, so
seeded embeddings stand in for it: items v_j and users u are unit vectors of D dimensions, R is a random rotation, and
an item has two sides, its appeal (what gets it opened) and its worth (what makes it good to have opened):

    appeal[x, j] = t sqrt(D) x . v_j + g a_j        x: the user's interest, u at first;  a, w ~ N(0, 1)
    worth[x, j]  = t sqrt(D) x . R v_j + g w_j
    score_b      = appeal share_b * appeal + worth share_b * worth      (`LOADS`; a click is appeal alone)
    s_i          = mean over the slate, i included, of cos(v_i, v_k)

"single" squash:  P(b) = sigmoid(c_b + score_b) (1 - rho max(s_i, 0))    intercepts c_b calibrated, see below
"double" squash:  P(b) = max(sigmoid(sigmoid(score_b)) - rho s_i, 0)     as shipped: each sigmoid in [.5, .731]

Calibration: c_b solves "the rate of b under uniformly random slates of `slate_size` equals `rates[b]`", by bisection on
a fixed sample of users and slates. `rates` are assumptions that the user of this world sets; the defaults look like
KuaiRand, but nobody measured them here. `rates=None` leaves c_b = 0: about half of all items get each behaviour.

Two deviations. The penalty of a single squash is a share of P: subtracted as it stands, rho s_i is larger than the rate
of a like and would leave none. And the shipped code divides the cosine by the width of its item encoding, 64, so that
the published rho of .2 is .2 / 64 here.

Source: Zhao et al. (2023), "KuaiSim: a comprehensive simulator for recommender systems", section 3, and the published
code's `KRMBUserResponse` and `KREnvironment_WholeSession_GPU`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recgym.random import bits, fold, normal, session_keys
from recgym.settings import check_numbers
from recgym.types import FeedbackKind

BEHAVIOURS = ("is_click", "long_view", "is_like", "is_comment", "is_forward", "is_follow", "is_hate")
"""Behaviours, F = 7, in the published order."""
CLICK, LONG_VIEW, HATE = 0, 1, 6
"""Columns of the feedback."""
LOADS = ((1.0, 0.0), (0.3, 0.95), (0.4, 0.9), (0.6, 0.8), (0.2, 0.95), (0.0, 1.0), (0.5, -0.85))
"""Share of appeal and of worth in the score of each behaviour: hate follows appeal without worth."""
_SAMPLE, _HALVINGS = 4096, 40
"""Slates that calibration averages over, and its steps, each of which halves [-30, 30]."""
_TOP = 1000.0
"""Above all values: scores of the items that a varied slate starts with."""


@dataclass(frozen=True, kw_only=True)
class ResponseConfig:
    """Who and what there is, and how scores become chances."""

    _UNBOUNDED: ClassVar[tuple[str, ...]] = ()
    """Fields that may be infinite."""
    seed: int = 0
    """Seed of users and items; sessions draw from their own keys."""
    num_items: int = 1000
    """Items, N."""
    num_users: int = 2000
    """Users, U."""
    width: int = 8
    """Dimensions of the embeddings, D."""
    taste: float = 0.8
    """Standard deviation over items of the personal part of appeal and of worth, in log-odds; t above."""
    general: float = 0.6
    """Standard deviation over items of the part that all users share; g above."""
    squash: Literal["single", "double"] = "single"
    """"single": one sigmoid; "double": two, as shipped."""
    rates: tuple[float, ...] | None = (0.38, 0.25, 0.015, 0.003, 0.001, 0.0015, 0.0003)
    """Rate of each behaviour under random slates, to calibrate to: assumptions, to be set by who knows better. None: no
    calibration, the only choice for a double squash, whose chances cannot leave [.5, .731]."""
    rho: float = 0.2
    """What likeness to the rest of the slate costs."""
    influence: float = 0.05
    """How far the interest moves towards what is clicked: by influence * (sum of clicked v) / K, then normalised."""
    slate_size: int = 6
    """Items of the slates that rates are calibrated for, K (other sizes may be shown)."""

    def __post_init__(self) -> None:
        """Refuse sizes, chances and combinations that make no world."""
        check_numbers(self, unbounded=self._UNBOUNDED)
        for name in ("num_items", "num_users", "width", "slate_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{type(self).__name__}.{name} is {getattr(self, name)}, expected at least 1")
        for name in ("taste", "general", "influence"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{type(self).__name__}.{name} is {getattr(self, name)}, expected at least 0")
        if not 0 <= self.rho <= 1:
            raise ValueError(f"{type(self).__name__}.rho is {self.rho}, expected 0 to 1")
        if self.squash not in ("single", "double"):
            raise ValueError(f"{type(self).__name__}.squash is {self.squash!r}, expected 'single' or 'double'")
        if self.rates is None:
            return
        if self.squash == "double":
            raise ValueError(
                f"{type(self).__name__}.rates is {self.rates}, but a double squash cannot be calibrated; use rates=None"
            )
        if not all(0 < rate < 0.8 for rate in self.rates):
            raise ValueError(
                f"{type(self).__name__}.rates is {self.rates}, expected rates between 0 and 0.8:"
                f" {', '.join(BEHAVIOURS)}"
            )


class Responses:
    """Scores and chances of the seven behaviours; holds no sessions."""

    kinds = tuple(FeedbackKind(name=name) for name in BEHAVIOURS)

    def __init__(self, config: ResponseConfig, *, device: torch.device | str = "cpu") -> None:
        """Draw users and items, and calibrate."""
        self.config, self.device = config, torch.device(device)
        count, width = config.num_items, config.width
        key = session_keys(config.seed, 1)
        self.users = self._table(fold(key, 0), config.num_users)  # (U, D) unit vectors
        self.items = self._table(fold(key, 1), count)  # (N, D) unit vectors
        rotation = torch.linalg.qr(normal(fold(key, 2), width * width).view(width, width).double()).Q
        sides = torch.stack([self.items, self.items @ rotation.to(self.items)], 1)  # (N, 2, D)
        general = config.general * normal(fold(key, 3), 2 * count).view(count, 2).to(self.device)
        self.sides = config.taste * math.sqrt(width) * sides
        self.general = general  # (N, 2)
        self._table_of_slots = torch.cat(  # (N, 3 D + 2): one gather a step brings all that a slot needs
            [self.sides.flatten(1), general, self.items], 1
        )
        self._loads = torch.tensor(LOADS, device=self.device).T.contiguous()  # (2, F)
        self.intercept = torch.zeros(len(BEHAVIOURS), device=self.device)
        if config.rates is not None:
            self.intercept = self._calibrated(fold(key, 4), torch.tensor(config.rates, device=self.device))

    def chances(self, interest: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """P(b) of each slot, (B, K, F), and the slots' embeddings (B, K, D).

        Args:
            interest: (B, D) unit vectors.
            index: (B, K) items 0..N-1.
        """
        scores, vectors = self._scores(interest, index)
        return self._penalised(self.squashed(scores), self._likeness(vectors)), vectors

    def every(self, interest: Tensor) -> Tensor:
        """P(b) of every item by itself, before likeness to a slate counts: (B, D) -> (B, N, F)."""
        sides = interest @ self.sides.flatten(0, 1).T  # (B, N 2)
        return self.squashed((sides.view(len(interest), -1, 2) + self.general) @ self._loads)

    def squashed(self, scores: Tensor) -> Tensor:
        """Scores (..., F) as chances, before the penalty: once with intercepts, or twice as shipped."""
        if self.config.squash == "double":
            return scores.sigmoid().sigmoid_()
        return (scores + self.intercept).sigmoid_()

    def fused(self, interest: Tensor, weights: Tensor) -> Tensor:
        """Score items by sum_b weights_b P(b), the published action of the cross-session task.

        Args:
            interest: (B, D).
            weights: (F,) or (B, F).

        Returns:
            (B, N); the slate is its top K.
        """
        weights = weights.to(self.device).expand(len(interest), -1)
        return torch.einsum("bnf,bf->bn", self.every(interest), weights)

    def varied(self, value: Tensor) -> Tensor:
        """Values of items, (B, N), with the best slate on top: K greedy picks, each less what likeness costs it."""
        config = self.config
        if config.squash == "double" or config.rho == 0:
            return value
        picked = torch.zeros(len(value), config.width, device=self.device)  # sum of the picks' embeddings
        scores = value.clone()
        for place in range(min(config.slate_size, config.num_items), 0, -1):
            likeness = (picked @ self.items.T + 1).clamp_(min=0) / config.slate_size  # (B, N)
            gain = (value - config.rho * value.abs() * likeness).masked_fill_(scores > _TOP / 2, -torch.inf)
            best = gain.argmax(1, keepdim=True)
            scores.scatter_(1, best, _TOP + place)
            picked = picked + self.items[best[:, 0]]
        return scores

    def moved(self, interest: Tensor, vectors: Tensor, clicked: Tensor) -> Tensor:
        """Interest after clicks: normalise(x + influence / K * sum of clicked v), (B, D).

        Args:
            interest: (B, D).
            vectors: (B, K, D) of the slate.
            clicked: (B, K) 0 or 1.
        """
        pull = (vectors * clicked.unsqueeze(2)).sum(1)
        return normalize(interest.add(pull, alpha=self.config.influence / clicked.shape[1]), dim=1)

    def _scores(self, interest: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, K, F) and embeddings (B, K, D) of items `index` (B, K)."""
        width = self.config.width
        rows = self._table_of_slots[index]  # (B, K, 3 D + 2)
        appeal = (rows[..., :width] * interest.unsqueeze(1)).sum(2)  # (B, K)
        worth = (rows[..., width : 2 * width] * interest.unsqueeze(1)).sum(2)
        sides = torch.stack([appeal, worth], 2) + rows[..., 2 * width : 2 * width + 2]  # (B, K, 2)
        return sides @ self._loads, rows[..., 2 * width + 2 :]

    def _likeness(self, vectors: Tensor) -> Tensor:
        """Mean cosine of each slot to the slate, itself included: unit (B, K, D) -> (B, K)."""
        return (vectors * vectors.mean(1, keepdim=True)).sum(2)

    def _penalised(self, chance: Tensor, likeness: Tensor) -> Tensor:
        """Chances (..., K, F) less what likeness (..., K) costs."""
        penalty = self.config.rho * likeness.unsqueeze(-1)
        if self.config.squash == "double":
            return (chance - penalty).clamp_(0, 1)
        return chance * (1 - penalty.clamp_(min=0))

    def _table(self, key: Tensor, count: int) -> Tensor:
        """Unit vectors uniform on the sphere, (count, D)."""
        return normalize(normal(key, count * self.config.width).view(count, -1), dim=1).to(self.device)

    def _calibrated(self, key: Tensor, rates: Tensor) -> Tensor:
        """Intercepts (F,) at which random slates have `rates` (F,); the rate grows with the intercept."""
        config = self.config
        draws = bits(key, _SAMPLE * (config.slate_size + 1)).view(_SAMPLE, -1).to(self.device)
        scores, vectors = self._scores(self.users[draws[:, 0] % config.num_users], draws[:, 1:] % config.num_items)
        likeness = self._likeness(vectors)
        low, high = torch.full_like(rates, -30.0), torch.full_like(rates, 30.0)
        for _ in range(_HALVINGS):
            self.intercept = (low + high) / 2
            found = self._penalised(self.squashed(scores), likeness).mean((0, 1))  # (F,)
            low = torch.where(found < rates, self.intercept, low)
            high = torch.where(found < rates, high, self.intercept)
        return (low + high) / 2
