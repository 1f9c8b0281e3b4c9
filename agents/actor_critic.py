"""The actor-critic head that PPO and A2C share: an item scorer for the logits, an MLP for the value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from agents.networks import ItemScorer
from agents.task import Task


class ItemActorCritic(ActorCriticPolicy):
    """pi(a | s) = softmax(q(s)) with q an `ItemScorer`; V(s) = MLP(s, context), apart from the actor."""

    def __init__(self, *args: Any, make_scorer: Callable[[], ItemScorer], hidden: int, **kwargs: Any) -> None:
        """Build from SB3's arguments, a maker of the actor, and the critic's units."""
        self._make_scorer, self._hidden = make_scorer, hidden
        super().__init__(*args, **{**kwargs, "net_arch": []})

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        width = self.features_dim
        self.scorer = self._make_scorer()
        self.critic = nn.Sequential(nn.Linear(width, self._hidden), nn.Tanh(), nn.Linear(self._hidden, 1))
        self.optimizer = self.optimizer_class(self.parameters(), **{"lr": lr_schedule(1), **self.optimizer_kwargs})

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B,), values (B, 1) and log-probabilities (B,)."""
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.critic(obs), distribution.log_prob(actions)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log-probabilities of `actions` (B,) and entropies (B,)."""
        distribution = self.get_distribution(obs)
        return self.critic(obs), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any) -> Distribution:
        """pi(. | s)."""
        return self.action_dist.proba_distribution(action_logits=self.scorer(obs))

    def predict_values(self, obs: Any) -> Tensor:
        """V(s), (B, 1)."""
        values: Tensor = self.critic(obs)
        return values


def scorer_maker(task: Task, hidden: int, temperature: float) -> Callable[[], ItemScorer]:
    """Makes actors that start as softmax(backbone scores / temperature)."""
    vectors, bias = task.item_vectors()
    return partial(ItemScorer, vectors.shape[1], vectors, bias, hidden=hidden, gain=1 / temperature)


def scorer_of(policy: ActorCriticPolicy) -> ItemScorer:
    """The actor of a trained policy."""
    assert isinstance(policy, ItemActorCritic)
    return policy.scorer
