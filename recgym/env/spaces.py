"""The one place where Gymnasium's numpy meets the sessions' torch: spaces, observations and actions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recgym.env.session import CONTEXT_STEPS, Sessions, SessionState
from recgym.types import BoolArray, IntArray, Reads

_LARGEST = float(np.finfo(np.float32).max)
OBSERVATIONS: tuple[Reads, ...] = ("state", "history")


class Surface:
    """Spaces of one session, and the translation of observations and actions for a batch of them.

    Observation "state": Box (D + 1,), the encoder's state and the context. Observation "history": Dict of `items` (L,),
    one `feedback_NAME` (L,) for each kind, and `context` (1,), most recent last, 0 padding on the left; behind a
    retriever `candidates` (C,) ids too. Actions are 0..N-1: Discrete(N) for one item, MultiDiscrete([N] * K) for a
    slate; item ids inside are 1..N. Behind a retriever N is C, and actions are places among the candidates.
    """

    def __init__(self, sessions: Sessions[Any], observation: Reads) -> None:
        """Describe `sessions`.

        Raises:
            ValueError: `observation` is neither "state" nor "history".
        """
        if observation not in OBSERVATIONS:
            raise ValueError(f"observation is {observation!r}, expected one of {OBSERVATIONS}")
        self.sessions, self.reads = sessions, observation
        self.names = [f"feedback_{kind.name}" for kind in sessions.users.kinds]
        config, num_items = sessions.config, sessions.num_items
        self.action_space: gymnasium.spaces.Space[Any] = (
            gymnasium.spaces.Discrete(num_items)
            if config.slate_size == 1
            else gymnasium.spaces.MultiDiscrete([num_items] * config.slate_size)
        )
        self.observation_space: gymnasium.spaces.Space[Any]
        if observation == "state":
            self.observation_space = _box(sessions.state_width + sessions.calendar_width + 1, -_LARGEST, _LARGEST)
            return
        probe = sessions.observe(sessions.reset(torch.zeros(1, dtype=torch.int64)), "history")
        assert probe.items is not None
        length = probe.items.shape[1]
        if length == 0:
            raise ValueError("these users keep no visible history; use observation='state', or give them a `length`")
        offered = sessions.offered(sessions.reset(torch.zeros(1, dtype=torch.int64)))
        most = sessions.catalogue_size
        items = gymnasium.spaces.Box(0, most, (length,), np.int64)
        context = _box(1, 0.0, (config.max_steps + 1) / CONTEXT_STEPS)
        feedback = {
            name: _box(length, 0.0, 1.0 if kind.type == "binary" else _LARGEST)
            for name, kind in zip(self.names, sessions.users.kinds, strict=True)
        }
        parts: dict[str, Any] = {"items": items, **feedback, "context": context}
        if offered is not None:
            parts["candidates"] = gymnasium.spaces.Box(1, most, (num_items,), np.int64)
        self.observation_space = gymnasium.spaces.Dict(parts)

    def observe(self, state: SessionState) -> Any:
        """Observations of B sessions as numpy: (B, D + 1), or a dict of arrays with leading dimension B."""
        if self.reads == "state":
            return self.sessions.features(state).cpu().numpy()
        observation = self.sessions.observe(state, self.reads)
        assert observation.items is not None
        assert observation.feedback is not None
        feedback = observation.feedback.cpu()
        columns = {name: feedback[:, :, column].numpy().copy() for column, name in enumerate(self.names)}
        found = {"items": observation.items.cpu().numpy(), **columns, "context": observation.context.cpu().numpy()}
        offered = self.offered(state)
        return found if offered is None else {**found, "candidates": offered}

    def slates(self, actions: Any, batch: int) -> Tensor:
        """Actions (B,) or (B, K) from 0 as slates (B, K) of item ids from 1.

        Raises:
            ValueError: an action of another shape or type, or out of range.
        """
        array = np.asarray(actions)
        size = self.sessions.config.slate_size
        if array.dtype.kind not in "iu" or array.size != batch * size or array.shape[:1] != (batch,):
            raise ValueError(
                f"actions have shape {array.shape} and type {array.dtype}, expected integers of shape "
                f"({batch},)" + (f" x {size}" if size > 1 else "")
            )
        if array.size and (array.min() < 0 or array.max() >= self.sessions.num_items):
            raise ValueError(
                f"actions reach from {array.min()} to {array.max()}, expected 0..{self.sessions.num_items - 1}"
            )
        return torch.from_numpy(array.reshape(batch, size).astype(np.int64)).to(self.sessions.device) + 1

    def slate(self, action: Any) -> Tensor:
        """One action, an int or (K,) ints from 0, as a slate (1, K) of item ids from 1; errors as of `slates`."""
        size, top = self.sessions.config.slate_size, self.sessions.num_items
        if size == 1 and isinstance(action, int | np.integer):
            if 0 <= action < top:
                return torch.tensor([[int(action) + 1]], device=self.sessions.device)
        elif isinstance(action, np.ndarray) and action.shape == (size,) and action.dtype.kind in "iu":
            ids = [item + 1 for item in action.tolist()]
            if min(ids) >= 1 and max(ids) <= top:  # on so few numbers many times as fast as numpy
                return torch.tensor([ids], device=self.sessions.device)
        return self.slates(np.asarray(action)[None], 1)

    def offered(self, state: SessionState) -> IntArray | None:
        """Ids (B, C) of the items on offer, where a retriever stands between."""
        offered = self.sessions.offered(state)
        return None if offered is None else offered.cpu().numpy().copy()

    def action_mask(self, state: SessionState) -> BoolArray | None:
        """Items that may be shown, (B, N), or None where all may."""
        if state.shown is None or self.sessions.config.repeats != "mask":
            return None
        mask: BoolArray = (~state.shown).cpu().numpy()
        return mask


def _box(size: int, low: float, high: float) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(low, high, (size,), np.float32)
