"""An investor in a market whose mood is hidden: what sells today is what clients leave over tomorrow.

The market is calm, bull or stressed, a hidden Markov chain z of each session. An instrument j has a sector, a risk
r ~ U(0, 1) and a yield y = 1.5 + 5 r + Normal(0, .7) percent. An investor has a taste for each sector ~ Normal(0, .7),
a risk appetite a ~ U(.2, .8), a log wealth ~ Normal(0, .5), trust t (0 at first, between -3 and .5), and an exposure e,
the risk that is held. (x)+ is the larger of x and 0.

    P(click)    = sig(-1.5 + taste[sector] + tilt[z, sector] + .1 y - 3 (r - a - shift[z])+ + .5 t)
    P(invest)   = sig(-1.5 + .05 y - 3 (r - a - shift[z])+ + .7 t), given a click
    amount      = exp(log wealth + .5 t + .3 Normal) thousand euros, given an investment; the reward
    market      return m = mean[z] + sd[z] Normal percent per unit of risk: (.3, .8, -3) and (.5, .7, 1.5)
    exposure    e' = .9 e + r [invested]
    trust       t' = .98 t + .15 w for a gain w = e m / 2 > 0, 2.25 times as much for a loss: losses loom larger
    P(leave)    = sig(-6 - 2 t')

Risky instruments yield more, are clicked and bought more by those who dare, and so pay the platform now; exposure stays
for about ten steps, and when the market turns, its losses take the trust, the next investments and the client. The
platform sees the market's returns and the feedback, not the regime, the appetite or the trust.

The formulas are this project's own. Source of its parts: Hamilton (1989), "A new approach to the economic analysis of
nonstationary time series and the business cycle" (regimes); Tversky and Kahneman (1992), "Advances in prospect theory"
(losses weigh 2.25 times as much as gains).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recgym.random import fold, normal, session_keys, uniform, uniform_at
from recgym.settings import check_numbers
from recgym.types import FeedbackKind, Response, Visible
from recgym.users import history as ring
from recgym.users.history import History

_USER, _STEPS, _NOISE = 0, 1, 2
"""Streams of a session's key."""
REGIMES = ("calm", "bull", "stressed")
SECTORS = ("bonds", "banks", "energy", "health", "technology", "property")
CLICK, INVEST, AMOUNT = 0, 1, 2
"""Columns of the feedback."""
_TILT = ((0.2, 0.0, 0.0, 0.2, 0.0, 0.1), (-0.4, 0.2, 0.1, 0.0, 0.6, 0.3), (0.8, -0.5, 0.0, 0.4, -0.6, -0.4))
"""What each regime adds to the taste for each sector."""
_SHIFT = (0.0, 0.3, -0.2)
"""What each regime adds to risk appetite."""
_MEAN, _SPREAD = (0.3, 0.8, -3.0), (0.5, 0.7, 1.5)
"""Return of each regime, percent a step per unit of risk."""
_LEAST_TRUST = -3.0


