"""RecSim's long-term satisfaction: clickbait engages now and wears the user out; kale does the opposite.

A document is clickbait to a degree c in [0, 1], visible. The user consumes what is shown first, and carries a hidden
net positive exposure x, x0 ~ U(-.5, .5) / (1 - .7); satisfaction is sigmoid(s x), s the sensitivity.

    engagement  log e ~ Normal((5 c + 4 (1 - c)) satisfaction, 1), the reward
    exposure    x' = .7 x - 2 (c - .5) + Normal(0, .05)
    session     60 documents, then the user leaves

Clickbait only wins where 5 sigmoid(-3.33 s) > 4 sigmoid(3.33 s), that is s < .067: there, as at the published default
s = .01, greed is right and there is nothing to plan. "long-term-satisfaction-repaired" has s = .2.

Source: Ie et al. (2019), "RecSim: a configurable simulation platform for recommender systems", section 5.1, and the
published code's `long_term_satisfaction` (the sign of the exposure follows the code; its docstring has the other).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recgym.random import fold, normal, session_keys, uniform
from recgym.settings import check_numbers
from recgym.types import FeedbackKind, Response, Visible
from recgym.users import history as ring

_USER, _DOCUMENTS, _STEPS = 0, 1, 2
"""Streams of a session's key."""


