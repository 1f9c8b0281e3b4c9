"""Slates that spread over categories: slot by slot, an item is the less likely the more of its category came before.

    l_j(o)     = s log sigmoid(odds_j(o)) + score_j(o) + topic_c(j)(o)   odds: `ClickModel`, constants here; s learned
    m_c(o)     = sum over the history's clicks on category c of sigmoid(f_0 - f_1 age - f_2 since): a memory that fades
                 with age, in slates, and with the clicks of the slates since; f learned
    price(x)   = 5 sum over i of softplus(w_i) min(max(x - i, 0), 1)  rises with x: repetition never helps; w learned
    P(a_k = j | o, a_1 .. a_{k-1}) ~ exp(l_j - price(m_c + n)),     n items of c = c(j) among a_1 .. a_{k-1}; items left

Within a category the price shifts all items alike, so a slate is drawn as categories, one a slot, and in each the items
of a Plackett-Luce order; without prices it is Plackett-Luce over all items. Where w, f and s start was chosen in
SARDINE's slate worlds: learning goes on from a policy that already spreads its clicks.

Source: the price is the greedy form of maximal marginal relevance, Carbonell and Goldstein (1998), "The use of MMR,
diversity-based reranking", with categories for similarity, made a distribution and learned; Plackett (1975).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, logsigmoid, one_hot, pad, softplus

from agents.choice import allow, check_enough, greedy_probabilities, softmax_probabilities
from agents.clicks import ClickModel
from agents.encoders import recent
from agents.networks import ItemScorer
from recgym.random import gumbel
from recgym.types import Observation, Reads

_REMEMBERED = 5
"""Clicks beyond a slate's slots up to which the price of a category rises."""
_PACE = 5.0
"""Scale of the price and of log s, so that steps of Adam reach steep ones."""
_WEAR = -0.2
"""Where w starts: each click or slot costs a log-odds of 3."""
_SHARPNESS = 0.28
"""Where the learned part of log s starts: s = 4."""
_FADING = (4.0, 0.4, 0.4)
"""Where f starts: half of a click is forgotten after two slates of four clicks each."""


class Spread(NamedTuple):
    """Distributions of B slates."""

    logits: Tensor  # (B, N) of the first slot, -inf where an item is forbidden
    prices: Tensor  # (B, C, K) after n items of a category in the slate, 0 for n = 0
    categories: Tensor  # (N,) int64 from 0
    members: Tensor  # (C, M) items of each category from 0, padded with N

    def log_chances(self, slates: Tensor) -> Tensor:
        """Log P(a_k | a_1 .. a_{k-1}) of items (B, K) from 0: (B, K)."""
        size = slates.shape[1]
        taken, mine = self.logits.gather(1, slates), self.categories[slates]  # (B, K)
        chosen = one_hot(mine, len(self.members))  # (B, K, C)
        above = chosen.cumsum(1) - chosen  # (B, K, C) of each category above slot k
        price = self.prices.gather(2, above.transpose(1, 2)).transpose(1, 2)  # (B, K, C)
        others = _grouped(self.logits.scatter(1, slates, -torch.inf), self.members)
        mass = _log_sum(others).unsqueeze(1) - price  # (B, K, C) of what is not in the slate
        each = price.gather(2, mine.unsqueeze(1).expand(-1, size, -1))  # (B, K, K) price of item a_j at slot k
        left = torch.ones(size, size, dtype=torch.bool, device=slates.device).triu()  # slot j is not above slot k
        rest = (taken.unsqueeze(1) - each).masked_fill(~left, -torch.inf)
        return taken - each.diagonal(dim1=1, dim2=2) - torch.cat([mass, rest], 2).logsumexp(2)

    def draw(self, noise: Tensor | None = None) -> Tensor:
        """Slates (B, K) of items from 0; `noise` (B, N + K C) are standard Gumbel draws, None: torch's generator's."""
        (batch, items), (count, size) = self.logits.shape, self.prices.shape[1:]
        if noise is None:
            uniform = torch.rand(batch, items + size * count, device=self.logits.device)
            noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 6e-8)))
        inner, slots = noise.split([items, size * count], 1)
        inside = _grouped(self.logits, self.members)  # (B, C, M)
        order = (inside + _grouped(inner, self.members)).argsort(2, descending=True)
        left = inside.gather(2, order).flip(2).logcumsumexp(2).flip(2)  # (B, C, M) mass from the r-th on
        left = pad(left, (0, 1), value=-torch.inf)
        rows = torch.arange(batch, device=order.device)
        used = torch.zeros(batch, count, dtype=torch.int64, device=order.device)
        slates = torch.empty(batch, size, dtype=torch.int64, device=order.device)
        for slot in range(size):
            mass = (left.gather(2, used.unsqueeze(2)) - self.prices.gather(2, used.unsqueeze(2)))[..., 0]
            topic = (mass + slots[:, slot * count : (slot + 1) * count]).argmax(1)  # (B,)
            slates[:, slot] = self.members[topic, order[rows, topic, used[rows, topic]]]
            used[rows, topic] += 1
        return slates

    def best(self) -> Tensor:
        """Slates (B, K) of items from 0: in every slot the likeliest item left, of equals the first."""
        left, (count, size) = self.logits.clone(), self.prices.shape[1:]
        used = torch.zeros(len(left), count, dtype=torch.int64, device=left.device)
        slates = torch.empty(len(left), size, dtype=torch.int64, device=left.device)
        for slot in range(size):
            price = self.prices.gather(2, used.unsqueeze(2))[..., 0]  # (B, C)
            item = (left - price[:, self.categories]).argmax(1, keepdim=True)  # (B, 1)
            slates[:, slot : slot + 1] = item
            left.scatter_(1, item, -torch.inf)
            used.scatter_add_(1, self.categories[item], torch.ones_like(item))
        return slates


