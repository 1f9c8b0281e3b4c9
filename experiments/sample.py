"""The sample log: what a storefront's ranker showed its users over a summer, generated bit for bit by one command.

The ranker mixes popularity with the user's interest in each category, as it can see it, and explores. Its probabilities
are whole multiples of 2^-20, so the logged propensities are exact and an item is drawn by integer arithmetic.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

import recgym
from experiments.fit import Fit
from recgym.logs.log import InteractionLog
from recgym.logs.readers.native import write_native
from recgym.random import bits, fold, session_keys, uniform
from recgym.types import IntArray
from recgym.users import history as ring
from recgym.users.storage import load_users, save_users
from simulators.catalogue import StorefrontConfig, to_double
from simulators.storefront import CLICK, DWELL, LIKE, Storefront

SAMPLE_FOLDER = Path(recgym.__file__).parent / "logs" / "sample"
USERS_FOLDER = Path(recgym.__file__).parent / "users" / "sample"
_GRID = 1 << 20
_FIRST_DAY = 1_748_736_000
"""1 June 2025, 00:00 UTC, in seconds since the epoch."""
_DAY = 86_400
CATEGORIES: dict[str, tuple[str, ...]] = {
    "Lighting": ("Lamp", "Lantern", "Pendant", "Sconce", "Spotlight"),
    "Kitchen": ("Kettle", "Pan", "Teapot", "Grinder", "Bowl"),
    "Garden": ("Planter", "Trowel", "Bench", "Hose", "Birdhouse"),
    "Books": ("Atlas", "Novel", "Almanac", "Cookbook", "Diary"),
    "Audio": ("Headphones", "Speaker", "Turntable", "Radio", "Microphone"),
    "Outdoor": ("Tent", "Backpack", "Stove", "Hammock", "Compass"),
    "Toys": ("Puzzle", "Kite", "Train", "Marionette", "Globe"),
    "Clothing": ("Scarf", "Jacket", "Apron", "Cap", "Gloves"),
    "Stationery": ("Pen", "Notebook", "Inkwell", "Folder", "Calendar"),
    "Sports": ("Racket", "Skipping Rope", "Bicycle Bell", "Yoga Mat", "Frisbee"),
}
ADJECTIVES = ("Amber", "Birch", "Cobalt", "Copper", "Fern", "Harbour", "Ivory", "Juniper", "Linen", "Slate")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Generate the sample log that ships inside the wheel, bit for bit, and fit the sample users to it."""

    out: Path = SAMPLE_FOLDER
    """Folder to write; the old one is replaced."""
    days: int = 75
    """Days over which sessions start."""
    seed: int = 20
    """Seed of the sessions; the storefront has its own."""
    users_out: Path | None = USERS_FOLDER
    """Folder for the users fitted to the log; None: leave them alone."""

    def __call__(self) -> None:
        """Generate and write."""
        log = generate_log(days=self.days, seed=self.seed)
        write_native(log, self.out)
        views = int((log.events["behaviour"] == "view").sum())
        size = sum(path.stat().st_size for path in self.out.iterdir())
        print(f"{self.out}: {log.num_users} users, {log.num_items} items, {views} impressions, {size / 1e6:.2f} MB")
        if self.users_out is not None:
            with tempfile.TemporaryDirectory() as folder:
                Fit(out=Path(folder), logs=self.out)()
                save_users(load_users(Path(folder) / "users"), self.users_out)


@dataclass(frozen=True, kw_only=True)
class StorefrontRanker:
    """The ranker that made the log: softmax of popularity and of what the user clicked lately, mixed with chance."""

    popularity: Tensor  # (N,) float64
    category: Tensor  # (N,) int64
    interest_weight: float = 6.0
    """Log-odds per unit of the user's click rate in an item's category."""
    popularity_weight: float = 0.6
    """Log-odds per unit of attractiveness."""
    exploration: float = 0.25
    """Share of items shown that are drawn uniformly."""

    def probabilities(self, items: Tensor, clicks: Tensor) -> Tensor:
        """Multiples of 2^-20 that sum to one, as integers (B, N), from the history's items and clicks (B, L)."""
        categories = int(self.category.max()) + 1
        there = (items > 0).to(torch.float64)
        group = self.category[(items - 1).clamp_min(0)]  # (B, L)
        nothing = torch.zeros(len(items), categories, dtype=torch.float64)
        shown, clicked = nothing.scatter_add(1, group, there), nothing.scatter_add(1, group, clicks.double() * there)
        interest = (clicked + 0.4) / (shown + 3)  # (B, C)
        logits = self.popularity_weight * self.popularity + self.interest_weight * interest[:, self.category]
        mixed = (1 - self.exploration) * torch.softmax(logits, 1) + self.exploration / len(self.popularity)
        grid = (mixed * _GRID).floor().to(torch.int64)
        grid.scatter_add_(1, grid.argmax(1, keepdim=True), _GRID - grid.sum(1, keepdim=True))
        return grid


