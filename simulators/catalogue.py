"""Who and what is in the storefront: items and users drawn once from a seed, in double precision.

Double precision because a log must come out the same on every machine: single-precision exponentials differ in their
last bit between processors, which is as coarse as the grid of the uniform draws that they are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recgym.random import fold, session_keys, uniform
from recgym.settings import check_numbers

_TOP_RANKED = 3
"""Categories that one user likes at most."""


@dataclass(frozen=True, kw_only=True)
class StorefrontConfig:
    """Sizes and coefficients of the storefront; log-odds are natural logarithms."""

    seed: int = 0
    """Seed of the items and the users; sessions draw from their own keys."""
    num_items: int = 500
    """Items, N."""
    num_users: int = 2000
    """Users, U."""
    num_categories: int = 10
    """Categories, C; item j is in category j mod C."""
    rank: int = 8
    """Dimensions of the embeddings in which users and items match."""
    length: int = 50
    """Items that the visible history keeps, L (the starts' length where there are starts)."""

    click_base: float = -3.1
    """Log-odds of a click on an average item in an average category."""
    match_weight: float = 0.9
    """Log-odds per unit of match, which is standard normal over items."""
    affinity_weight: float = 2.2
    """Log-odds between a liked and an unliked category, for the best liked one."""
    attraction_weight: float = 0.4
    """Log-odds per unit of an item's attractiveness, which is standard normal."""
    clickbait_weight: float = 1.0
    """Log-odds that full clickbait adds to a click."""
    boredom_weight: float = 1.0
    """Log-odds that a click loses per recent show of the same category."""
    boredom_decay: float = 0.75
    """Share of boredom that survives one step; 0.75 forgets in about five."""
    repeat_penalty: float = 3.0
    """Log-odds that a click loses on an item consumed before in this session."""
    slot_penalty: float = 0.7
    """Log-odds that a click loses per unit of log(1 + slot)."""

    quality_gain: float = 0.30
    """Satisfaction won by consuming an item, per unit of quality."""
    clickbait_loss: float = 0.8
    """Satisfaction lost by consuming full clickbait."""
    satisfaction_decay: float = 0.95
    """Share of satisfaction that survives one step."""

    leave_base: float = -2.8
    """Log-odds of leaving after a click, for an average user without satisfaction or disappointment."""
    leave_satisfaction: float = 0.4
    """Log-odds of leaving that one unit of satisfaction takes away."""
    leave_miss: float = 0.2
    """Log-odds of leaving per item in a row that was not clicked, up to `miss_limit`."""
    miss_limit: int = 5
    """Misses in a row after which impatience grows no more."""
    patience_spread: float = 0.4
    """Standard deviation over users of the log-odds of leaving."""
    gap_days: float = 11.0
    """Mean days until a user without satisfaction returns."""
    gap_satisfaction: float = 0.3
    """How fast that mean falls: exp(-gap_satisfaction * satisfaction)."""

    def __post_init__(self) -> None:
        """Refuse sizes and shares that make no world."""
        check_numbers(self)
        for field in ("num_items", "num_users", "num_categories", "rank", "length", "miss_limit"):
            if getattr(self, field) < 1:
                raise ValueError(f"StorefrontConfig.{field} is {getattr(self, field)}, expected at least 1")
        if self.num_categories > self.num_items or self.num_categories < _TOP_RANKED:
            raise ValueError(
                f"StorefrontConfig.num_categories is {self.num_categories}, expected {_TOP_RANKED} to num_items"
                f" ({self.num_items})"
            )
        for field in ("boredom_decay", "satisfaction_decay"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"StorefrontConfig.{field} is {getattr(self, field)}, expected 0 <= share < 1")
        for field in ("patience_spread", "boredom_weight", "repeat_penalty", "slot_penalty"):
            if getattr(self, field) < 0:
                raise ValueError(f"StorefrontConfig.{field} is {getattr(self, field)}, expected at least 0")
        if not self.gap_days > 0:
            raise ValueError(f"StorefrontConfig.gap_days is {self.gap_days}, expected more than 0")


SETTINGS = {"storefront": StorefrontConfig()}
"""The world that made the sample log."""


class Catalogue(NamedTuple):
    """The items; row j describes item j + 1. All float64 but `category`."""

    category: Tensor  # (N,) int64, 0..C-1
    quality: Tensor  # (N,) standard normal
    clickbait: Tensor  # (N,) in (0, 1), high where quality is low
    attraction: Tensor  # (N,) standard normal: what a popularity list would know
    gain: Tensor  # (N,) satisfaction won, or lost, by consuming the item


class Population(NamedTuple):
    """The users, float64."""

    affinity: Tensor  # (U, C) from 0 to 1: two or three liked categories a user
    patience: Tensor  # (U,) taken from the log-odds of leaving
    match: Tensor  # (U, N) standard normal over items
    appeal: Tensor  # (U, N) log-odds of a click on the item at slot 0, fresh and without boredom


def make_catalogue(config: StorefrontConfig) -> Catalogue:
    """Draw the items of `config.seed`."""
    quality, bait, attraction = _normal(config.seed, 0, config.num_items, 3).unbind(1)
    clickbait = torch.sigmoid(1.2 * bait - 0.8 * quality - 0.8)
    gain = config.quality_gain * quality - config.clickbait_loss * (clickbait - 0.2)
    category = torch.arange(config.num_items) % config.num_categories
    return Catalogue(category, quality, clickbait, attraction, gain)


def make_population(config: StorefrontConfig, catalogue: Catalogue) -> Population:
    """Draw the users of `config.seed` and what each thinks of each item."""
    vectors = _normal(config.seed, 1, config.num_items, config.rank)  # (N, R)
    taste = _normal(config.seed, 2, config.num_users, config.rank)  # (U, R)
    match = taste @ vectors.T / config.rank**0.5
    order = _uniform(config.seed, 3, config.num_users, config.num_categories).argsort(1)  # (U, C) a permutation
    draws = _uniform(config.seed, 4, config.num_users, _TOP_RANKED)
    liked = torch.stack([0.8 + 0.2 * draws[:, 0], 0.4 + 0.5 * draws[:, 1], (draws[:, 2] - 0.4).clamp(min=0)], 1)
    affinity = torch.zeros(config.num_users, config.num_categories, dtype=torch.float64)
    affinity.scatter_(1, order[:, :_TOP_RANKED], liked)
    patience = config.patience_spread * _normal(config.seed, 5, config.num_users, 1).squeeze(1)
    appeal = (
        config.click_base
        + config.match_weight * match
        + config.affinity_weight * affinity[:, catalogue.category]
        + config.attraction_weight * catalogue.attraction
        + config.clickbait_weight * catalogue.clickbait
    )
    return Population(affinity, patience, match, appeal)


def to_double(draws: Tensor) -> Tensor:
    """Draws of `recgym.random.uniform` as float64 in (0, 1): the grid of 2^-24, moved half a step off zero."""
    return draws.to(torch.float64) + 2.0**-25


def _uniform(seed: int, stream: int, rows: int, columns: int) -> Tensor:
    """(rows, columns) float64 in (0, 1), the same rows whatever their number."""
    return to_double(uniform(fold(session_keys(seed, rows), stream), columns))


def _normal(seed: int, stream: int, rows: int, columns: int) -> Tensor:
    """(rows, columns) float64, standard normal."""
    draws: Tensor = torch.special.ndtri(_uniform(seed, stream, rows, columns))
    return draws
