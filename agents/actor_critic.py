"""The actor-critic that A2C, PPO and TRPO share: an item scorer for the logits, a network of its own for the value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from agents.choice import allow
from agents.layout import Layout
from agents.networks import Critic, ItemScorer
from agents.task import Task


class Slates(Distribution):
    """Plackett-Luce over ordered slates: slot by slot, softmax over the items that are left.

    log P(a_1 .. a_K) = sum over k of l_k - log(1 - sum over j < k of exp(l_j)), l = log softmax(logits)

    With one slot it is the categorical distribution.

    Source: Plackett (1975), "The analysis of permutations"; sampling by Gumbel top-K: Kool et al. (2019), section 2.
    """

    def __init__(self, slate_size: int) -> None:
        """Slates of K items."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.slate_size = slate_size

    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> Any:
        """Not used: the scorer makes the logits."""
        raise NotImplementedError("the logits come from an item scorer")

    def proba_distribution(self, logits: Tensor) -> Self:
        """Take logits (B, N), -inf where an item is forbidden."""
        self.log_chance = torch.log_softmax(logits, 1)  # (B, N)
        return self

    def sample(self) -> Tensor:
        """Item numbers from 0, (B,), or (B, K) for slates."""
        uniform = torch.rand_like(self.log_chance).clamp_(1e-20, 1 - 6e-8)
        return self._first(self.log_chance - torch.log(-torch.log(uniform)))

    def mode(self) -> Tensor:
        """The items of the largest logits, (B,) or (B, K)."""
        return self._first(self.log_chance)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability of each slate, (B,)."""
        taken = self.log_chance.gather(1, actions.long().view(len(self.log_chance), -1))  # (B, K)
        if self.slate_size == 1:
            return taken[:, 0]
        before = taken.double().exp().cumsum(1) - taken.double().exp()  # (B, K) mass of the slots before
        return (taken - torch.log1p(-before.clamp(0, 1 - 1e-6)).float()).sum(1)

    def entropy(self) -> Tensor:
        """Entropy of the first slot, (B,): that of whole slates has no closed form."""
        chance = self.log_chance.exp()
        return -(chance * self.log_chance.clamp_min(torch.finfo(chance.dtype).min)).sum(1)

    def actions_from_params(self, logits: Tensor, deterministic: bool = False) -> Tensor:
        """Items for `logits`."""
        return self.proba_distribution(logits).get_actions(deterministic=deterministic)

    def log_prob_from_params(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Sampled items and their log-probabilities."""
        actions = self.actions_from_params(logits)
        return actions, self.log_prob(actions)

    def _first(self, scores: Tensor) -> Tensor:
        return scores.argmax(1) if self.slate_size == 1 else scores.topk(self.slate_size, 1).indices


class ItemActorCritic(ActorCriticPolicy):
    """pi(. | o) = Plackett-Luce of an `ItemScorer`'s scores of the allowed items; V(o) a `Critic`, apart from it."""

    def __init__(
        self,
        *args: Any,
        layout: Layout,
        make_scorer: Callable[[], ItemScorer],
        make_critic: Callable[[], Critic],
        **kwargs: Any,
    ) -> None:
        """Build from SB3's arguments, the layout of a row, and makers of the networks."""
        self._layout, self._make_scorer, self._make_critic = layout, make_scorer, make_critic
        super().__init__(*args, **{**kwargs, "net_arch": []})

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        self.scorer, self.critic = self._make_scorer(), self._make_critic()
        self.action_dist = Slates(self._layout.slate_size)
        self.optimizer = self.optimizer_class(self.parameters(), **{"lr": lr_schedule(1), **self.optimizer_kwargs})

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B,) or (B, K), values (B, 1) and log-probabilities (B,)."""
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log-probabilities of `actions` (B,) and entropies (B,)."""
        distribution = self.get_distribution(obs)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any) -> Slates:
        """pi(. | o) of rows (B, W)."""
        observation = self._layout.unpack(obs)
        return Slates(self._layout.slate_size).proba_distribution(allow(self.scorer(observation), observation.mask))

    def predict_values(self, obs: Any) -> Tensor:
        """V(o), (B, 1)."""
        values: Tensor = self.critic(self._layout.unpack(obs))
        return values.unsqueeze(1)


def networks(task: Task, *, hidden: int, temperature: float) -> dict[str, Any]:
    """SB3's `policy_kwargs`: actors that start as softmax(backbone scores / temperature), and critics."""
    return {
        "layout": task.layout(),
        "make_scorer": lambda: task.scorer(hidden=hidden, gain=1 / temperature),
        "make_critic": lambda: task.critic(hidden=hidden),
    }


def scorer_of(policy: ActorCriticPolicy) -> ItemScorer:
    """The actor of a trained policy."""
    assert isinstance(policy, ItemActorCritic)
    return policy.scorer
