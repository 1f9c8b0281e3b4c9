"""How well the backbone ranks what test users chose next: over all, and apart for new users and new items."""

from __future__ import annotations

from typing import Any

import numpy as np

from recgym.backbones.backbone import Backbone
from recgym.backbones.ranking import rank_targets, ranker_of, spread_steps
from recgym.logs.sequences import Sequences
from recgym.logs.splits import TEST, Roles, training_events
from recgym.metrics import hit_rate, ndcg
from recgym.types import BoolArray, IntArray
from recgym.users.heldout import COLD_EVENTS

_MOST_TARGETS = 5_000


def next_item(backbone: Backbone, sequences: Sequences, roles: Roles) -> dict[str, Any]:
    """HR and NDCG of the backbone on the test targets, by full ranking, with or without exposures in the log.

    Returns:
        "hr@5" ... "ndcg@20" over at most 5,000 targets, evenly spread, and "cold" {group: {cases, hr@10,
        ndcg@10, auc}}, where `cases` counts the group's test targets, of which again at most 5,000 are ranked, and
        `auc` is the mean share of the other items that the target outranks. See `cold_groups`. Empty where the test
        part has no target.
    """
    targets = np.flatnonzero(sequences.targets & (roles == TEST))
    if not len(targets):
        return {}
    everyone = spread_steps(targets, _MOST_TARGETS)
    groups = {name: targets[chosen] for name, chosen in cold_groups(sequences, roles, targets).items()}
    some = {name: spread_steps(steps, _MOST_TARGETS) for name, steps in groups.items()}
    asked = np.unique(np.concatenate([everyone, *some.values()]))
    ranks = rank_targets(ranker_of(backbone, sequences), sequences, asked, length=backbone.config.length)
    metrics = {"hr": hit_rate, "ndcg": ndcg}
    of_all = ranks[np.searchsorted(asked, everyone)]
    found: dict[str, Any] = {
        f"{name}@{k}": float(metric(of_all, k).mean()) for name, metric in metrics.items() for k in (5, 10, 20)
    }
    found["cold"] = {name: {"cases": len(groups[name])} for name in groups}
    for group, steps in some.items():
        own = ranks[np.searchsorted(asked, steps)]
        if len(own):
            numbers = {f"{name}@10": float(metric(own, 10).mean()) for name, metric in metrics.items()}
            found["cold"][group] |= {**numbers, "auc": float(1 - (own - 1).mean() / max(sequences.num_items - 1, 1))}
    return found


def cold_groups(sequences: Sequences, roles: Roles, steps: IntArray) -> dict[str, BoolArray]:
    """Which of `steps` (Q,) concern new users and new items; every group (Q,).

    "first steps": nothing of the user stands before the step, so that the prior alone ranks; "new users": nothing
    stands before the step's session; "known users": the rest. "unmet items": no training step shows the item; "rare
    items": fewer than `COLD_EVENTS` do; "known items": the rest.
    """
    begin = sequences.offsets[sequences.user_of_step[steps]]  # (Q,)
    new = sequences.session_bounds[sequences.session[steps]] == begin
    events = training_events(sequences, roles)[sequences.item[steps] - 1]
    return {
        "first steps": steps == begin,
        "new users": new,
        "known users": ~new,
        "unmet items": events == 0,
        "rare items": (events > 0) & (events < COLD_EVENTS),
        "known items": events >= COLD_EVENTS,
    }