@dataclass(frozen=True, kw_only=True)
class LongTermSatisfactionConfig:
    """The published world; engagement has the unit that the platform gives it, such as seconds."""

    num_candidates: int = 10
    """Documents to choose from, N."""
    resample: bool = True
    """New documents every step; False: one fixed catalogue, drawn from `seed`."""
    seed: int = 0
    """Seed of the fixed catalogue."""
    sensitivity: float = 0.01
    """How strongly satisfaction follows exposure, s."""
    memory: float = 0.7
    """Share of exposure that survives one document."""
    kale: float = 4.0
    """Mean log engagement of a document without clickbait, at full satisfaction."""
    clickbait: float = 5.0
    """And of pure clickbait."""
    engagement_spread: float = 1.0
    """Standard deviation of the log engagement."""
    exposure_gain: float = 2.0
    """Exposure between clickbait .5 and 0 is half of this."""
    exposure_spread: float = 0.05
    """Standard deviation of a step of exposure."""
    session_length: int = 60
    """Documents after which the user leaves."""

    def __post_init__(self) -> None:
        """Refuse sizes and shares that make no world."""
        check_numbers(self)
        for name in ("num_candidates", "session_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"LongTermSatisfactionConfig.{name} is {getattr(self, name)}, expected at least 1")
        for name in ("sensitivity", "engagement_spread", "exposure_spread"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"LongTermSatisfactionConfig.{name} is {getattr(self, name)}, expected at least 0")
        if not 0 <= self.memory < 1:
            raise ValueError(f"LongTermSatisfactionConfig.memory is {self.memory}, expected 0 <= share < 1")


SETTINGS = {
    "long-term-satisfaction": LongTermSatisfactionConfig(),
    "long-term-satisfaction-repaired": LongTermSatisfactionConfig(sensitivity=0.2),
}
"""The published world, whose trade-off is not there, and the same with a sensitivity that makes one."""


class SatisfactionState(NamedTuple):
    """B sessions. `exposure` is hidden."""

    keys: Tensor  # (B,) int64 session keys
    depth: Tensor  # (B,) int64 documents consumed
    exposure: Tensor  # (B,) float32: net positive exposure
    last: Tensor  # (B, 2) float32: clickbait and log(1 + engagement) of the last document
    clickbait: Tensor | None  # (B, N) float32 of this step's candidates; None where the catalogue is fixed


class LongTermSatisfaction:
    """The population of users, as `recgym.users.model.UserModel` asks; only slot 0 of a slate is consumed."""

    kinds = (FeedbackKind(name="engagement", type="real"),)

    def __init__(self, config: LongTermSatisfactionConfig | None = None, *, device: torch.device | str = "cpu") -> None:
        """Draw the catalogue, where it is fixed."""
        self.config = config or LongTermSatisfactionConfig()
        self.device, self.num_items = torch.device(device), self.config.num_candidates
        catalogue = session_keys(self.config.seed, 1, device=self.device)
        self._no_gap = torch.tensor(torch.nan, device=self.device)
        self.clickbait = uniform(fold(catalogue, _DOCUMENTS), self.num_items)[0]  # (N,) of the fixed catalogue

    def reset(self, keys: Tensor) -> SatisfactionState:
        """Start one session per key (B,)."""
        keys = keys.to(self.device)
        exposure = (uniform(fold(keys, _USER), 1)[:, 0] - 0.5) / (1 - self.config.memory)
        last = torch.zeros(len(keys), 2, device=self.device)
        return SatisfactionState(keys, torch.zeros_like(keys), exposure, last, self._documents(keys, 0))

    def step(self, state: SatisfactionState, slates: Tensor) -> tuple[SatisfactionState, Response]:
        """Consume the first of `slates` (B, K) of candidates 1..N."""
        config, first = self.config, slates[:, :1] - 1  # (B, 1)
        bait = self.clickbait[first[:, 0]] if state.clickbait is None else state.clickbait.gather(1, first)[:, 0]
        depth = state.depth + 1
        noise = normal(fold(fold(state.keys, _STEPS), depth), 2)  # (B, 2)
        log_mean = (config.clickbait * bait + config.kale * (1 - bait)) * self._satisfaction(state)
        engagement = torch.exp(log_mean + config.engagement_spread * noise[:, 0])  # (B,)
        exposure = (
            config.memory * state.exposure - config.exposure_gain * (bait - 0.5) + config.exposure_spread * noise[:, 1]
        )
        feedback = torch.zeros(*slates.shape, 1, device=self.device)
        feedback[:, 0, 0] = engagement
        last = torch.stack([bait, engagement.log1p()], 1)
        leaves = depth >= config.session_length
        fresh = self._documents(state.keys, depth)
        new = SatisfactionState(state.keys, depth, exposure, last, fresh)
        return new, Response(feedback, leaves, self._no_gap.expand(len(leaves)))

    def visible(self, state: SatisfactionState) -> Visible:
        """Clickbait and log(1 + engagement) of the last document (B, 2); clickbait of each candidate (B, N, 1)."""
        return Visible(state.last, None if state.clickbait is None else state.clickbait.unsqueeze(2))

    def history(self, state: SatisfactionState) -> tuple[Tensor, Tensor]:
        """Nothing, (B, 0) and (B, 0, F)."""
        return ring.ordered(ring.empty(len(state.keys), 0, len(self.kinds), device=self.device))

    def truth(self, state: SatisfactionState) -> dict[str, Tensor]:
        """`exposure` and `satisfaction` (B,); `clickbait` (B, N) of the candidates."""
        bait = self.clickbait.expand(len(state.keys), -1) if state.clickbait is None else state.clickbait
        return {"exposure": state.exposure, "satisfaction": self._satisfaction(state), "clickbait": bait}

    def bands(self) -> dict[str, Callable[[SatisfactionState], Tensor]]:
        """Scorers of every candidate, (B, N): most clickbait, least clickbait, and least until the session ends.

        Where clickbait wins in the long run too, the best known shows it all along: the steady exposure is
        -+ gain / (2 (1 - memory)) for clickbait 1 and 0.
        """
        config = self.config
        steady = torch.tensor(config.sensitivity * config.exposure_gain / 2 / (1 - config.memory))
        bait_wins = bool(config.clickbait * torch.sigmoid(-steady) > config.kale * torch.sigmoid(steady))

        def harvest(state: SatisfactionState) -> Tensor:
            """Least clickbait, but most of it in the last document, when nothing is left to lose."""
            last = (state.depth >= config.session_length - 1).unsqueeze(1) | bait_wins
            bait = self.truth(state)["clickbait"]
            return torch.where(last, bait, -bait)

        return {
            "myopic": lambda state: self.truth(state)["clickbait"],
            "rule": lambda state: -self.truth(state)["clickbait"],
            "best known": harvest,
        }

    def _satisfaction(self, state: SatisfactionState) -> Tensor:
        return torch.sigmoid(self.config.sensitivity * state.exposure)

    def _documents(self, keys: Tensor, depth: Tensor | int) -> Tensor | None:
        """Clickbait (B, N) of fresh documents, or None where the catalogue is fixed."""
        if not self.config.resample:
            return None
        return uniform(fold(fold(keys, _DOCUMENTS), depth), self.num_items)
