"""The policy that every trained agent ends as: an item scorer and a rule of choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from agents.choice import explore, greedy_probabilities, sample_items, softmax_probabilities, top_items
from agents.choice import uniform_probabilities as uniform
from agents.networks import ItemScorer
from recgym.random import fold
from recgym.types import Observation, Reads

Choice = Literal["greedy", "softmax"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoringPolicy:
    """Shows the best items, or samples from softmax(scores / temperature); explores with chance epsilon."""

    scorer: ItemScorer
    name: str = "scoring"
    """Registered name of the agent that trained it."""
    choice: Choice = "greedy"
    temperature: float = 1.0
    """Divides the scores of choice "softmax"."""
    epsilon: float = 0.0
    """Chance of a slate drawn uniformly from the allowed items instead."""
    slate_size: int = 1

    @property
    def reads(self) -> Reads:
        """State, or everything where the scorer reads the history too."""
        return self.scorer.layout.reads

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.choice not in ("greedy", "softmax"):
            raise ValueError(f"choice is {self.choice!r}, expected 'greedy' or 'softmax'")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, expected a positive number")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon is {self.epsilon}, expected a chance in [0, 1]")
        if not 1 <= self.slate_size <= self.num_items:
            raise ValueError(f"slate_size is {self.slate_size}, expected 1 to {self.num_items} items")

    @property
    def sizes(self) -> dict[str, int]:
        """What it reads; see `recgym.policy.check_fits`."""
        return self.scorer.layout.sizes

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return self.scorer.num_items

    def scores(self, observation: Observation) -> Tensor:
        """Scores of every item, (B, N)."""
        with torch.no_grad():
            scores: Tensor = self.scorer(observation)
        return scores

    def probabilities(self, observation: Observation) -> Tensor:
        """Chance of each item at slot 0, (B, N)."""
        scores, mask = self.scores(observation), observation.mask
        if self.choice == "greedy":
            chosen = greedy_probabilities(scores, mask)
        else:
            chosen = softmax_probabilities(scores / self.temperature, mask)
        return (1 - self.epsilon) * chosen + self.epsilon * uniform(scores, mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        """A slate, (B, K) item ids; `keys` (B,)."""
        scores, mask = self.scores(observation), observation.mask
        if self.choice == "greedy":
            slate = top_items(scores, mask, self.slate_size)
        else:
            slate = sample_items(scores / self.temperature, mask, self.slate_size, keys)
        if self.epsilon:
            anything = sample_items(torch.zeros_like(scores), mask, self.slate_size, fold(keys, 0))
            slate = explore(slate, anything, self.epsilon, keys)
        return slate

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {
            "name": self.name,
            "choice": self.choice,
            "temperature": self.temperature,
            "epsilon": self.epsilon,
            "slate_size": self.slate_size,
            "scorer": self.scorer.config(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """The scorer's weights."""
        return dict(self.scorer.state_dict())

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> ScoringPolicy:
        """The policy whose `config` and `tensors` these are."""
        rest = {name: value for name, value in config.items() if name != "scorer"}
        return cls(scorer=ItemScorer.restore(config["scorer"], tensors), **rest)
