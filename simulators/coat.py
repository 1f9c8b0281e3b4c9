"""Coat: 290 users who rate 300 coats, looked up in a complete matrix, and who leave when shown much the same again.

A session has one user u, uniform, and by custom 30 turns. Item j earns its rating, M[u, j] stars of 1 to 5. Under the
quit rule the user leaves, with that rating still earned, when the item is near one of those shown lately:

    distance    d(i, j) = |M[:, i] - M[:, j]|, Euclidean over users; d(j, j) = 0
    leave       min over i in the window of d(i, j) < 6;  items may be repeated, at that price

The window holds the last 7 items. In the published code it holds fewer at first: its slice `shown[t - 7 : t]` starts
from the end of the list while t < 7, so turn t looks back min(t, 7 - t) items, that is 1, 2, 3, 3, 2, 1, then 7. A
random policy earns 28.3 so, the published figure, and 26.1 where the window is what it is said to be ("coat-repaired").

About 1.7% of the pairs are near. Without the rule nothing carries over from one turn to the next: greed on the truth is
right, and what is to be learned is who the user is ("coat-no-quit").

Source: Yu et al. (2024), "EasyRL4Rec: an easy-to-use library for reinforcement learning based recommender systems", and
the published code's `CoatEnv`, `BaseEnv` and `CoatData`; Gao et al. (2023), "Alleviating Matthew effect of offline
reinforcement learning in interactive recommendation". The files are described in `simulators.coat_files`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from recgym.random import bits, fold
from recgym.settings import check_numbers
from recgym.types import FeedbackKind, Response, Visible
from recgym.users import history as ring
from recgym.users.history import History
from simulators.coat_files import read_coat

_USER = 0
"""Stream of a session's key."""
_STARS = 5.0
_PRIOR_RATINGS = 3.0
"""Average ratings that every item is given beside its own, so that one lucky rating does not make it the best."""
_EXPLORED = 8
"""Items that the rule without the quit rule tries before it commits."""