def members_of(categories: Tensor) -> Tensor:
    """Items of each category, (C, M) int64 from 0, padded with N; of categories (N,)."""
    counts = categories.bincount()
    members = torch.full((len(counts), int(counts.max())), len(categories), device=categories.device)
    for one, count in enumerate(counts.tolist()):
        members[one, :count] = torch.nonzero(categories == one)[:, 0]
    return members


def _grouped(values: Tensor, members: Tensor) -> Tensor:
    """Values (B, N) by category, (B, C, M), -inf for padding."""
    return pad(values, (0, 1), value=-torch.inf)[:, members]


def _log_sum(values: Tensor) -> Tensor:
    """`logsumexp` over the last axis, with a gradient of 0 where all is -inf."""
    nothing = values.isneginf().all(-1)
    return values.masked_fill(nothing.unsqueeze(-1), 0).logsumexp(-1).masked_fill(nothing, -torch.inf)


class SpreadActor(nn.Module):
    """The networks of a `Spread`; without categories all items share one, and it is Plackett-Luce."""

    def __init__(
        self, scorer: ItemScorer, categories: Tensor | None, clicks: ClickModel | None, *, hidden: int
    ) -> None:
        """Build it; `categories` (N,) int64 from 0, `hidden` units of the MLP that weighs them by the visible state.

        Raises:
            ValueError: the categories are not one for each item.
        """
        super().__init__()
        size, layout = scorer.num_items, scorer.layout
        found = torch.zeros(size, dtype=torch.int64) if categories is None else categories.detach().cpu().clone()
        if layout.candidate_width:
            raise ValueError("each step brings candidates, which have no fixed categories: give the task none")
        if found.shape != (size,) or found.dtype != torch.int64 or int(found.min()) < 0:
            raise ValueError(f"item_categories {tuple(found.shape)} {found.dtype} should be ({size},) int64, from 0")
        self.scorer, self.clicks, self.layout, self.hidden = scorer, clicks, layout, hidden
        self.categories: Tensor
        self.members: Tensor
        self.register_buffer("categories", found)
        self.register_buffer("members", members_of(found), persistent=False)
        width, count = layout.state_width, len(self.members)
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, count)
        self.straight = nn.Linear(width, count, bias=False)
        for parameter in (*self.outer.parameters(), *self.straight.parameters()):
            nn.init.zeros_(parameter)
        self.wear = nn.Parameter(torch.full((layout.slate_size - 1 + _REMEMBERED,), _WEAR))  # w
        self.fading = nn.Parameter(torch.tensor(_FADING))  # f
        self.sharpness = nn.Parameter(torch.tensor(_SHARPNESS))  # log s / 5

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return self.scorer.num_items

    def steered(self) -> list[nn.Parameter]:
        """Parameters that policy gradients move: all but the model of clicks."""
        return [each for name, each in self.named_parameters() if not name.startswith("clicks.")]

    def forward(self, observation: Observation) -> Spread:
        """The distributions of B slates."""
        assert observation.state is not None
        state = observation.state[:, : self.layout.state_width]
        worn = self._worn(observation).unsqueeze(2)  # (B, C, 1)
        price = self._price(worn + torch.arange(self.layout.slate_size, device=worn.device))  # (B, C, K)
        topics = self.outer(gelu(self.inner(state))) + self.straight(state) - price[..., 0]  # (B, C)
        logits = self.scorer(observation) + topics[:, self.categories]
        if self.clicks is not None:
            with torch.no_grad():
                odds = self.clicks(observation)
            logits = logits + (_PACE * self.sharpness).exp() * logsigmoid(odds)
        return Spread(allow(logits, observation.mask), price - price[..., :1], self.categories, self.members)

    def _worn(self, observation: Observation) -> Tensor:
        """m_c, (B, C); 0 without a history."""
        worn = observation.context.new_zeros(len(observation.context), len(self.members))
        if not self.layout.history:
            return worn
        ids, feedback = recent(observation, self.layout.history)
        clicked = (feedback > 0).any(2).float()  # (B, L)
        age = torch.arange(ids.shape[1], device=ids.device).flip(0) // self.layout.slate_size  # (L,)
        since = clicked @ (age.unsqueeze(1) < age).float()  # (B, L) clicks of later slates
        lately = clicked * torch.sigmoid(self.fading[0] - self.fading[1] * age - self.fading[2] * since)
        return worn.scatter_add(1, self.categories[(ids - 1).clamp_min(0)], lately)

    def _price(self, times: Tensor) -> Tensor:
        steps = torch.arange(len(self.wear), device=times.device)
        price: Tensor = _PACE * (softplus(self.wear) * (times.unsqueeze(-1) - steps).clamp(0, 1)).sum(-1)
        return price


