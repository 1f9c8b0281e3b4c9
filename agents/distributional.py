"""What a return's distribution is worth, and the policy that C51 and QR-DQN end as.

    atoms        p = softmax(o + g mean(o) (z - m) / var z)     chances of Z fixed returns z, m their middle
                 Q = sum_i z_i p_i
    quantiles    CVaR_alpha = 1/alpha int_0^alpha F^-1(u) du    Z returns of chance 1/Z each; alpha = 1 is the mean

o are the network's Z outputs for an item. A constant added to all of them would be lost in the softmax of the paper;
here it tilts the chances towards high returns, which is this project's: so a head that starts with equal outputs, the
backbone's score of the item, ranks as the backbone does.

Source: Bellemare, Dabney, Munos (2017), "A distributional perspective on reinforcement learning", section 4; Dabney et
al. (2018), "Distributional reinforcement learning with quantile regression"; Rockafellar, Uryasev (2000),
"Optimization of conditional value-at-risk".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.choice import allow, greedy_probabilities, top_items
from agents.networks import ItemScorer
from recgym.types import Observation, Reads


@dataclass(frozen=True, kw_only=True)
class Atoms:
    """Outputs as chances of fixed returns."""

    num: int
    """Atoms, Z."""
    v_min: float
    """Lowest return."""
    v_max: float
    """Highest return."""
    gain: float = 1.0
    """Return that a mean output of 1 adds to the value, about, where the outputs are equal; g."""

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.num < 2:
            raise ValueError(f"num is {self.num}, expected at least 2 atoms")
        if not self.v_min < self.v_max:
            raise ValueError(f"v_min is {self.v_min} and v_max {self.v_max}: expected v_min < v_max")

    @property
    def spacing(self) -> float:
        """Return from one atom to the next."""
        return (self.v_max - self.v_min) / (self.num - 1)

    def returns(self, like: Tensor) -> Tensor:
        """The atoms z, (Z,), where `like` lies."""
        return torch.linspace(self.v_min, self.v_max, self.num, dtype=like.dtype, device=like.device)

    def log_chances(self, outputs: Tensor) -> Tensor:
        """Logarithms of the atoms' chances: (..., Z) -> (..., Z)."""
        centred = self.returns(outputs) - (self.v_min + self.v_max) / 2
        tilt = self.gain * centred / centred.square().mean()
        return torch.log_softmax(outputs + outputs.mean(-1, keepdim=True) * tilt, -1)

    def value(self, outputs: Tensor) -> Tensor:
        """Expected returns Q: (..., Z) -> (...)."""
        return self.log_chances(outputs).exp() @ self.returns(outputs)


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Outputs as returns of equal chance, in any order."""

    num: int
    """Quantiles, Z."""
    level: float = 1.0
    """Chance of the low returns that count, alpha: their mean is the value; 1 is the mean of all."""

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.num < 2:
            raise ValueError(f"num is {self.num}, expected at least 2 quantiles")
        if not 0 < self.level <= 1:
            raise ValueError(f"level is {self.level}, expected a chance in (0, 1]")

    def value(self, outputs: Tensor) -> Tensor:
        """Conditional value at risk: (..., Z) -> (...)."""
        if self.level == 1:
            return outputs.mean(-1)
        edges = torch.linspace(0, 1, self.num + 1, dtype=outputs.dtype, device=outputs.device)
        weight = edges.clamp_max(self.level).diff() / self.level  # (Z,) how much of each lies below alpha
        return outputs.sort(-1).values @ weight


Reading = Atoms | Quantiles
_KINDS: dict[str, type[Atoms] | type[Quantiles]] = {"atoms": Atoms, "quantiles": Quantiles}


def best_items(values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The allowed item that `values` (n, N) hold best, from 0, (n, 1), and whether one is allowed at all, (n,) bool."""
    best = allow(values, mask).argmax(1, keepdim=True)
    return best, torch.ones_like(best[:, 0], dtype=torch.bool) if mask is None else mask.any(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class DistributionalPolicy:
    """Shows the items whose returns are worth most."""

    scorer: ItemScorer
    reading: Reading
    """How the scorer's outputs describe a return, and what that is worth."""
    name: str
    """Registered name of the agent that trained it."""
    slate_size: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.scorer.outputs != self.reading.num:
            raise ValueError(f"the scorer has {self.scorer.outputs} outputs an item, expected {self.reading.num}")
        if not 1 <= self.slate_size <= self.num_items:
            raise ValueError(f"slate_size is {self.slate_size}, expected 1 to {self.num_items} items")

    @property
    def reads(self) -> Reads:
        """State, or everything where the scorer reads the history too."""
        return self.scorer.layout.reads

    @property
    def sizes(self) -> dict[str, int]:
        """What it reads; see `recgym.policy.check_fits`."""
        return self.scorer.layout.sizes

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return self.scorer.num_items

    def scores(self, observation: Observation) -> Tensor:
        """What every item's return is worth, (B, N)."""
        with torch.no_grad():
            return self.reading.value(self.scorer(observation))

    def probabilities(self, observation: Observation) -> Tensor:
        """One at the best allowed item, (B, N)."""
        return greedy_probabilities(self.scores(observation), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:  # noqa: ARG002 (nothing is drawn)
        """The best allowed items, (B, K) ids."""
        return top_items(self.scores(observation), observation.mask, self.slate_size)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        kind = next(kind for kind, made in _KINDS.items() if isinstance(self.reading, made))
        return {
            "name": self.name,
            "slate_size": self.slate_size,
            "reading": {"kind": kind, **dataclasses.asdict(self.reading)},
            "scorer": self.scorer.config(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """The scorer's weights."""
        return dict(self.scorer.state_dict())

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> DistributionalPolicy:
        """The policy whose `config` and `tensors` these are."""
        fields = dict(config["reading"])
        reading = _KINDS[fields.pop("kind")](**fields)
        scorer = ItemScorer.restore(config["scorer"], tensors)
        return cls(scorer=scorer, reading=reading, name=config["name"], slate_size=config["slate_size"])
