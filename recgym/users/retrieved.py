"""Users behind a retriever: each step offers C items of the catalogue, and slates are places among those.

    score_j  = s . v_j + b_j             s the backbone's state, v and b its item vectors and biases
    offered  = the (1 - explore) C items of highest score, and explore C drawn uniformly from the others, by id
    features = [v_j, b_j, score_j]       of each offered item

What must not repeat is not offered while enough else is left. With C = N place j is item j + 1, and nothing changes.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone
from recgym.backbones.following import begin, follow
from recgym.random import fold, session_keys, uniform_at
from recgym.types import FeedbackKind, Response, Visible
from recgym.users.model import UserModel

S = TypeVar("S")
_RETRIEVER = 0x2E721E
"""Stream of the retriever's draws, apart from the users'."""


class RetrievedState(NamedTuple):
    """B sessions; all but `users` is the platform's own."""

    users: Any  # the state of the users behind it
    keys: Tensor  # (B,) int64: of the retriever's draws
    depth: Tensor  # (B,) int64 slates shown
    offered: Tensor  # (B, C) int64 item ids, ascending
    shown: Tensor | None  # (B, N) bool: not to be offered again; None where repeats are allowed
    encoded: Any  # cache of the platform's own backbone; None where the users' visible vector is its state

    @property
    def user(self) -> Tensor:
        """Who, (B,), where the users behind it know."""
        found: Tensor = self.users.user
        return found