@dataclass(frozen=True, kw_only=True, eq=False)
class SpreadPolicy:
    """Shows the likeliest item left in every slot, or draws slates as in training."""

    actor: SpreadActor
    name: str = "spread"
    """Registered name of the policy."""
    choice: Literal["greedy", "softmax"] = "greedy"

    def __post_init__(self) -> None:
        """Check the choice."""
        if self.choice not in ("greedy", "softmax"):
            raise ValueError(f"choice is {self.choice!r}, expected 'greedy' or 'softmax'")

    @property
    def reads(self) -> Reads:
        """State, or everything where the history is read too."""
        return self.actor.layout.reads

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return self.actor.num_items

    @property
    def slate_size(self) -> int:
        """Items of a slate, K."""
        return self.actor.layout.slate_size

    @property
    def sizes(self) -> dict[str, int]:
        """What sessions must fit."""
        return self.actor.layout.sizes

    @torch.no_grad()
    def scores(self, observation: Observation) -> Tensor:
        """Logits of every item in the first slot, (B, N)."""
        slates: Spread = self.actor(observation._replace(mask=None))
        return slates.logits

    def probabilities(self, observation: Observation) -> Tensor:
        """Chance of each item at slot 0, (B, N)."""
        chances = greedy_probabilities if self.choice == "greedy" else softmax_probabilities
        return chances(self.scores(observation), observation.mask)

    @torch.no_grad()
    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        """A slate, (B, K) item ids; `keys` (B,)."""
        slates: Spread = self.actor(observation)
        check_enough(slates.logits, observation.mask, self.slate_size)
        if self.choice == "greedy":
            return slates.best() + 1
        return slates.draw(gumbel(keys, self.num_items + self.slate_size * len(slates.members))) + 1

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        actor = self.actor
        own = {"name": self.name, "choice": self.choice, "hidden": actor.hidden}
        return {**own, "scorer": actor.scorer.config(), "clicks": actor.clicks and actor.clicks.hidden}

    def tensors(self) -> dict[str, Tensor]:
        """The weights, and the categories."""
        return dict(self.actor.state_dict())

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> SpreadPolicy:
        """The policy whose `config` and `tensors` these are."""
        own = {name.removeprefix("scorer."): each for name, each in tensors.items() if name.startswith("scorer.")}
        scorer = ItemScorer.restore(config["scorer"], own)
        clicks = ClickModel(scorer, hidden=config["clicks"]) if config["clicks"] else None
        actor = SpreadActor(scorer, tensors["categories"], clicks, hidden=config["hidden"])
        actor.load_state_dict(tensors)
        return cls(actor=actor, **{name: config[name] for name in ("name", "choice")})