def generate_log(
    *, days: int, seed: int, max_steps: int = 50, num_users: int | None = None, exploration: float | None = None
) -> InteractionLog:
    """Let the storefront's ranker serve every user for `days` days.

    Args:
        days: over which sessions start.
        seed: of the sessions.
        max_steps: slates after which a session is cut.
        num_users: of the storefront; None: as many as the sample has.
        exploration: share of items shown that are drawn uniformly; None: as in the sample.
    """
    world = Storefront(StorefrontConfig() if num_users is None else StorefrontConfig(num_users=num_users))
    ranker = StorefrontRanker(popularity=world.catalogue.attraction, category=world.catalogue.category)
    if exploration is not None:
        ranker = replace(ranker, exploration=exploration)
    users = torch.arange(world.config.num_users)
    user_keys = session_keys(seed, len(users))
    arrival = to_double(uniform(fold(user_keys, 0), 1))[:, 0]
    start = (_FIRST_DAY + arrival * _DAY * days * 0.8).floor()  # (U,) seconds, float64
    history = ring.empty(len(users), world.config.length, len(world.kinds))
    parts: list[dict[str, IntArray]] = []
    for visit in range(1, 1000):
        here = torch.nonzero(start < _FIRST_DAY + days * _DAY)[:, 0]  # (B,)
        if not len(here):
            break
        keys = fold(user_keys[here], visit)
        state = world.begin(keys, here, ring.History(*(part[here] for part in history)))
        now, gap = start[here], torch.full((len(here),), 1.0, dtype=torch.float64)
        present = torch.ones(len(here), dtype=torch.bool)
        for step in range(max_steps):
            items, feedback = world.history(state)
            grid = ranker.probabilities(items, feedback[:, :, CLICK])
            place = bits(fold(fold(keys, step), 1), 1) & (_GRID - 1)  # (B, 1)
            chosen = torch.searchsorted(grid.cumsum(1), place, right=True)  # (B, 1) 0..N-1
            before = [part.clone() for part in state.history]
            state, response = world.step(state, chosen + 1)
            for old, new in zip(before, state.history, strict=True):  # those who left meet nothing more
                new[~present] = old[~present]
            columns = {
                "user": here, "visit": torch.full_like(here, visit), "item": chosen[:, 0], "time": now.to(torch.int64),
                "grid": grid.gather(1, chosen)[:, 0], "click": response.feedback[:, 0, CLICK].to(torch.int64),
                "like": response.feedback[:, 0, LIKE].to(torch.int64),
                "dwell": response.feedback[:, 0, DWELL].to(torch.int64),
            }  # fmt: skip
            parts.append({name: column[present].numpy() for name, column in columns.items()})
            now = now + response.feedback[:, 0, DWELL] + 6
            gap = torch.where(present & response.leaves, response.gap.to(torch.float64), gap)
            present = present & ~response.leaves
            if not present.any():
                break
        for whole, part in zip(history, state.history, strict=True):
            whole[here] = part
        start[here] = (now + 600 + gap * _DAY).floor()
    steps = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _to_log(steps, world)


def _to_log(steps: dict[str, IntArray], world: Storefront) -> InteractionLog:
    wide = pl.DataFrame(steps).sort("time", "user", maintain_order=True)
    ids = wide.select(
        user=pl.format("u{}", pl.col("user").cast(pl.String).str.zfill(4)),
        item=pl.format("i{}", pl.col("item").cast(pl.String).str.zfill(3)),
        time="time",
        session=pl.format("u{}-{}", pl.col("user").cast(pl.String).str.zfill(4), "visit"),
        click="click", like="like", dwell="dwell", grid="grid",
    ).with_row_index("row")  # fmt: skip
    rows = []
    for rank, behaviour in enumerate(("view", "click", "like", "dwell")):
        shown = behaviour == "view"
        happened = ids if shown else ids.filter(pl.col(behaviour) > 0)
        rows.append(
            happened.select(
                "row", "user", "item", "time",
                behaviour=pl.lit(behaviour),
                value=pl.lit(1.0) if shown else pl.col(behaviour).cast(pl.Float64),
                session="session",
                position=pl.lit(0 if shown else None, pl.Int32),
                propensity=pl.col("grid") / _GRID if shown else pl.lit(None, pl.Float64),
                rank=pl.lit(rank),
            )
        )  # fmt: skip
    events = pl.concat(rows).sort("row", "rank").drop("row", "rank")
    names = list(CATEGORIES)
    index = range(world.num_items)
    category = [names[int(world.catalogue.category[j]) % len(names)] for j in index]
    number = [j // world.config.num_categories for j in index]  # within the category
    title = [
        f"{ADJECTIVES[n // 5 % len(ADJECTIVES)]} {CATEGORIES[c][n % 5]}" for n, c in zip(number, category, strict=True)
    ]
    items = pl.DataFrame({"item": [f"i{j:03d}" for j in index], "title": title, "category": category})
    given = {"like": "click", "dwell": "click"}
    return InteractionLog(
        events=events, name="storefront sample", exposures=True, items=items, units={"dwell": "seconds"}, given=given
    )
