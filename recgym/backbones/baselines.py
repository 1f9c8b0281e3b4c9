"""Baselines of next-item ranking, fitted on the training steps alone: what a backbone has to beat.

A baseline is a function of a log and its roles that returns a `Ranker`. It reads choices, the steps that count as
targets; users are the units within which items follow each other or occur together, so a log of sessions has one user
a session. Where a baseline knows nothing of an item, it backs off: that item ranks below all of which it knows
something, by what the next simpler baseline says, at last by popularity.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from recgym.backbones.ranking import Ranker
from recgym.logs.sequences import Sequences, batches
from recgym.logs.splits import TRAIN, Roles
from recgym.types import IntArray

BASELINES: dict[str, str] = {
    "ease": "recgym.backbones.ease:ease",
    "item-knn": "recgym.backbones.knn:item_knn",
    "markov-history": "recgym.backbones.rules:markov_history",
    "popularity": "recgym.backbones.baselines:popularity",
    "repeat-history": "recgym.backbones.baselines:repeat_history",
    "sequential-rules": "recgym.backbones.rules:sequential_rules",
    "vsknn": "recgym.backbones.knn:vsknn",
}
"""Entry point ("module:function") of every baseline, by name."""


class Fit(Protocol):
    """What an entry point of `BASELINES` is; the settings of its paper are its keyword arguments' defaults."""

    def __call__(self, sequences: Sequences, roles: Roles) -> Ranker:
        """The ranker that the training steps of `sequences` give, `roles` (M,)."""
        ...


HistoryScores = Callable[[Tensor], Tensor]
"""Histories of choices (B, L), 0 in the place of a step that was none -> scores (B, N)."""
_ROWS = 64


class Choices(NamedTuple):
    """P training targets, user after user, in the order of the log."""

    user: IntArray  # (P,)
    item: IntArray  # (P,) 1..N
    time: IntArray  # (P,) seconds since the epoch


def fit_baseline(name: str, sequences: Sequences, roles: Roles) -> Ranker:
    """The baseline of this name with its default settings.

    Raises:
        ValueError: no baseline has this name, or the log has no training target.
    """
    if name not in BASELINES:
        raise ValueError(f"no baseline is called {name!r}; there are {', '.join(sorted(BASELINES))}")
    module, _, attribute = BASELINES[name].partition(":")
    return cast("Fit", getattr(importlib.import_module(module), attribute))(sequences, roles)


def popularity(sequences: Sequences, roles: Roles) -> Ranker:
    """score_j = training choices of item j, for everybody."""
    share = popularity_share(training_choices(sequences, roles), sequences.num_items)
    return of_history(lambda history: share.expand(len(history), -1))


def repeat_history(sequences: Sequences, roles: Roles) -> Ranker:
    """What the user chose before, the most recent first; then popularity."""
    return of_history(repeats(training_choices(sequences, roles), sequences.num_items))


def training_choices(sequences: Sequences, roles: Roles) -> Choices:
    """The steps that baselines count; `roles` (M,).

    Raises:
        ValueError: there is none.
    """
    steps = np.flatnonzero(sequences.targets & (roles == TRAIN))
    if not len(steps):
        raise ValueError(
            f"log {sequences.name!r} has no training target among its {sequences.num_steps} steps, expected at least 1"
        )
    return Choices(
        sequences.user_of_step[steps], sequences.item[steps].astype(np.int64), np.asarray(sequences.time[steps])
    )


def of_history(scores: HistoryScores) -> Ranker:
    """The ranker that scores histories of choices, a few at a time, so that what they are joined with stays small."""

    def ranker(items: Tensor, feedback: Tensor, steps: IntArray) -> Tensor:  # noqa: ARG001
        history = items * (feedback[:, :, 0] > 0)
        return torch.cat([scores(history[rows]) for rows in batches(len(history), _ROWS)])

    return ranker


def popularity_share(choices: Choices, num_items: int) -> Tensor:
    """Choices of each item over one more than the most chosen item has, (N,) float32 in [0, 1)."""
    count = np.bincount(choices.item, minlength=num_items + 1)[1:]
    return torch.from_numpy((count / (count.max() + 1)).astype(np.float32))


def repeats(choices: Choices, num_items: int) -> HistoryScores:
    """Place of each item's latest choice in the history, from 1; items that are not in it follow by popularity."""
    share = popularity_share(choices, num_items)

    def scores(history: Tensor) -> Tensor:
        place = torch.arange(1.0, history.shape[1] + 1).expand(history.shape)
        latest = torch.zeros(len(history), num_items + 1).scatter_reduce_(1, history, place, "amax")[:, 1:]
        return backed_off(latest, share)

    return scores


def backed_off(scores: Tensor, fallback: Tensor) -> Tensor:
    """`scores` (B, N) where positive; below these, the other items in the order of `fallback` (B, N) or (N,)."""
    return torch.where(scores > 0, scores, fallback - fallback.amax(-1, keepdim=True))


def ages(history: Tensor) -> Tensor:
    """Choices from each step of a history (B, L) on, itself among them: 1 for the latest choice, (B, L) int64."""
    return (history > 0).flip(1).cumsum(1).flip(1)
