"""What a scorer of a known world earns, for the tests of worlds: sessions of slates of the top K items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recgym.random import fold, session_keys, uniform
from recgym.users.model import UserModel

_RANDOM = 77


def earned(
    users: UserModel[Any],
    scorer: Callable[[Any], Tensor] | None,
    *,
    kind: str,
    slate_size: int,
    steps: int,
    sessions: int,
    seed: int = 0,
) -> Tensor:
    """Feedback of `kind` that each session brought, (sessions,); a scorer of None shows random items."""
    keys = session_keys(seed, sessions)
    column = [one.name for one in users.kinds].index(kind)
    state = users.reset(keys)
    total, here = torch.zeros(sessions), torch.ones(sessions, dtype=torch.bool)
    for step in range(steps):
        lottery = uniform(fold(fold(keys, _RANDOM), step), users.num_items)
        scores = lottery if scorer is None else scorer(state)
        state, response = users.step(state, scores.topk(slate_size, 1).indices + 1)
        total += here * response.feedback[:, :, column].sum(1)
        here &= ~response.leaves
        if not bool(here.any()):
            break
    return total
