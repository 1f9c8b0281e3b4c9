"""What a table of next-item ranking asks, and how it says so in its title."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.bench.backbones_data import Data
from recgym.backbones.ranking import Ranker, draw_negatives, rank_targets
from recgym.logs.sequences import Sequences
from recgym.logs.splits import TEST, Roles, leave_one_out, temporal, training_events
from recgym.types import DoubleArray, IntArray

Ranking = Literal["full", "sampled-uniform", "sampled-popularity"]
Split = Literal["published", "leave-one-out", "temporal"]
NEGATIVES = 100
_SEED = 0
"""Of negatives and ties: the same for every model and seed of training."""


@dataclass(frozen=True, eq=False)
class Questions:
    """Q steps of a log whose items are to be ranked, and under which rules."""

    sequences: Sequences
    roles: Roles  # (M,)
    asked: IntArray  # (Q,) steps
    split: str
    """The split in words."""
    repeats: bool
    """Whether items met before may be recommended again."""
    cutoff: int
    """k of HR@k and NDCG@k."""

    @property
    def users(self) -> IntArray:
        """(Q,)."""
        return self.sequences.user_of_step[self.asked]

    def negatives(self, ranking: Ranking) -> IntArray | None:
        """(Q, 100) items that a sampled ranking ranks against; None: all."""
        if ranking == "full":
            return None
        events = training_events(self.sequences, self.roles) if ranking == "sampled-popularity" else None
        return draw_negatives(
            self.sequences, self.asked, NEGATIVES, mask_seen=not self.repeats, weights=events, seed=_SEED
        )

    def ranks(self, ranker: Ranker, negatives: IntArray | None, *, length: int) -> DoubleArray:
        """(Q,) from 1."""
        return rank_targets(
            ranker, self.sequences, self.asked, length=length, mask_seen=not self.repeats, negatives=negatives,
            seed=_SEED,
        )  # fmt: skip

    def title(self, ranking: Ranking) -> str:
        """The whole protocol in one line."""
        log = self.sequences
        how = {
            "full": "full ranking",
            "sampled-uniform": f"sampled: {NEGATIVES} uniform negatives, seed {_SEED}",
            "sampled-popularity": f"sampled: {NEGATIVES} negatives by popularity in training, seed {_SEED}",
        }[ranking]
        before = "repeats allowed" if self.repeats else "items met before left out"
        return (
            f"{log.name} ({log.num_users:,} users, {log.num_items:,} items, {log.num_steps:,} steps); {self.split}; "
            f"{how}; {before}; {len(self.asked):,} targets of {len(np.unique(self.users)):,} users"
        )


def make_questions(data: Data, *, split: Split = "published", repeats: bool | None = None) -> Questions:
    """The test targets of a log.

    Args:
        data: the log.
        split: "published": the log's own, which is "leave-one-out" where it has no other: each user's last target is
            the test, the one before is for validation and stands in the test's input. "temporal": whole sessions by
            their start, the last tenth and the tenth before.
        repeats: let items met before be recommended; None: as the log's published tables do.

    Raises:
        ValueError: a temporal split of a log that has no times, leave-one-out of one whose last items are not
            published, or a split without a test target.
    """
    sequences, roles, words = data.sequences, data.roles, data.split
    if split == "temporal":
        if not data.timed:
            raise ValueError(f"split is 'temporal', but {sequences.name} is published without times")
        roles, words = temporal(sequences), "global temporal split, the last tenth of the steps"
    elif split == "leave-one-out" and not data.whole:
        raise ValueError(
            f"split is 'leave-one-out', but the last items of {sequences.name}'s users are not all published; "
            f"take 'published': {data.split}"
        )
    elif split == "leave-one-out" or roles is None:
        roles, words = leave_one_out(sequences), "leave-one-out"
    if "leave-one-out" in words:
        words += ", validation item in the test input"
    asked = np.flatnonzero(sequences.targets & (roles == TEST))
    if data.roles is roles and data.first_given:
        asked = asked[sequences.place[asked] > 0]
    if not len(asked):
        raise ValueError(f"{sequences.name}, {words}: no test target")
    return Questions(sequences, roles, asked, words, data.repeats if repeats is None else repeats, data.cutoff)
