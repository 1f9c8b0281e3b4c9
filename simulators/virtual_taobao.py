"""Virtual Taobao: customers, their clicks and their leaving, as three networks that were trained on Taobao's own logs.

A customer x has 11 attributes, one-hot, 88 in all. A page is a ranking weight vector w in [-1, 1]^27; the catalogue's
items are N such vectors, drawn once from a seed, so that a slate of one item is one action. With c pages seen before:

    customer    x ~ 11 categoricals: softmax of generator(z), z ~ U[0, 1)^128
    response    clicks 0..10 and purchases 0..9, each ~ softmax of action network([x, c, w]); the reward is the clicks
    patience    L ~ softmax of leave network(x), 0..100 pages
    leave       published: once c >= L, drawn at the start, whatever is shown: nothing to plan beyond the page

In "virtual-taobao-repaired" the customer decides page by page. With h_c = P(L = c | L >= c) the published hazard, m the
pages in a row without a click, and s = max(0, cos) between this page's vector and the one before (0 on the first):

    leave       P = sigmoid(logit h_c + leave_base + leave_miss min(m, miss_limit) + leave_same s)

which is the published law where the three coefficients are 0. An empty page drives customers out, and so does the same
page again: the best page, shown again and again, loses them, and a planner changes it for the next best.

The networks were never shown most of [-1, 1]^27: a few vectors are certain of 5 clicks or more where a page earns 0.2
on average. What looks like learning here is in part finding those.

Source: Shi et al. (2019), "Virtual-Taobao: virtualizing real-world online retail environment for reinforcement
learning", and the published code and networks of VirtualTB-v0 (its second output, unnamed there, was "pay" before).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from recgym.random import fold, session_keys, uniform, uniform_at
from recgym.settings import check_numbers
from recgym.types import FeedbackKind, Response, Visible
from recgym.users import history as ring
from recgym.users.history import History
from simulators.choice import pick
from simulators.taobao_files import ATTRIBUTES, CLICKS, CUSTOMER, PAGE, PAGES, SEED, forward, read_networks

_NOISE, _ATTRIBUTES, _PATIENCE = 0, 1, 2
"""Streams of a session's key beside that of its steps."""
_STEP_DRAWS = 3
"""Draws of one page: clicks, purchases, leaving."""
_LARGEST = torch.tensor([10.0, 9.0])
"""Clicks and purchases of a page at most."""
_SAMPLE, _CHUNK = 256, 65536
"""Customers who say what is popular; pages whose chances are computed at once."""


@dataclass(frozen=True, kw_only=True)
class VirtualTaobaoConfig:
    """Where the networks are, what the catalogue holds, and how customers leave."""

    path: Path | str = ""
    """Folder of the published generator_model.pt, action_model.pt and leave_model.pt; the user's own copy."""
    num_items: int = 100
    """Action vectors in the catalogue, N."""
    seed: int = 0
    """Seed of the catalogue."""
    drawn_leave: bool = True
    """Draw the number of pages at the start, as published; False: decide page by page, by the coefficients below."""
    leave_base: float = -0.5
    """Log-odds added to the published hazard."""
    leave_miss: float = 0.5
    """Log-odds of leaving per page in a row without a click, up to `miss_limit`."""
    miss_limit: int = 4
    """Misses in a row after which impatience grows no more."""
    leave_same: float = 2.0
    """Log-odds of leaving that the very same page as before adds; in proportion to the cosine where that is above 0."""
    length: int = 0
    """Items that the visible history keeps, L; 0 for none."""

    def __post_init__(self) -> None:
        """Refuse sizes and coefficients that make no world."""
        check_numbers(self)
        for name, least in (("num_items", 1), ("length", 0), ("miss_limit", 0), ("leave_miss", 0), ("leave_same", 0)):
            if not least <= getattr(self, name) < float("inf"):
                raise ValueError(f"VirtualTaobaoConfig.{name} is {getattr(self, name)}, expected at least {least}")
        if not abs(self.leave_base) < float("inf"):
            raise ValueError(f"VirtualTaobaoConfig.leave_base is {self.leave_base}, expected finite log-odds")


SETTINGS = {
    "virtual-taobao": VirtualTaobaoConfig(),
    "virtual-taobao-repaired": VirtualTaobaoConfig(drawn_leave=False),
}
"""The published world, in which leaving follows from nothing that is shown, and one in which it does."""


class TaobaoState(NamedTuple):
    """B sessions. Only `customer`, `response`, `pages` and `history` are visible to the platform."""

    keys: Tensor  # (B,) int64 session keys
    pages: Tensor  # (B,) int64 pages seen, c
    customer: Tensor  # (B, 88) float32, one-hot by attribute
    encoded: Tensor  # (B, H) float32: the customer's part of the action network's first layer
    patience: Tensor  # (B, 1) float32 drawn pages L; or (B, 101) log-odds of the published hazard at c = 0..100
    misses: Tensor  # (B,) int64 pages in a row without a click
    page: Tensor  # (B, 27) float32: the last action vector at length 1, 0 before the first
    response: Tensor  # (B, 2) float32 clicks and purchases of the last page
    history: History  # the last L items shown