class Retrieved(Generic[S]):
    """The users of another model, met through a retriever: `num_items` is C, and candidates' features are visible."""

    def __init__(
        self,
        users: UserModel[S],
        count: int,
        *,
        backbone: Backbone | None = None,
        explore: float = 0.0,
        repeats: Literal["allow", "mask"] = "allow",
    ) -> None:
        """Put a retriever before `users`.

        Args:
            users: learned or known, with a fixed catalogue.
            count: items offered at each step, C.
            backbone: the platform's, which retrieves and whose state is visible; None: the one inside learned users.
            explore: share of the C items that is drawn uniformly.
            repeats: "mask" offers nothing that this session showed (nor what the history holds as consumed, where
                users consume nothing twice).

        Raises:
            ValueError: C is not in 1..N, a share out of [0, 1], no backbone, one of another catalogue, or users who
                bring candidates themselves.
        """
        if not 1 <= count <= users.num_items:
            raise ValueError(f"candidates is {count}, expected 1 to {users.num_items} items")
        if not 0 <= explore <= 1:
            raise ValueError(f"explore is {explore}, expected a share in [0, 1]")
        if repeats not in ("allow", "mask"):
            raise ValueError(f"repeats is {repeats!r}, expected 'allow' or 'mask': a retriever offers no repeat")
        if users.visible(users.reset(session_keys(0, 1))).candidates is not None:
            raise ValueError("these users bring candidates of their own each step: there is nothing to retrieve")
        inner: Backbone | None = getattr(users, "backbone", None)
        used = inner if backbone is None else backbone
        if used is None:
            raise ValueError("these users have no backbone to retrieve candidates with: give one of the platform's own")
        if (used.num_items, used.num_feedback) != (users.num_items, len(users.kinds)):
            raise ValueError(
                f"the backbone reads {used.num_items} items and {used.num_feedback} kinds of feedback, "
                f"the users have {users.num_items} and {len(users.kinds)}; use a backbone trained on their log"
            )
        self.users, self.backbone, self.explore = users, used, explore
        self._follows = used is not inner  # else the users' visible vector is its state
        self._masks = repeats == "mask"
        self.num_items, self.catalogue_size = count, users.num_items
        self.kinds: tuple[FeedbackKind, ...] = users.kinds
        with torch.no_grad():
            vectors, bias = used.item_vectors().detach(), used.item_bias().detach()
        self.features = torch.cat([vectors, bias.unsqueeze(1)], 1)  # (N, D + 1)
        for name in ("members", "returning", "item_titles", "item_categories", "name"):
            setattr(self, name, getattr(users, name, () if name == "members" else None))

    def reset(self, keys: Tensor) -> RetrievedState:
        """Start one session per key (B,) and offer its first items."""
        inner = self.users.reset(keys)
        items, feedback = self.users.history(inner)
        keys = fold(keys.to(items.device), _RETRIEVER)
        encoded = begin(self.backbone, items, feedback) if self._follows else None
        shown = self._shown_at_start(items, feedback) if self._masks else None
        return self._offer(RetrievedState(inner, keys, torch.zeros_like(keys), items, shown, encoded))

    def step(self, state: RetrievedState, slates: Tensor) -> tuple[RetrievedState, Response]:
        """React to `slates` (B, K) of places 1..C among the offered, and offer anew."""
        items = self.items_of(state, slates)
        inner, response = self.users.step(state.users, items)
        encoded = state.encoded
        if self._follows:
            exposures = bool(getattr(self.users, "exposures", True))
            encoded = follow(self.backbone, encoded, items, response.feedback, exposures=exposures)
        shown = None if state.shown is None else state.shown.scatter_(1, items - 1, True)
        after = state._replace(users=inner, depth=state.depth + 1, shown=shown, encoded=encoded)
        return self._offer(after), response

    def items_of(self, state: RetrievedState, slates: Tensor) -> Tensor:
        """Item ids (B, K), 1..N, at the places (B, K), 1..C, of what is on offer."""
        return state.offered.gather(1, slates - 1)

    def visible(self, state: RetrievedState) -> Visible:
        """The backbone's state (B, D), the candidates' features (B, C, D + 2), and their ids (B, C)."""
        vector = self._vector(state)
        items = self.features[state.offered - 1]  # (B, C, D + 1)
        return Visible(vector, features_of(vector, items), state.offered)

    def history(self, state: RetrievedState) -> tuple[Tensor, Tensor]:
        """Items (B, L), by their ids in the catalogue, and feedback (B, L, F)."""
        return self.users.history(state.users)

    def truth(self, state: RetrievedState) -> dict[str, Tensor]:
        """What the users behind it say, over the whole catalogue, and `offered` (B, C) ids."""
        return {**self.users.truth(state.users), "offered": state.offered}

    def disagreement(self, state: RetrievedState, slates: Tensor) -> Tensor:
        """Of the users' ensemble about what is shown, (B, K, F)."""
        found: Tensor = self.users.disagreement(state.users, self.items_of(state, slates))  # type: ignore[attr-defined]
        return found

    def _vector(self, state: RetrievedState) -> Tensor:
        """The backbone's state, (B, D)."""
        vector: Tensor = state.encoded.state if self._follows else self.users.visible(state.users).vector
        return vector

    def _offer(self, state: RetrievedState) -> RetrievedState:
        """The state with the ids (B, C) that are on offer next."""
        batch, size, count = len(state.keys), self.catalogue_size, self.num_items
        if count == size:
            every = torch.arange(1, size + 1, device=state.keys.device)
            return state._replace(offered=every.expand(batch, -1).clone())
        drawn = round(self.explore * count)
        scores = torch.addmm(self.features[:, -1], self._vector(state), self.features[:, :-1].T)  # (B, N)
        if state.shown is not None:  # last of all: offered only where nothing else is left
            scores = scores.masked_fill(state.shown, torch.finfo(scores.dtype).min)
        chosen = scores.topk(count - drawn, 1).indices
        if drawn:
            luck = uniform_at(state.keys, state.depth, size)  # (B, N)
            if state.shown is not None:
                luck = luck - 1.0 * state.shown
            others = luck.scatter_(1, chosen, -2.0).topk(drawn, 1).indices
            chosen = torch.cat([chosen, others], 1)
        return state._replace(offered=chosen.sort(1).values + 1)

    def _shown_at_start(self, items: Tensor, feedback: Tensor) -> Tensor:
        """What a fresh session does not offer, (B, N)."""
        shown = torch.zeros(len(items), self.catalogue_size + 1, dtype=torch.bool, device=items.device)
        if not getattr(self.users, "repeats", True):
            shown.scatter_(1, items * (feedback[:, :, 0] > 0), True)
        return shown[:, 1:].clone()


def features_of(vector: Tensor, items: Tensor) -> Tensor:
    """Item vectors and biases with the score behind them: (B, D), (B, n, D + 1) -> (B, n, D + 2)."""
    scores = torch.einsum("bd,bnd->bn", vector, items[:, :, :-1]) + items[:, :, -1]
    return torch.cat([items, scores.unsqueeze(2)], 2)
