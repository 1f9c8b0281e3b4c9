"""What a slate leaves behind in learned users, whoever says how they reacted: the heads' draws, or a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from recgym.users import history as ring
from recgym.users import recent as memory

if TYPE_CHECKING:
    from recgym.users.learned import LearnedState, LearnedUsers


def take_in(
    users: LearnedUsers, state: LearnedState, slates: Tensor, feedback: Tensor, positive: Tensor
) -> LearnedState:
    """The state after one slate a session; cache, history and memory may change in place.

    Args:
        users: whose state it is.
        state: of B sessions.
        slates: (B, K) item ids 1..N.
        feedback: (B, K, F).
        positive: (B, K) float32: 1 where the first feedback is above 0.
    """
    met = None if users.exposures else positive > 0
    entering = slates if met is None else slates * met
    cache, history = state.cache, state.history
    for item, reaction in zip(entering.unbind(1), feedback.unbind(1), strict=True):
        cache, _ = users.backbone.advance(cache, item, reaction)
        history = ring.push(history, item, reaction, gaps=not users.exposures)
    recent = memory.remember(state.recent, users.topics[slates], positive, met)
    return state._replace(depth=state.depth + 1, cache=cache, history=history, recent=recent)
