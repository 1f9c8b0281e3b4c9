"""What several sets of heads expect of the same slates: where they disagree, the users are guesswork. Pure functions.

Source: Lakshminarayanan, Pritzel and Blundell (2017), "Simple and scalable predictive uncertainty estimation using deep
ensembles", with heads fitted to resampled sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recgym.types import FeedbackKind
from recgym.users.heads import Heads, HeadWeights


class Member(NamedTuple):
    """One set of heads, ready to judge."""

    heads: Heads
    rows: Tensor  # (N + 1, R) of `Heads.rows`
    weights: HeadWeights


class Situation(NamedTuple):
    """What B sessions bring to slates of K items, before they are shown."""

    state: Tensor  # (B, D) of the backbone
    features: Tensor  # (B, K, X)
    seen: Tensor  # (B, K) float32: consumed before
    context: Tensor  # (B, C)


class Reactions(NamedTuple):
    """How feedback hangs together, whatever the heads."""

    kinds: tuple[FeedbackKind, ...]
    given: tuple[int | None, ...]  # column of the kind that each depends on, as from `dependencies`
    repeats: bool


def dependencies(kinds: tuple[FeedbackKind, ...]) -> tuple[int | None, ...]:
    """Column of the kind that each depends on.

    Raises:
        ValueError: a kind comes before the one it depends on.
    """
    names = [kind.name for kind in kinds]
    given = tuple(names.index(kind.given) if kind.given in names else None for kind in kinds)
    for column, other in enumerate(given):
        if other is not None and other >= column:
            raise ValueError(f"kind {names[column]!r} depends on {names[other]!r}, which must come before it")
    return given


def opinions(members: Sequence[Member], situation: Situation, slates: Tensor, reactions: Reactions) -> Tensor:
    """What each of E members expects each item of `slates` (B, K) to bring, (E, B, K, F).

    Expectations are those of an average session: no intercept of the session's own.
    """
    return torch.stack([_expected_by(member, situation, slates, reactions) for member in members])


def _expected_by(member: Member, situation: Situation, slates: Tensor, reactions: Reactions) -> Tensor:
    """Expected amounts (B, K, F) of `slates` (B, K) by one member."""
    heads, count = member.heads, len(reactions.kinds)
    raw = member.weights.show(situation.state, member.rows[slates], situation.features).logits
    shift = heads.intercept + heads.slope * heads.offsets(situation.context)  # (B, F + 1)
    return expected(heads, raw * heads.slope[:count] + shift[:, None, :count], situation.seen, reactions)


def expected(heads: Heads, logits: Tensor, seen: Tensor, reactions: Reactions) -> Tensor:
    """Expected amount of each kind from calibrated log-odds, (B, K, F) -> (B, K, F).

    A real kind's amount is `Heads.expected_amount`; a kind that needs a binary one has its chance times that.
    """
    columns: list[Tensor] = []
    for column, (kind, given) in enumerate(zip(reactions.kinds, reactions.given, strict=True)):
        logit = logits[:, :, column]
        amount = heads.expected_amount(logit, column) if kind.type == "real" else torch.sigmoid(logit)
        if column == 0 and not reactions.repeats:
            amount = amount * (1 - seen)
        if given is not None and reactions.kinds[given].type == "binary":
            amount = amount * columns[given]
        columns.append(amount)
    return torch.stack(columns, 2)