@dataclass(frozen=True, kw_only=True)
class InvestorConfig:
    """The world of clients who do leave."""

    num_items: int = 60
    """Instruments, N."""
    persistence: tuple[float, float, float] = (0.95, 0.94, 0.9)
    """P(the regime stays), calm, bull and stressed; else it turns to either other one, evenly."""
    taste_spread: float = 0.7
    """Standard deviation of the taste for a sector."""
    exposure_decay: float = 0.9
    """Share of exposure that survives a step."""
    trust_decay: float = 0.98
    """Share of trust that survives a step."""
    trust_gain: float = 0.15
    """Trust won by a gain of one percent on two units of risk."""
    loss_aversion: float = 2.25
    """A loss weighs as much as this many gains."""
    trust_most: float = 0.5
    """Trust that no gain exceeds, above the least, which is -3."""
    leave: float = -6.0
    """Log-odds of leaving at trust 0."""
    leave_trust: float = 2.0
    """What a unit of trust takes off them."""
    length: int = 20
    """Instruments shown that `history` keeps, L; 0: none."""
    seed: int = 0
    """Seed of the instruments."""

    def __post_init__(self) -> None:
        """Refuse sizes and shares that make no world."""
        check_numbers(self)
        for name, least in (("num_items", 1), ("length", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"InvestorConfig.{name} is {getattr(self, name)}, expected at least {least}")
        for name in ("taste_spread", "trust_gain", "loss_aversion", "leave_trust"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"InvestorConfig.{name} is {getattr(self, name)}, expected at least 0")
        if not all(0 <= share < 1 for share in self.persistence):
            raise ValueError(f"InvestorConfig.persistence is {self.persistence}, expected three chances, 0 to below 1")
        if not self.trust_most > _LEAST_TRUST:
            raise ValueError(f"InvestorConfig.trust_most is {self.trust_most}, expected above {_LEAST_TRUST:g}")
        for name in ("exposure_decay", "trust_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"InvestorConfig.{name} is {getattr(self, name)}, expected 0 <= share < 1")


SETTINGS = {
    "investor": InvestorConfig(),
    "investor-indifferent": InvestorConfig(trust_gain=0.0),
}
"""The world, and one whose clients neither gain nor lose trust, in which greed is right: the contrast."""


class InvestorState(NamedTuple):
    """B sessions. Only `last` and `history` are visible."""

    keys: Tensor  # (B,) int64 session keys
    depth: Tensor  # (B,) int64 slates met
    taste: Tensor  # (B, 6) float32, by sector
    appetite: Tensor  # (B,) float32: risk that costs nothing, before the regime's shift
    wealth: Tensor  # (B,) float32: log of a usual amount, thousand euros
    regime: Tensor  # (B,) int64, index in REGIMES
    exposure: Tensor  # (B,) float32
    trust: Tensor  # (B,) float32
    last: Tensor  # (B, 4) float32: clicks, investments, log(1 + amount) of the last slate, and the market's return
    history: History


class Investor:
    """The population of investors, as `recgym.users.model.UserModel` asks; at most one investment a slate."""

    kinds = (
        FeedbackKind(name="click"),
        FeedbackKind(name="invest", given="click"),
        FeedbackKind(name="amount", type="real", given="invest", unit="thousand euros"),
    )

    def __init__(self, config: InvestorConfig | None = None, *, device: torch.device | str = "cpu") -> None:
        """Draw the instruments."""
        self.config = config or InvestorConfig()
        self.device, self.num_items = torch.device(device), self.config.num_items
        key = session_keys(self.config.seed, 1, device=self.device)
        self.sector = (uniform(fold(key, 0), self.num_items)[0] * len(SECTORS)).to(torch.int64)  # (N,)
        self.risk = uniform(fold(key, 1), self.num_items)[0]  # (N,)
        self.rate = (1.5 + 5 * self.risk + 0.7 * normal(fold(key, 2), self.num_items)[0]).clamp(min=0)  # (N,) yield
        self.item_categories = [SECTORS[int(sector)] for sector in self.sector]
        self.item_titles = [
            f"{name}, yield {rate:.1f}%, risk {risk:.2f}"
            for name, rate, risk in zip(self.item_categories, self.rate.tolist(), self.risk.tolist(), strict=True)
        ]
        self._tilt = torch.tensor(_TILT, device=self.device)  # (Z, 6)
        self._shift = torch.tensor(_SHIFT, device=self.device)  # (Z,)
        self._mean, self._spread = (torch.tensor(part, device=self.device) for part in (_MEAN, _SPREAD))
        stay = torch.tensor(self.config.persistence, device=self.device)
        self.transition = torch.diag(stay) + (1 - stay).unsqueeze(1) / 2 * (1 - torch.eye(3, device=self.device))
        self._turns = self.transition.cumsum(1)  # (Z, Z)
        share = 1 / (1 - stay)
        self.stationary = share / share.sum()  # (Z,): where it turns evenly, the time spent is as long as the stays

    def reset(self, keys: Tensor) -> InvestorState:
        """Start one session per key (B,), in any phase of the market."""
        keys = keys.to(self.device)
        batch, key = len(keys), fold(keys, _USER)
        taste = self.config.taste_spread * normal(fold(key, 0), len(SECTORS))
        draws = uniform(fold(key, 1), 2)
        wealth = 0.5 * normal(fold(key, 2), 1)[:, 0]
        regime = (draws[:, 1:] >= self.stationary.cumsum(0)[:2]).sum(1)
        nothing = torch.zeros(batch, device=self.device)
        return InvestorState(
            keys=keys,
            depth=torch.zeros_like(keys),
            taste=taste,
            appetite=0.2 + 0.6 * draws[:, 0],
            wealth=wealth,
            regime=regime,
            exposure=nothing,
            trust=nothing.clone(),
            last=torch.zeros(batch, 4, device=self.device),
            history=ring.empty(batch, self.config.length, len(self.kinds), device=self.device),
        )

    def step(self, state: InvestorState, slates: Tensor) -> tuple[InvestorState, Response]:
        """React to `slates` (B, K) of instruments 1..N, then let the market move."""
        config, (batch, slots), index = self.config, slates.shape, slates - 1
        draws = uniform_at(fold(state.keys, _STEPS), state.depth, 2 + 2 * slots)
        noise = normal(fold(fold(state.keys, _NOISE), state.depth), 2)
        click, invest = self._chances(state, index)
        clicked = draws[:, 2 : 2 + slots] < click  # (B, K)
        would = clicked & (draws[:, 2 + slots :] < invest)
        invested = would & (would.cumsum(1) == 1)  # the first one that convinces
        amount = invested * torch.exp(state.wealth + 0.5 * state.trust + 0.3 * noise[:, 0]).unsqueeze(1)
        feedback = torch.stack([clicked.to(torch.float32), invested.to(torch.float32), amount], 2)

        regime = (draws[:, :1] >= self._turns[state.regime][:, :2]).sum(1)
        market = self._mean[regime] + self._spread[regime] * noise[:, 1]  # (B,)
        exposure = config.exposure_decay * state.exposure + (invested * self.risk[index]).sum(1)
        outcome = exposure * market / 2
        felt = torch.where(outcome < 0, config.loss_aversion * outcome, outcome)
        trust = (config.trust_decay * state.trust + config.trust_gain * felt).clamp(_LEAST_TRUST, config.trust_most)
        leaves = draws[:, 1] < torch.sigmoid(config.leave - config.leave_trust * trust)
        ring.push_slate(state.history, slates, feedback)
        seen = feedback.sum(1)  # (B, F)
        last = torch.cat([seen[:, :AMOUNT], seen[:, AMOUNT:].log1p(), market.unsqueeze(1)], 1)
        new = state._replace(depth=state.depth + 1, regime=regime, exposure=exposure, trust=trust, last=last)
        return new, Response(feedback, leaves, torch.full((batch,), torch.nan, device=self.device))

    def visible(self, state: InvestorState) -> Visible:
        """Clicks, investments and log(1 + amount) of the last slate, and the market's last return, (B, 4)."""
        return Visible(state.last)

    def history(self, state: InvestorState) -> tuple[Tensor, Tensor]:
        """Instruments (B, L) and feedback (B, L, F), most recent last, 0 pads on the left."""
        return ring.ordered(state.history)

    def truth(self, state: InvestorState) -> dict[str, Tensor]:
        """`regime`, `trust`, `exposure`, `appetite` (B,); `click` and `invest` (given a click) (B, N)."""
        every = torch.arange(self.num_items, device=self.device).expand(len(state.keys), -1)
        click, invest = self._chances(state, every)
        return {
            "regime": state.regime,
            "trust": state.trust,
            "exposure": state.exposure,
            "appetite": state.appetite,
            "click": click,
            "invest": invest,
        }

    def bands(self, price: float = 1.5) -> dict[str, Callable[[InvestorState], Tensor]]:
        """Scorers of every instrument, (B, N): chance to sell now, the same up to a risk of .3, and sales less risk.

        The last one knows the regime and so how many stressed steps lie ahead of what is sold now.

        Args:
            price: of one unit of risk held through one stressed step, in sales.
        """
        chain = torch.linalg.inv(torch.eye(3, device=self.device) - self.config.exposure_decay * self.transition)
        ahead = (self.transition @ chain)[:, 2]  # (Z,) stressed steps that a unit of exposure meets, discounted
        price = price if self.config.trust_gain else 0.0

        def sale(state: InvestorState) -> Tensor:
            truth = self.truth(state)
            return truth["click"] * truth["invest"]

        def planned(state: InvestorState) -> Tensor:
            worth: Tensor = sale(state) * (1 - price * ahead[state.regime].unsqueeze(1) * self.risk)
            return worth

        return {
            "myopic": sale,
            "rule": lambda state: sale(state) - (self.risk > 0.3).to(torch.float32),
            "best known": planned,
        }

    def _chances(self, state: InvestorState, index: Tensor) -> tuple[Tensor, Tensor]:
        """P(click) and P(invest | click) of instruments `index` (B, K), 0..N-1."""
        sector, rate = self.sector[index], self.rate[index]
        taste = (state.taste + self._tilt[state.regime]).gather(1, sector)
        bold = (state.appetite + self._shift[state.regime]).unsqueeze(1)
        fear = 3 * (self.risk[index] - bold).clamp(min=0)
        trust = state.trust.unsqueeze(1)
        click = torch.sigmoid(-1.5 + taste + 0.1 * rate - fear + 0.5 * trust)
        return click, torch.sigmoid(-1.5 + 0.05 * rate - fear + 0.7 * trust)
