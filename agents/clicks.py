"""Log-odds that an item is clicked where it is shown: a logistic regression in the session, unrolled and learned.

    P_l    = sigmoid(g (u . E_l - t) + s_k(l))                           item l of the history, shown in slot k(l)
    u     <- u + rate (sum over l of v_l (click_l - P_l) E_l - p (u - u_0)) / (10 + sum of v_l),    T times from u_0
    v_l    = exp(a of l's view - f age_l)          views: clicked, missed in a slate with clicks, missed in one without
    h      = MLP(state, context, u, log(1 + |view|))                                                (B, H)
    odds_j = g (u . E_j - t) + 20 (W h . E_j + sum over v of c_v log(1 + times j is in v)) + b(h)    at the first slot

A miss beside a click says more of the item than one where nothing was clicked: a user who is bored clicks nothing.
All of g, t, s, rate, p, u_0, a, f, c, W, b, the MLP and E are learned, by log-loss of the clicks to come.

Source: skips beside clicks as evidence, Joachims et al. (2005), "Accurately interpreting clickthrough data as implicit
feedback"; learning through a few unrolled steps, Gregor and LeCun (2010), "Learning fast approximations of sparse
coding".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, gelu, normalize, one_hot, softplus

from agents.encoders import recent
from agents.networks import ItemScorer
from recgym.gathering import rows_at
from recgym.types import Observation

_GAIN = 20.0
"""Scale of the log-odds, so that steps of Adam reach those of sharp tastes."""
_VIEWS = 3
_STEPS = 8
"""Steps of the regression, T."""


class ClickModel(nn.Module):
    """Log-odds (B, N) of a click at the first slot; `slots` (K,) is what the slots below it add."""

    def __init__(self, scorer: ItemScorer, *, hidden: int) -> None:
        """Build it.

        Args:
            scorer: whose layout it reads, and whose item vectors (N, E) it starts from a copy of.
            hidden: units of the MLP, H.

        Raises:
            ValueError: the layout has no history, or brings candidates.
        """
        super().__init__()
        layout = scorer.layout
        if not layout.history or layout.candidate_width:
            raise ValueError(f"a model of clicks reads a history of a fixed catalogue; the layout is {layout}")
        self.layout, self.hidden = layout, hidden
        width = scorer.item_width
        self.items = nn.Parameter(scorer.items.detach().clone())  # (N, E)
        self.first = nn.Linear(layout.state_width + 1 + width + _VIEWS, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.outer, self.base = nn.Linear(hidden, width), nn.Linear(hidden, 1)
        for parameter in (*self.outer.parameters(), *self.base.parameters()):
            nn.init.zeros_(parameter)
        self.again = nn.Parameter(torch.zeros(_VIEWS))  # c
        self.slots = nn.Parameter(torch.zeros(layout.slate_size))  # s
        self.start = nn.Parameter(normalize(self.items.detach().mean(0), dim=0))  # u_0
        self.evidence = nn.Parameter(torch.tensor([0.0, 0.0, -2.0]))  # a
        self.fading = nn.Parameter(torch.tensor(-4.0))  # f = softplus
        self.slope = nn.Parameter(torch.tensor(_GAIN).log())  # log g
        self.threshold = nn.Parameter(torch.tensor(0.6))  # t
        self.rate = nn.Parameter(torch.zeros(_STEPS))  # log rate
        self.prior = nn.Parameter(torch.tensor(-0.7))  # log p

    def forward(self, observation: Observation, chosen: Tensor | None = None) -> Tensor:
        """Log-odds of all items (B, N), or of the `chosen` (B, K), numbered from 0."""
        assert observation.state is not None
        ids, views = self._views(observation)
        taste = self._taste(ids, views)
        state = observation.state[:, : self.layout.state_width]
        parts = (state, observation.context, taste, views.sum(2).log1p())
        hidden = gelu(self.second(gelu(self.first(torch.cat(parts, 1)))))
        query = self.slope.exp() * taste + _GAIN * self.outer(hidden)
        if chosen is None:
            match, past = query @ self.items.T, self._past(ids, views)
        else:
            match = (rows_at(self.items, chosen) @ query.unsqueeze(2))[..., 0]
            past = self._past_of(ids, views, chosen)
        odds: Tensor = match + _GAIN * past + self.base(hidden) - self.slope.exp() * self.threshold
        return odds

    def loss(self, observation: Observation, slates: Tensor, clicked: Tensor) -> Tensor:
        """Mean log-loss of what was clicked, (B, K) bool, of slates (B, K) of items from 0."""
        return binary_cross_entropy_with_logits(self(observation, slates) + self.slots, clicked.float())

    def _taste(self, ids: Tensor, views: Tensor) -> Tensor:
        """The weights u that explain the clicks, (B, E)."""
        batch, length = ids.shape
        shown = rows_at(self.items, (ids - 1).clamp_min(0))  # (B, L, E)
        place = torch.arange(length, device=ids.device).flip(0)
        slot, age = self.layout.slate_size - 1 - place % self.layout.slate_size, place // self.layout.slate_size
        weight = torch.einsum("bvl,v->bl", views, self.evidence.exp()) * (-softplus(self.fading) * age).exp()  # (B, L)
        scale = (10 + weight.sum(1, keepdim=True)).reciprocal()  # (B, 1)
        taste = self.start.expand(batch, -1)
        for rate in self.rate.exp():
            odds = self.slope.exp() * ((shown @ taste.unsqueeze(2))[..., 0] - self.threshold) + self.slots[slot]
            surprise = weight * (views[:, 0] - odds.sigmoid())
            pull = (surprise.unsqueeze(1) @ shown)[:, 0] - self.prior.exp() * (taste - self.start)
            taste = taste + rate * scale * pull
        return taste

    def _views(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Items of the history (B, L), and which belong to each view, (B, V, L) of zeros and ones."""
        ids, feedback = recent(observation, self.layout.history)
        clicked, size = (feedback > 0).any(2), self.layout.slate_size
        age = torch.arange(ids.shape[1], device=ids.device).flip(0) // size  # slates ago
        slates = one_hot(age).float()  # (L, S)
        beside = (clicked.float() @ slates @ slates.T) > 0  # (B, L)
        there = ids > 0
        return ids, torch.stack([clicked, ~clicked & beside, ~clicked & ~beside & there], 1).float()

    def _past(self, ids: Tensor, views: Tensor) -> Tensor:
        """What an item's own past adds, (B, N)."""
        found = torch.zeros(len(ids), _VIEWS, self.layout.num_items + 1, device=ids.device)
        found = found.scatter_add(2, ids.unsqueeze(1).expand(-1, _VIEWS, -1), views)[..., 1:]
        return torch.einsum("v,bvn->bn", self.again, found.log1p())

    def _past_of(self, ids: Tensor, views: Tensor, chosen: Tensor) -> Tensor:
        """The same for the `chosen`, (B, K)."""
        same = (ids.unsqueeze(1) == chosen.unsqueeze(2) + 1).float()  # (B, K, L)
        return torch.einsum("v,bvk->bk", self.again, torch.einsum("bvl,bkl->bvk", views, same).log1p())
