"""Where simulated sessions start: at logged starts, or, for new users, with nothing in the history.

Logged starts include the first sessions of users, whose history is empty, so that new users come as often as they did.
A stated share of new users takes the place of that: they are drawn by the session's key, with the clock and the profile
of any logged start, and the others start where a history had begun.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone
from recgym.logs.sequences import Starts
from recgym.random import bits, fold, uniform
from recgym.trees import leaves, put, take

RESET = 0
"""Stream of a session's key for all that is not a step."""
_NEW = 4
"""Stream under it: whether the user is new. 1 to 3 are taken by `recgym.users.learned`."""


class Begun(NamedTuple):
    """B sessions that begin."""

    row: Tensor  # (B,) int64: row of the starts, whose clock and profile hold
    items: Tensor  # (B, L)
    feedback: Tensor  # (B, L, F)
    cache: Any  # the backbone's


class EncodedStarts:
    """The logged starts with their caches, as many as fit."""

    def __init__(
        self, backbone: Backbone, starts: Starts, device: torch.device, *, megabytes: int, new_user_share: float | None
    ) -> None:
        """Encode the first starts that fit into `megabytes`.

        Raises:
            ValueError: the share leaves room for users with a history, and no start has one.
        """
        self._nothing = backbone.start(1)
        size = sum(leaf.numel() * leaf.element_size() for leaf in leaves(self._nothing))
        rows = slice(0, min(len(starts.user), max(1, megabytes * 1_000_000 // size)))
        parts = (starts.user, starts.items, starts.feedback, starts.time, starts.profile)
        self.starts = Starts(*(None if part is None else part[rows].to(device) for part in parts))  # type: ignore[arg-type]
        self._caches = backbone.prefill(self.starts.items, self.starts.feedback)
        self.new_user_share = new_user_share
        self._begun = (self.starts.items > 0).any(1).nonzero()[:, 0]  # (P',): rows with a history
        if new_user_share is not None and new_user_share < 1 and not len(self._begun):
            raise ValueError(
                f"new_user_share is {new_user_share}, but none of the {len(self.starts.user)} logged starts has a "
                "history to begin from: leave it None, or set it to 1"
            )

    def draw(self, keys: Tensor) -> Begun:
        """A start for each key (B,): without a share any logged one, by the same rule as in known worlds."""
        luck = bits(fold(keys, RESET), 1)[:, 0]  # (B,)
        row = luck % len(self.starts.user)
        if self.new_user_share is None:
            return self.at(row)
        new = uniform(fold(fold(keys, RESET), _NEW), 1)[:, 0] < self.new_user_share  # (B,)
        if len(self._begun):
            row = torch.where(new, row, self._begun[luck % len(self._begun)])
        return self._emptied(self.at(row), new.nonzero()[:, 0])

    def newcomers(self, keys: Tensor) -> Begun:
        """The same for users who are all new, (B,)."""
        row = bits(fold(keys, RESET), 1)[:, 0] % len(self.starts.user)
        return self._emptied(self.at(row), torch.arange(len(keys), device=keys.device))

    def at(self, row: Tensor) -> Begun:
        """The given starts, (B,)."""
        return Begun(row, self.starts.items[row], self.starts.feedback[row], take(self._caches, row))

    def _emptied(self, begun: Begun, new: Tensor) -> Begun:
        """With nothing in the history of the rows `new` (R,)."""
        begun.items[new], begun.feedback[new] = 0, 0.0  # copies: `at` has gathered them
        return begun._replace(cache=put(begun.cache, new, take(self._nothing, torch.zeros_like(new))))
