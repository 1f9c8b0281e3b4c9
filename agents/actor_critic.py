"""The actor-critic that SB3's A2C, PPO, TRPO and MaskablePPO share: an item scorer for the logits, a critic apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor
from torch.distributions import register_kl

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
        self.slates: Tensor | None = None

    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> Any:
        """Not used: the scorer makes the logits."""
        raise NotImplementedError("the logits come from an item scorer")

    def proba_distribution(self, logits: Tensor) -> Self:
        """Take logits (B, N), -inf where an item is forbidden."""
        self.log_chance = torch.log_softmax(logits, 1)  # (B, N)
        self.distribution = SlotBySlot(self)
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
        self.slates = actions.long().view(len(self.log_chance), -1)  # (B, K)
        taken = self.log_chance.gather(1, self.slates)
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


class SlotBySlot(torch.distributions.Distribution):
    """What torch's `kl_divergence`, and so TRPO, dispatches on."""

    def __init__(self, of: Slates) -> None:
        """Of these slates' distribution."""
        super().__init__(validate_args=False)
        self.of = of


@register_kl(SlotBySlot, SlotBySlot)  # type: ignore[untyped-decorator]
def slot_divergence(one: SlotBySlot, other: SlotBySlot) -> Tensor:
    """Sum over slots k of KL(p(. | a_1 .. a_{k-1}) || q(. | a_1 .. a_{k-1})), (B,), `one` p and `other` q.

    The slates a are those whose `log_prob` was last asked of p. Its mean over slates drawn from p is KL(p || q), by
    the chain rule; and at p = q its second derivative is that of KL(p || q) for slates drawn from either, which is what
    TRPO's search direction needs. With one slot it is KL(p || q) itself.

    Raises:
        ValueError: there are several slots and no slates.
    """
    left, right, slates, size = one.of.log_chance, other.of.log_chance, one.of.slates, one.of.slate_size
    total = _divergence(left, right)
    for slot in range(size - 1):
        if slates is None:
            raise ValueError("the divergence of slates is known along slates: ask for their log_prob first")
        taken = slates[:, slot : slot + 1]
        left, right = (torch.log_softmax(part.scatter(1, taken, -torch.inf), 1) for part in (left, right))
        total = total + _divergence(left, right)
    return total


def _divergence(left: Tensor, right: Tensor) -> Tensor:
    least = torch.finfo(left.dtype).min
    return (left.exp() * (left.clamp_min(least) - right.clamp_min(least))).sum(1)


class _ItemHeads:
    """pi(. | o) = Plackett-Luce of an `ItemScorer`'s scores of the allowed items; V(o) a `Critic`, apart from it.

    Allowed is what the row allows, and of that what SB3 passes as masks, (B, N) or once for each slot (B, K N).
    """

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

    def _build(self: Any, lr_schedule: Callable[[float], float]) -> None:
        self.scorer, self.critic = self._make_scorer(), self._make_critic()
        self.action_dist = Slates(self._layout.slate_size)
        self.optimizer = self.optimizer_class(self.parameters(), **{"lr": lr_schedule(1), **self.optimizer_kwargs})

    def forward(
        self: Any, obs: Tensor, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B,) or (B, K), values (B, 1) and log-probabilities (B,)."""
        distribution = self.get_distribution(obs, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)

    def evaluate_actions(
        self: Any, obs: Any, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log-probabilities of `actions` (B,) and entropies (B,)."""
        distribution = self.get_distribution(obs, action_masks)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self: Any, obs: Any, action_masks: Any = None) -> Slates:
        """pi(. | o) of rows (B, W)."""
        observation = self._layout.unpack(obs)
        scores = allow(self.scorer(observation), observation.mask)
        if action_masks is not None:
            masks = torch.as_tensor(action_masks, device=scores.device).bool().view(len(scores), -1)
            scores = allow(scores, masks[:, : self._layout.num_items])
        return Slates(self._layout.slate_size).proba_distribution(scores)

    def predict_values(self: Any, obs: Any) -> Tensor:
        """V(o), (B, 1)."""
        values: Tensor = self.critic(self._layout.unpack(obs))
        return values.unsqueeze(1)


class ItemActorCritic(_ItemHeads, ActorCriticPolicy):  # type: ignore[misc]
    """The item heads as SB3's actor-critic."""

    scorer: ItemScorer
    critic: Critic


class MaskableItemActorCritic(_ItemHeads, MaskableActorCriticPolicy):  # type: ignore[misc]
    """The item heads as sb3-contrib's actor-critic, which gets the environments' `action_masks` too."""

    scorer: ItemScorer
    critic: Critic


def networks(task: Task, *, hidden: int, temperature: float) -> dict[str, Any]:
    """SB3's `policy_kwargs`: actors that start as softmax(backbone scores / temperature), and critics."""
    return {
        "layout": task.layout(),
        "make_scorer": lambda: task.scorer(hidden=hidden, gain=1 / temperature),
        "make_critic": lambda: task.critic(hidden=hidden),
    }


def scorer_of(policy: Any) -> ItemScorer:
    """The actor of a trained policy."""
    assert isinstance(policy, ItemActorCritic | MaskableItemActorCritic)
    return policy.scorer
