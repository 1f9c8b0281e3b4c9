"""Held-out fit beyond single chances: repeats, popularity, category transitions, cold starts, lengths, returns.

All of it is read along logged test sessions: the chances are those of what was shown, so that only the user model is
judged and no logging policy need be guessed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recgym.backbones.encoding import Encoded, encode_sessions
from recgym.logs.sequences import Sequences
from recgym.logs.splits import Roles, training_events
from recgym.metrics import mean_ranks
from recgym.types import BoolArray, DoubleArray, IntArray
from recgym.users.learned import LearnedUsers
from recgym.users.returning import read_visits, spans_of
from recgym.users.slates import Slates, seen_before

COLD_EVENTS = 5
"""Training steps below which an item counts as new."""
RETURN_DAYS = (1.0, 7.0)
"""Days within which returns are compared."""
_LEAST_CASES = 30

Numbers = dict[str, Any]


def auc(chance: DoubleArray, happened: BoolArray) -> float:
    """P(a case where it happened has the higher chance), ties counting half; nan if all or none happened.

    Source: Mann and Whitney (1947).
    """
    positive = np.asarray(happened, np.bool_)
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return float("nan")
    rank = mean_ranks(chance)
    return float((rank[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def rates(chance: DoubleArray, happened: BoolArray) -> Numbers:
    """Cases, predicted and observed rate, and AUC of some of the questions; AUC is None where it is not defined."""
    if not len(chance):
        return {"cases": 0}
    found = auc(chance, happened) if len(chance) >= _LEAST_CASES else float("nan")
    return {
        "cases": len(chance),
        "rate": float(happened.mean()),
        "predicted_rate": float(chance.mean()),
        "auc": found if np.isfinite(found) else None,
    }


def consumed_before(slates: Slates) -> BoolArray:
    """Whether each item shown had been consumed within the last L steps, (M',)."""
    seen: BoolArray = seen_before(slates.history, slates.consumed, slates.item.unsqueeze(1))[:, 0].numpy() > 0
    return seen


def repeats(slates: Slates, chance: DoubleArray, happened: BoolArray) -> dict[str, Numbers]:
    """Consumption of items consumed before and of others: {"again": ..., "first": ...}."""
    seen = consumed_before(slates)
    return {"again": rates(chance[seen], happened[seen]), "first": rates(chance[~seen], happened[~seen])}


def popularity(item: IntArray, chance: DoubleArray, happened: BoolArray, num_items: int) -> Numbers:
    """Correlation over items of predicted and observed rates of consumption, among items shown 20 times or more."""
    shown = np.bincount(item, minlength=num_items + 1)
    often = shown >= 20
    if int(often.sum()) < 3:
        return {"items": int(often.sum())}
    observed = np.bincount(item, happened.astype(np.float64), num_items + 1)[often] / shown[often]
    predicted = np.bincount(item, chance, num_items + 1)[often] / shown[often]
    varies = observed.std() > 0 and predicted.std() > 0
    luck = np.bincount(item, chance * (1 - chance), num_items + 1)[often] / shown[often] ** 2  # variance of a rate
    return {
        "items": int(often.sum()),
        "correlation": float(np.corrcoef(predicted, observed)[0, 1]) if varies else None,
        "spread": float(observed.std()),
        "predicted_spread": float(np.sqrt(predicted.var() + luck.mean())),
    }


def transitions(slates: Slates, topic: IntArray, chance: DoubleArray, happened: BoolArray) -> Numbers:
    """Consumption of a category right after another one was consumed: total variation of observed from predicted.

    0: the same flows between categories; 1: none in common. `noise` is the mean distance of flows drawn from the
    prediction itself, (1/2) sum sqrt(2 p (1 - p) / (pi n)).
    """
    session = slates.session.numpy()
    after = np.flatnonzero((np.diff(session) == 0) & happened[:-1]) + 1
    total = float(happened[after].sum())
    if total < _LEAST_CASES:
        return {"cases": int(total)}
    pair = topic[after - 1] * (int(topic.max()) + 1) + topic[after]
    flow = np.unique(pair, return_inverse=True)[1]  # of a large catalogue, few of all pairs ever occur
    observed = np.bincount(flow, happened[after].astype(np.float64)) / total
    predicted = np.bincount(flow, chance[after]) / chance[after].sum()
    noise = 0.5 * np.sqrt(2 * predicted * (1 - predicted) / (np.pi * total)).sum()
    return {"cases": int(total), "distance": float(0.5 * np.abs(observed - predicted).sum()), "noise": float(noise)}


def cold(
    sequences: Sequences, roles: Roles, steps: IntArray, slates: Slates, chance: DoubleArray, happened: BoolArray
) -> dict[str, Numbers]:
    """New users (no history at the session's start) and new items, each beside the rest."""
    first = sequences.session_bounds[sequences.session[steps]]
    new_user = first == sequences.offsets[sequences.user_of_step[steps]]
    new_item = training_events(sequences, roles)[slates.item.numpy() - 1] < COLD_EVENTS
    return {
        "new users": rates(chance[new_user], happened[new_user]),
        "known users": rates(chance[~new_user], happened[~new_user]),
        "new items": rates(chance[new_item], happened[new_item]),
        "known items": rates(chance[~new_item], happened[~new_item]),
    }


def length_distance(lengths: dict[str, list[float]], sessions: int) -> float | None:
    """Kolmogorov-Smirnov distance of simulated from logged session lengths: the largest gap of their distributions.

    `lengths` count, of `sessions`, those that end after 1, 2, ... steps; None where they say nothing.
    """
    logged, simulated = (np.cumsum(lengths[name]) / max(sessions, 1) for name in ("logged", "simulated"))
    return float(np.abs(logged - simulated).max()) if len(logged) else None


@torch.no_grad()
def returns(
    users: LearnedUsers, sequences: Sequences, sessions: IntArray, encoded: Encoded | None = None
) -> Numbers | None:
    """Returns within 1 and 7 days of test sessions that were followed for so long; None where they are not modelled."""
    if users.returning is None or not len(sessions):
        return None
    end = float(np.max(sequences.time))
    encoded = encoded or encode_sessions(users.backbone, sequences, sessions)
    visits = read_visits(sequences, sessions, encoded, until=end, length=users.backbone.config.length)
    device = users.device
    log_odds = users.returning.log_odds(visits.state.to(device), visits.depth.to(device), visits.sums.to(device))
    followed = (end - sequences.time[sequences.session_bounds[sessions + 1] - 1]) / 86_400.0  # (S',)
    found: Numbers = {"sessions": len(visits.days)}
    for days in RETURN_DAYS:
        known = followed >= days
        chance = users.returning.chance_within(log_odds, days).double().cpu().numpy()[known]
        back = (visits.returned.numpy() & (visits.days.numpy() <= days))[known]
        found[f"within {days:g}"] = rates(chance, back)
    edges = users.returning.edges.cpu()
    ends = spans_of(edges, visits)[1]
    watched = visits._replace(days=torch.from_numpy(followed), returned=torch.zeros_like(visits.returned))
    seen = spans_of(edges, watched)[0] * (visits.days.unsqueeze(1) >= edges[:-1])  # (S', J) share, whatever happened
    expected = torch.sigmoid(log_odds).cpu() * seen
    found["hazards"] = {
        "days": edges.tolist(),
        "logged": (ends.sum(0) / seen.sum(0).clamp_min(1)).clamp_max(1).tolist(),
        "simulated": (expected.sum(0) / seen.sum(0).clamp_min(1)).tolist(),
        "at_risk": seen.sum(0).tolist(),
    }
    return found
