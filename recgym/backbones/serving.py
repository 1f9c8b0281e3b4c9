"""A trained backbone asked about histories by the names of their items, also of items that it never heard of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone, module_of
from recgym.types import FloatArray, IntArray


@dataclass(frozen=True)
class Recommended:
    """The best items for each of B histories."""

    items: list[list[str]]
    """Names, best first: k of them, fewer where a user has met nearly everything."""
    scores: list[list[float]]
    unseen: dict[str, int]
    """How often each name came that the catalogue lacks; such steps were skipped."""


def recommend(
    backbone: Backbone,
    catalogue: Sequence[str],
    histories: Sequence[Sequence[str]],
    *,
    k: int = 10,
    feedback: Sequence[FloatArray] | None = None,
    unseen: Literal["error", "skip"] = "error",
    mask_seen: bool = False,
) -> Recommended:
    """The k items that `backbone` ranks first after each history; it reads the last L known steps.

    Args:
        backbone: trained on the catalogue.
        catalogue: (N,) names in the order of training, as in `Sequences.items["item"]`.
        histories: B lists of names, oldest first; an empty one gets what the start state likes.
        k: items wanted.
        feedback: B arrays (steps, F) of what came of each step; None: each step was chosen (1 in the first kind).
        unseen: what to do with names that the catalogue lacks: "error" refuses them, "skip" reads on and counts them.
        mask_seen: leave out what a history holds.

    Raises:
        ValueError: the catalogue has another size than the backbone's or a name twice, a name is not in it, shapes do
            not fit.
    """
    if len(catalogue) != backbone.num_items:
        raise ValueError(f"catalogue has {len(catalogue)} items, the backbone was trained on {backbone.num_items}")
    if unseen not in ("error", "skip"):
        raise ValueError(f"unseen is {unseen!r}, expected 'error' or 'skip'")
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    if feedback is not None and len(feedback) != len(histories):
        raise ValueError(f"feedback has {len(feedback)} rows, histories has {len(histories)}")
    number = {name: place for place, name in enumerate(catalogue, 1)}
    if len(number) < len(catalogue):
        twice, times = Counter(catalogue).most_common(1)[0]
        raise ValueError(f"catalogue holds {twice!r} {times} times, expected every name once")
    missing: Counter[str] = Counter()
    length = backbone.config.length
    items = np.zeros((len(histories), length), np.int64)
    amounts = np.zeros((len(histories), length, backbone.num_feedback), np.float32)
    met: list[IntArray] = []
    for row, history in enumerate(histories):
        ids = np.array([number.get(name, 0) for name in history], np.int64)
        for place in np.flatnonzero(ids == 0).tolist():
            if unseen == "error":
                raise ValueError(
                    f"history {row}, step {place}: item {history[place]!r} is not in the catalogue; "
                    "pass unseen='skip' to read on without such steps"
                )
            missing[history[place]] += 1
        given = _chosen(len(ids), backbone.num_feedback) if feedback is None else np.asarray(feedback[row], np.float32)
        if given.shape != (len(ids), backbone.num_feedback):
            raise ValueError(f"feedback[{row}] has shape {given.shape}, expected {(len(ids), backbone.num_feedback)}")
        known = np.flatnonzero(ids)[-length:]
        if len(known):
            items[row, -len(known) :], amounts[row, -len(known) :] = ids[known], given[known]
        met.append(ids[ids > 0])
    scores = _scores(backbone, items, amounts)
    if mask_seen:
        for row, ids in enumerate(met):
            scores[row, ids - 1] = -torch.inf
    value, best = scores.topk(min(k, backbone.num_items), dim=1)
    kept = value > -torch.inf
    return Recommended(
        [[catalogue[j] for j in best[row, kept[row]].tolist()] for row in range(len(histories))],
        [value[row, kept[row]].tolist() for row in range(len(histories))],
        dict(missing),
    )


@torch.no_grad()
def _scores(backbone: Backbone, items: IntArray, feedback: FloatArray) -> Tensor:
    device = next(module_of(backbone).parameters()).device
    state = backbone.prefill(torch.from_numpy(items).to(device), torch.from_numpy(feedback).to(device)).state
    return backbone.scores(state).float().cpu()


def _chosen(steps: int, kinds: int) -> FloatArray:
    amounts = np.zeros((steps, kinds), np.float32)
    amounts[:, 0] = 1
    return amounts
