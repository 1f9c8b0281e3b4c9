"""Settings of `simulators.boredom`: SARDINE's eight, and those of them with influence repaired.

Source: the environments registered by github.com/naver/sardine (2024).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from recgym.settings import check_numbers

FEWEST_TOPICS, MOST_TOPICS = 3, 5
"""Topics that a user cares about: at least and at most."""


@dataclass(frozen=True, kw_only=True)
class BoredomConfig:
    """One setting of the world; the defaults are the repaired form of SARDINE's SingleItem-BoredInf."""

    seed: int = 0
    """Seed of the items; sessions draw from their own keys."""
    num_items: int = 1000
    """Items, N."""
    num_topics: int = 10
    """Topics, C."""
    slate_size: int = 1
    """Items of the first random slate and of the slates that the planners fill, K; slates of other sizes work too."""
    slope: float = 100.0
    """Log-odds of a click per unit of cosine between user and item; 100 makes relevance nearly 0 or 1."""
    offset: float = 0.65
    """Cosine at which a click in the first slot has even odds."""
    examination: float = 0.85
    """Chance to look at slot k + 1 for one who looks at slot k."""
    positions: Literal["top-down", "mixed"] = "top-down"
    """"top-down": slot k is seen with chance examination^k. "mixed": half of the time users read from the bottom."""
    boredom: Literal["churn", "topic"] = "churn"
    """"churn": one bored topic silences all (SARDINE's user_car). "topic": only itself (user_tloi)."""
    threshold: int = 5
    """Clicks on one main topic, among those remembered, that bore; more than `memory` for never."""
    memory: int = 10
    """Clicks that a user remembers."""
    window: int = 5
    """Steps after which a click is forgotten, and that boredom lasts."""
    inertia: float = 0.95
    """Share of a user's taste that a click leaves in place (omega); 1 for no influence."""
    influence: Literal["item", "scalar"] = "item"
    """What the rest goes to: the mean of the clicked "item" vectors, or the "scalar" mean of all their coordinates."""
    diversity_threshold: int = 4
    """Items of one main topic in a slate that make it monotonous."""
    diversity_penalty: float = 1.0
    """What the chance of a click is divided by in a monotonous slate; 1 for no penalty."""
    full_view: bool = False
    """The platform sees what SARDINE calls the ideal state: effective taste, clicked topics and boredom's timers."""
    length: int = 0
    """Items shown that the visible history keeps, L."""

    def __post_init__(self) -> None:
        """Refuse what makes no world."""
        check_numbers(self)
        for field in ("num_items", "slate_size", "threshold", "memory", "window", "diversity_threshold"):
            if getattr(self, field) < 1:
                raise ValueError(f"BoredomConfig.{field} is {getattr(self, field)}, expected at least 1")
        if self.num_topics < MOST_TOPICS:
            raise ValueError(f"BoredomConfig.num_topics is {self.num_topics}, expected at least {MOST_TOPICS}")
        if self.slate_size > self.num_items:
            raise ValueError(
                f"BoredomConfig.slate_size is {self.slate_size}, expected at most num_items ({self.num_items})"
            )
        if not 0 < self.examination <= 1:
            raise ValueError(f"BoredomConfig.examination is {self.examination}, expected above 0, at most 1")
        if not 0 <= self.inertia <= 1:
            raise ValueError(f"BoredomConfig.inertia is {self.inertia}, expected 0 to 1")
        if self.slope <= 0:
            raise ValueError(f"BoredomConfig.slope is {self.slope}, expected above 0")
        if self.diversity_penalty < 1:
            raise ValueError(f"BoredomConfig.diversity_penalty is {self.diversity_penalty}, expected at least 1")
        if self.length < 0:
            raise ValueError(f"BoredomConfig.length is {self.length}, expected at least 0")
        for field, known in (
            ("positions", ("top-down", "mixed")),
            ("boredom", ("churn", "topic")),
            ("influence", ("item", "scalar")),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"BoredomConfig.{field} is {getattr(self, field)!r}, expected one of {known}")


_NEVER = BoredomConfig().memory + 1
# Ten items are so few that their draw matters: of seeds 0 to 119, 55 gives returns like those of SARDINE's own ten.
_RERANK = BoredomConfig(
    seed=55, num_items=10, slate_size=10, slope=5.0, offset=0.3, examination=0.7, threshold=4, inertia=1.0
)
SETTINGS: dict[str, BoredomConfig] = {
    "sardine-single-item-static": BoredomConfig(threshold=_NEVER, inertia=1.0),
    "sardine-single-item-bored-inf": BoredomConfig(influence="scalar"),
    "sardine-single-item-uncertain": BoredomConfig(slope=10.0, threshold=_NEVER, inertia=1.0),
    "sardine-slate-topk-bored": BoredomConfig(slate_size=10, inertia=1.0),
    "sardine-slate-topk-bored-inf": BoredomConfig(slate_size=10, influence="scalar"),
    "sardine-slate-topk-uncertain": BoredomConfig(slate_size=10, slope=10.0, influence="scalar"),
    "sardine-slate-rerank-static": replace(_RERANK, threshold=_NEVER),
    "sardine-slate-rerank-bored": _RERANK,
    "sardine-single-item-bored-inf-repaired": BoredomConfig(),
    "sardine-slate-topk-bored-inf-repaired": BoredomConfig(slate_size=10),
    "sardine-slate-topk-uncertain-repaired": BoredomConfig(slate_size=10, slope=10.0),
}
"""SARDINE's eight settings (100 steps; 10 for the re-ranking ones), then those of them with influence, repaired."""
