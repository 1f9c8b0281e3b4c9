"""Coat's self-chosen ratings as logged sessions: what an offline agent may learn from, 24 ratings a user.

Each user's ratings are one session, in an order drawn by key since the files have none. Nobody left and nothing says
why an item was chosen, so there are no propensities, and the last step counts as cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recgym.env.session import CONTEXT_STEPS, Sessions
from recgym.random import session_keys, uniform
from recgym.types import Transitions
from recgym.users import history as ring
from simulators.coat import Coat, CoatState
from simulators.coat_files import read_coat

_ORDER_SEED = 3_000


def rated_sessions(users: Coat, sessions: Sessions[Any], path: str) -> Transitions:
    """The ratings of `train.ascii` as transitions, seen as the platform sees its sessions.

    Args:
        users: the world, for what a user shows and how a history is kept.
        sessions: the platform, for the reward's weights.
        path: folder of the files.

    Raises:
        ValueError: the folder has no `train.ascii`.
    """
    train = read_coat(path).train
    if train is None:
        raise ValueError(f"{path}: has no train.ascii, the ratings that offline agents learn from")
    count, length = len(train), int((train > 0).sum(1).max())
    chance = uniform(session_keys(_ORDER_SEED, count), train.shape[1]) + (train == 0) * 2.0
    items = chance.argsort(1)[:, :length] + 1  # (U, T) rated ones first, in a drawn order
    rated = train.gather(1, items - 1)  # (U, T) stars, 0 where the user rated fewer
    state: Any = users.reset(session_keys(_ORDER_SEED, count))._replace(user=torch.arange(count))
    steps: list[tuple[torch.Tensor, ...]] = []
    for turn in range(length):
        past, stars = users.history(state)
        steps.append((users.visible(state).vector, past, stars, items[:, turn], rated[:, turn]))
        state = _rated(state, items[:, turn], rated[:, turn])
    there = (rated > 0).numpy()  # (U, T)
    vector, past, stars, item, reward = (torch.stack(part, 1).numpy()[there] for part in zip(*steps, strict=True))
    place = np.broadcast_to(np.arange(length), there.shape)[there]
    sizes = there.sum(1)
    last = np.append(np.diff(np.repeat(np.arange(count), sizes)) != 0, True)
    weight = next(iter(sessions.weights.values()))
    return Transitions(
        context=(place / CONTEXT_STEPS).astype(np.float32)[:, None],
        state=vector,
        items=past,
        history=stars,
        mask=None,
        action=item[:, None],
        feedback=reward[:, None, None],
        reward=(weight * reward).astype(np.float32),
        terminated=np.zeros(len(place), np.bool_),
        truncated=last,
        propensity=np.full(len(place), np.nan),
        episode=np.repeat(np.arange(count), sizes),
        user=np.arange(count),
        final_context=(sizes / CONTEXT_STEPS).astype(np.float32)[:, None],
        final_state=users.visible(state).vector.numpy(),
    )


def _rated(state: CoatState, item: torch.Tensor, stars: torch.Tensor) -> CoatState:
    """The state after a rating of its own, as `Coat.step` keeps it."""
    past = ring.push(state.history, item * (stars > 0), stars.unsqueeze(1), gaps=True)
    return state._replace(depth=state.depth + 1, last=stars.clone(), history=past)
