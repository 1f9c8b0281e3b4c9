"""Mixtures of policies: each session follows one of them at each step, by chance. What A/B tests and exploration do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.choice import sample_items, softmax_probabilities
from recgym.random import fold, uniform
from recgym.types import Observation, Policy, Reads


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """At each step policy m with chance `shares[m]`, chosen anew: P(item) = sum over m of share_m P_m(item).

    All of them get the observation that the first one reads.
    """

    policies: tuple[Policy, ...]
    shares: tuple[float, ...]
    name: str = "mixture"

    @property
    def reads(self) -> Reads:
        """What the first policy reads."""
        return self.policies[0].reads

    def __post_init__(self) -> None:
        """Check that the shares are chances and that there is one for each policy."""
        if len(self.policies) != len(self.shares) or min(self.shares, default=-1.0) < 0:
            raise ValueError(f"{len(self.policies)} policies with shares {self.shares}: expected one each, at least 0")
        if abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares {self.shares} sum to {sum(self.shares):g}, expected 1")

    def scores(self, observation: Observation) -> Tensor:
        """The chances: they rank items, (B, N)."""
        return self.probabilities(observation)

    def probabilities(self, observation: Observation) -> Tensor:
        """The mixed chances, (B, N)."""
        parts = zip(self.policies, self.shares, strict=True)
        return torch.stack([share * policy.probabilities(observation) for policy, share in parts]).sum(0)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        """A slate of the policy that the draw falls on, (B, K)."""
        draw = uniform(fold(keys, 0), 1)[:, 0]  # (B,)
        reach = torch.tensor(self.shares, device=draw.device).cumsum(0)[:-1]
        chosen = torch.searchsorted(reach, draw, right=True)  # (B,) 0..M-1
        slates = torch.stack([policy.act(observation, fold(keys, 1)) for policy in self.policies])  # (M, B, K)
        return slates[chosen, torch.arange(len(draw), device=draw.device)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Softened:
    """Any policy's scores as a softmax: P(item) ~ exp(score / (temperature * their spread over items))."""

    policy: Policy
    temperature: float
    slate_size: int = 1
    name: str = "softened"

    def __post_init__(self) -> None:
        """Check the temperature."""
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, expected more than 0")

    @property
    def reads(self) -> Reads:
        """What the policy reads."""
        return self.policy.reads

    def scores(self, observation: Observation) -> Tensor:
        """Standardised over items and divided by the temperature, (B, N)."""
        scores = self.policy.scores(observation)
        return scores / (scores.std(1, keepdim=True).clamp_min(1e-6) * self.temperature)

    def probabilities(self, observation: Observation) -> Tensor:
        """Softmax over the allowed items, (B, N)."""
        return softmax_probabilities(self.scores(observation), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        """K different items, slot 0 by those chances, (B, K)."""
        return sample_items(self.scores(observation), observation.mask, self.slate_size, keys)