@dataclass(frozen=True, kw_only=True)
class CoatConfig:
    """Where the data are, and how the user leaves."""

    path: Path | str = ""
    """`coat_pseudoGT_ratingM.ascii`, or the folder that it is in; the user's own copy, as none is shipped."""
    quit: bool = True
    """Whether the user leaves when shown much the same again; if not, the caller's horizon alone ends a session."""
    threshold: float = 6.0
    """Distance below which two items are much the same."""
    window: int = 7
    """Items that the user compares with."""
    shipped_window: bool = True
    """Look back only min(t, window - t) items at turns t < window, as the published code does."""
    show_user: bool = False
    """Show who the user is, as one-hot of U, as published; features of users are shown wherever they are at hand."""
    length: int = 30
    """Items that the visible history keeps, L; 0 for none."""

    def __post_init__(self) -> None:
        """Refuse distances and lengths that make no rule."""
        check_numbers(self)
        if not 0 <= self.threshold < float("inf"):
            raise ValueError(f"CoatConfig.threshold is {self.threshold}, expected a finite distance, at least 0")
        for name, least in (("window", 1), ("length", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"CoatConfig.{name} is {getattr(self, name)}, expected at least {least}")


SETTINGS = {
    "coat": CoatConfig(),
    "coat-repaired": CoatConfig(shipped_window=False),
    "coat-no-quit": CoatConfig(quit=False),
}
"""As published with the quit rule, the same with a window that is whole from the start, and without the rule."""


class CoatState(NamedTuple):
    """B sessions. `user` is hidden unless it is shown."""

    depth: Tensor  # (B,) int64 items shown
    user: Tensor  # (B,) int64, 0..U-1
    recent: Tensor  # (B, window) int64: the last items, turn t in column t mod window; 0 where none stands yet
    last: Tensor  # (B,) float32: the last rating, 0 before the first
    history: History  # the last L items with their ratings


class Coat:
    """The population of users, as `recgym.users.model.UserModel` asks; slates hold one item."""

    kinds = (FeedbackKind(name="rating", type="real", unit="stars"),)

    def __init__(self, config: CoatConfig | None = None, *, device: torch.device | str = "cpu") -> None:
        """Read the files and find out which items are near each other.

        Raises:
            FileNotFoundError: there is no matrix at `config.path`.
            ValueError: `config.path` is empty, or a file there is broken.
        """
        self.config, self.device = config or CoatConfig(), torch.device(device)
        files = read_coat(self.config.path)
        self.num_users, self.num_items = files.ratings.shape
        self.item_titles, self.item_categories = files.titles, files.categories
        self.item_features = files.item_features  # (N, Y) of 0 and 1, None where the file is missing
        self.ratings = files.ratings.to(self.device)  # (U, N) stars
        exact = files.ratings.to(torch.float64)
        squares = exact.square().sum(0)  # (N,)
        distance = (squares.unsqueeze(1) + squares - 2 * exact.T @ exact).clamp(min=0).sqrt().fill_diagonal_(0)
        near = torch.zeros(self.num_items + 1, self.num_items + 1, dtype=torch.bool)
        near[1:, 1:] = distance < self.config.threshold
        self.near = near.to(self.device)  # (N + 1, N + 1) by item id; False beside 0
        self.popularity = _shrunk_means(files.ratings, files.train).to(self.device)  # (N,) stars
        self._seen = torch.zeros(self.num_users, 0) if files.user_features is None else files.user_features
        if self.config.show_user:
            self._seen = torch.cat([self._seen, torch.eye(self.num_users)], 1)
        self._seen = self._seen.to(self.device)  # (U, X)
        turn, column = torch.arange(self.config.window + 1).unsqueeze(1), torch.arange(self.config.window)
        whole = (turn == self.config.window) | (not self.config.shipped_window)
        self._compared = (whole | (column >= 2 * turn - self.config.window)).to(self.device)  # (window + 1, window)

    def reset(self, keys: Tensor) -> CoatState:
        """Start one session per key (B,), of any user."""
        keys = keys.to(self.device)
        user = bits(fold(keys, _USER), 1)[:, 0] % self.num_users
        batch = len(keys)
        past = ring.empty(batch, self.config.length, len(self.kinds), device=self.device)
        recent = torch.zeros(batch, self.config.window, dtype=torch.int64, device=self.device)
        return CoatState(torch.zeros_like(user), user, recent, torch.zeros(batch, device=self.device), past)

    def step(self, state: CoatState, slates: Tensor) -> tuple[CoatState, Response]:
        """Rate the one item of `slates` (B, 1), and leave if it is much the same as one of the last.

        Raises:
            ValueError: a slate of more than one item.
        """
        if slates.shape[1] != 1:
            raise ValueError(f"slates have {slates.shape[1]} items, expected 1: Coat's users are shown one coat a turn")
        window, item = self.config.window, slates[:, 0]
        rating = self.ratings.view(-1)[state.user * self.num_items + (item - 1)]  # (B,)
        if self.config.quit:
            pairs = state.recent + (item * (self.num_items + 1)).unsqueeze(1)  # (B, window) in the flat table
            again = self.near.view(-1)[pairs]
            if self.config.shipped_window:
                again &= self._compared[state.depth.clamp(max=window)]
            leaves = again.any(1)
            state.recent.scatter_(1, state.depth.remainder(window).unsqueeze(1), slates)
        else:
            leaves = torch.zeros_like(item, dtype=torch.bool)
        feedback = rating.clone().view(-1, 1, 1)  # the state keeps `rating`, and may be written in place
        past = ring.push(state.history, item, feedback[:, 0], gaps=False)
        new = CoatState(state.depth + 1, state.user, state.recent, rating, past)
        return new, Response(feedback, leaves, torch.full_like(rating, torch.nan))

    def visible(self, state: CoatState) -> Visible:
        """The last rating in fifths, then the features and the one-hot of the user, where shown: (B, 1 + X)."""
        return Visible(torch.cat([(state.last / _STARS).unsqueeze(1), self._seen[state.user]], 1))

    def history(self, state: CoatState) -> tuple[Tensor, Tensor]:
        """Items (B, L) and ratings (B, L, 1), most recent last, 0 pads on the left."""
        return ring.ordered(state.history)

    def truth(self, state: CoatState) -> dict[str, Tensor]:
        """`user` (B,); `rating` (B, N) stars; `near` (B, N) bool: much the same as one of the last `window` items.

        Without the quit rule nothing is noted, and nothing is near.
        """
        return {
            "user": state.user,
            "rating": self.ratings[state.user],
            "near": self.near[state.recent].any(1)[:, 1:],
        }

    def bands(self) -> dict[str, Callable[[CoatState], Tensor]]:
        """Scorers of every item, (B, N).

        "popular" has the best shrunken mean rating (of the training ratings, where those are at hand). With the quit
        rule, "rule" is the best such item that is not near, and "best known" the item that the user rates highest
        among those. Without it, "rule" tries the 8 most popular items and keeps to the user's favourite among them.
        "myopic" is greedy on the truth, and the best there is without the quit rule.
        """
        best = self.popularity.topk(min(_EXPLORED, self.num_items)).indices  # (8,) from 0, the best first
        favourite = best[self.ratings[:, best].argmax(1)]  # (U,)

        def commit(state: CoatState) -> Tensor:
            trial = best[state.depth.clamp(max=len(best) - 1)]
            return one_hot(torch.where(state.depth < len(best), trial, favourite[state.user]), self.num_items)

        def popular(state: CoatState) -> Tensor:
            return self.popularity.expand(len(state.user), -1)

        def rating(state: CoatState) -> Tensor:
            return self.ratings[state.user] + self.ratings.mean(0) / 100  # the mean breaks ties

        def kept(score: Callable[[CoatState], Tensor]) -> Callable[[CoatState], Tensor]:
            return lambda state: score(state) - 2 * _STARS * self.truth(state)["near"]

        ruled = {"rule": kept(popular), "best known": kept(rating)}
        free = {"rule": commit, "best known": rating}
        return {"popular": popular, "myopic": rating, **(ruled if self.config.quit else free)}


def _shrunk_means(ratings: Tensor, train: Tensor | None) -> Tensor:
    """Mean rating of each item, drawn towards that of all, (N,) stars: of `train` (U, N), 0 unrated, or the truth."""
    known = ratings if train is None or not bool((train > 0).any()) else train
    rated = known > 0
    average = known[rated].mean()
    return (known.sum(0) + _PRIOR_RATINGS * average) / (rated.sum(0) + _PRIOR_RATINGS)