class VirtualTaobao:
    """The population of customers, as `recgym.users.model.UserModel` asks; slates hold one item: an action vector."""

    kinds = (
        FeedbackKind(name="click", type="real", unit="clicks"),
        FeedbackKind(name="purchase", type="real", unit="purchases"),
    )

    def __init__(self, config: VirtualTaobaoConfig | None = None, *, device: torch.device | str = "cpu") -> None:
        """Read the networks and draw the catalogue.

        Raises:
            FileNotFoundError: a network is not in `config.path`.
            ValueError: `config.path` is empty, or a file there is not the network that it should be.
        """
        self.config, self.device = config or VirtualTaobaoConfig(), torch.device(device)
        self.num_items = self.config.num_items
        self._generator, action, self._leave = read_networks(self.config.path, self.device)
        (first, self._first_bias), *self._rest = action
        self._of_customer, self._of_count, self._of_page = first.split([CUSTOMER, 1, PAGE], 1)
        draws = uniform(session_keys(self.config.seed, self.num_items, device=self.device), PAGE)
        self.actions = 2 * draws - 1  # (N, 27) in [-1, 1)
        self._encoded = self.actions @ self._of_page.T  # (N, H)
        self._unit = normalize(self.actions)  # (N, 27)

    def reset(self, keys: Tensor) -> TaobaoState:
        """Start one session per key (B,): a new customer each."""
        keys = keys.to(self.device)
        chances = forward(self._generator, uniform(fold(keys, _NOISE), SEED)).split(ATTRIBUTES, 1)
        draws = uniform(fold(keys, _ATTRIBUTES), len(ATTRIBUTES))  # (B, 11)
        chosen = [pick(chance.softmax(1), draws[:, at]) for at, chance in enumerate(chances)]
        hot = [one_hot(value, size) for value, size in zip(chosen, ATTRIBUTES, strict=True)]
        customer = torch.cat(hot, 1).to(torch.float32)  # (B, 88)
        stays = forward(self._leave, customer).softmax(1)  # (B, 101)
        if self.config.drawn_leave:
            patience = pick(stays, uniform(fold(keys, _PATIENCE), 1)[:, 0]).unsqueeze(1).to(torch.float32)
        else:
            patience = _hazard(stays).logit()
        batch = len(keys)
        return TaobaoState(
            keys=keys,
            pages=torch.zeros_like(keys),
            customer=customer,
            encoded=customer @ self._of_customer.T + self._first_bias,
            patience=patience,
            misses=torch.zeros_like(keys),
            page=torch.zeros(batch, PAGE, device=self.device),
            response=torch.zeros(batch, len(self.kinds), device=self.device),
            history=ring.empty(batch, self.config.length, len(self.kinds), device=self.device),
        )

    def step(self, state: TaobaoState, slates: Tensor) -> tuple[TaobaoState, Response]:
        """Show the page of the one item of `slates` (B, 1).

        Raises:
            ValueError: a slate of more than one item.
        """
        if slates.shape[1] != 1:
            raise ValueError(f"slates have {slates.shape[1]} items, expected 1: an item is a whole page here")
        index = slates[:, 0] - 1
        new, response = self._react(state, self._encoded[index], self._unit[index])
        ring.push(new.history, slates[:, 0], new.response, gaps=False)
        return new, response

    def step_actions(self, state: TaobaoState, actions: Tensor) -> tuple[TaobaoState, Response]:
        """The same for any page, `actions` (B, 27) in [-1, 1], as published; the history notes items alone."""
        return self._react(state, actions @ self._of_page.T, normalize(actions))

    def visible(self, state: TaobaoState) -> Visible:
        """The customer, then clicks and purchases of the last page and pages seen, as shares of the most: (B, 91)."""
        seen = (state.pages / PAGES).unsqueeze(1)
        return Visible(torch.cat([state.customer, state.response / _LARGEST.to(self.device), seen], 1))

    def history(self, state: TaobaoState) -> tuple[Tensor, Tensor]:
        """Items (B, L) and feedback (B, L, 2), most recent last, 0 pads on the left."""
        return ring.ordered(state.history)

    def truth(self, state: TaobaoState) -> dict[str, Tensor]:
        """Of each item as the next page, (B, N): mean `clicks`, chance of a `miss`, chance to `leave` after it."""
        rows = max(1, _CHUNK // self.num_items)
        chances = []
        for encoded, count in zip(state.encoded.split(rows), self._count(state).split(rows), strict=True):
            inner = encoded.unsqueeze(1) + count.unsqueeze(1) * self._of_count[:, 0] + self._encoded
            chances.append(forward(self._rest, inner, entered=True)[..., :CLICKS].softmax(2))  # (rows, N, 11)
        chance = torch.cat(chances)
        miss = chance[..., 0]
        pages, same = state.pages + 1, self._same(state)
        after_miss = self._leave_chance(state, pages, (state.misses + 1).unsqueeze(1), same)
        after_click = self._leave_chance(state, pages, torch.zeros_like(miss), same)
        clicks = chance @ torch.arange(CLICKS, device=self.device, dtype=torch.float32)
        return {"clicks": clicks, "miss": miss, "leave": miss * after_miss + (1 - miss) * after_click}

    def bands(self) -> dict[str, Callable[[TaobaoState], Tensor]]:
        """Scorers of every item, (B, N): by clicks now, by clicks of all customers, and looking ahead.

        "popular" is the item that customers click most on average. "rule" takes the customer's own clicks times 1 - s,
        what the page does not share with the last, and "best known" takes off P(leave) times what staying is worth, as
        much as 12 of the customer's best pages. Where nothing shown makes anyone leave, "rule" is "popular" and "best
        known" is "myopic", and the best there is.
        """
        sample = self.reset(session_keys(self.config.seed, _SAMPLE, device=self.device))
        liked = self.truth(sample)["clicks"].mean(0)  # (N,)

        def popular(state: TaobaoState) -> Tensor:
            return liked.expand(len(state.keys), -1)

        def myopic(state: TaobaoState) -> Tensor:
            return self.truth(state)["clicks"]

        def varied(state: TaobaoState) -> Tensor:
            return myopic(state) * (1 - self._same(state))

        def ahead(state: TaobaoState, pages: float = 12.0) -> Tensor:
            seen = self.truth(state)
            return seen["clicks"] - pages * seen["clicks"].amax(1, keepdim=True) * seen["leave"]

        rule, best = (popular, myopic) if self.config.drawn_leave else (varied, ahead)
        return {"popular": popular, "myopic": myopic, "rule": rule, "best known": best}

    def _react(self, state: TaobaoState, encoded: Tensor, unit: Tensor) -> tuple[TaobaoState, Response]:
        """Show pages given by their part of the first layer (B, H), which is used up, and their direction (B, 27)."""
        pages = state.pages + 1
        draws = uniform_at(state.keys, pages, _STEP_DRAWS)
        inner = encoded.add_(state.encoded).addr_(self._count(state)[:, 0], self._of_count[:, 0])  # (B, H)
        clicks, purchases = forward(self._rest, inner, entered=True).tensor_split([CLICKS], 1)
        amounts = [pick(part.softmax(1), draws[:, at]) for at, part in enumerate((clicks, purchases))]
        response = torch.stack(amounts, 1).to(torch.float32)  # (B, 2)
        misses = torch.where(amounts[0] > 0, 0, state.misses + 1)
        same = (state.page * unit).sum(1, keepdim=True).clamp(min=0)
        leaves = draws[:, 2] < self._leave_chance(state, pages, misses.unsqueeze(1), same)[:, 0]
        new = state._replace(pages=pages, misses=misses, page=unit, response=response)
        gap = torch.full_like(draws[:, 0], torch.nan)
        return new, Response(response.unsqueeze(1).clone(), leaves, gap)  # the state may be written in place

    def _same(self, state: TaobaoState) -> Tensor:
        """How much each item is the page shown last, max(0, cos), (B, N)."""
        return (state.page @ self._unit.T).clamp(min=0)

    def _count(self, state: TaobaoState) -> Tensor:
        """Pages seen before, as the action network reads them, (B, 1); it knows no more than 100."""
        return state.pages.clamp(max=PAGES).unsqueeze(1).to(torch.float32)

    def _leave_chance(self, state: TaobaoState, pages: Tensor, misses: Tensor, same: Tensor) -> Tensor:
        """Chance to leave after page number `pages` (B,), (B, M); `misses` and `same` (B, M) after it."""
        config = self.config
        if config.drawn_leave:
            return (pages.unsqueeze(1) >= state.patience).to(torch.float32).expand_as(same)
        base = state.patience.gather(1, pages.clamp(max=PAGES).unsqueeze(1)) + config.leave_base  # (B, 1)
        return torch.sigmoid(
            base + config.leave_miss * misses.clamp(max=config.miss_limit) + config.leave_same * same
        )  # fmt: skip


def _hazard(chance: Tensor) -> Tensor:
    """P(L = c | L >= c) for c = 0..100, and P(L <= 1) at c = 1, as nobody leaves before a page: (B, 101)."""
    chance = torch.cat([torch.zeros_like(chance[:, :1]), chance[:, :1] + chance[:, 1:2], chance[:, 2:]], 1)
    left = chance.flip(1).cumsum(1).flip(1)  # (B, 101) P(L >= c)
    hazard = torch.where(left > 0, chance / left, 1.0).clamp(max=1)
    hazard[:, -1] = 1.0
    return hazard
