"""PPO with LSTMs and an item-scoring head, by sb3-contrib, on the batched users.

Actor and critic each have an LSTM of their own (`agents.recurrence`), whose states the rollout stores and whose
gradients flow back to the start of a session, or of the rollout.

Source: Schulman et al. (2017), "Proximal policy optimization algorithms"; the recurrence is sb3-contrib's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import sb3_contrib
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from torch import Tensor, nn

from agents.actor_critic import Slates
from agents.choice import allow
from agents.layout import Layout
from agents.learning import check_choice, check_counts, check_shares
from agents.networks import Critic
from agents.recurrence import Memory, Recurrence, RecurrentPolicy, RecurrentScorer, recurrent_scorer
from agents.sb3 import train
from agents.task import Task
from agents.training import Stopping
from recgym.policy import StoredPolicy
from recgym.types import Observation


@dataclass(frozen=True, kw_only=True)
class RecurrentPPO:
    """Proximal policy optimisation of a policy that remembers its session."""

    total_steps: int = 160_000
    """User steps to learn from."""
    num_envs: int = 64
    """Sessions simulated side by side."""
    rollout: int = 16
    """Steps of each environment between updates."""
    batch_size: int = 512
    """Steps in a gradient step, as whole stretches of sessions."""
    epochs: int = 3
    """Passes over each rollout."""
    learning_rate: float = 2e-3
    """Adam's step size."""
    discount: float = 0.98
    """Weight of a reward against the one a step earlier, gamma."""
    gae_lambda: float = 0.95
    """Bias-variance dial of generalised advantage estimation, lambda."""
    clip_range: float = 0.2
    """How far the probability ratio may move an update, epsilon."""
    entropy_weight: float = 0.003
    """Weight of the entropy bonus."""
    value_weight: float = 0.5
    """Weight of the critic's squared error."""
    temperature: float = 1.0
    """The actor starts as softmax(backbone scores / temperature)."""
    memory: int = 64
    """Units of each LSTM."""
    hidden: int = 64
    """Units of the actor's and of the critic's MLP."""
    choice: Literal["greedy", "softmax"] = "softmax"
    """How the trained policy chooses: its best item, or a draw as in training."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice(self)
        check_counts(self, "total_steps", "num_envs", "rollout", "batch_size", "epochs", "memory", "hidden", "segments")
        if (
            self.batch_size < 2
            or self.num_envs * self.rollout % self.batch_size == 1
            or self.num_envs * self.rollout < 2
        ):
            raise ValueError(
                f"a rollout of num_envs * rollout = {self.num_envs * self.rollout} steps in batches of "
                f"{self.batch_size} leaves a batch of one: advantages are normalised over a batch"
            )
        check_shares(self, "discount", "gae_lambda")
        if not self.clip_range > 0:
            raise ValueError(f"clip_range is {self.clip_range}, expected above 0")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`; see `agents.task.Agent`."""

        def model(env: Any) -> sb3_contrib.RecurrentPPO:
            return sb3_contrib.RecurrentPPO(
                RecurrentItemActorCritic, env, learning_rate=self.learning_rate, n_steps=self.rollout,
                batch_size=min(self.batch_size, self.num_envs * self.rollout), n_epochs=self.epochs,
                gamma=self.discount, gae_lambda=self.gae_lambda, clip_range=self.clip_range,
                ent_coef=self.entropy_weight, vf_coef=self.value_weight, device=task.device,
                policy_kwargs={
                    "layout": task.layout(),
                    "make_actor": lambda: recurrent_scorer(
                        task, width=self.memory, hidden=self.hidden, gain=1 / self.temperature
                    ),
                    "make_critic": lambda: RecurrentCritic(task.critic(hidden=self.hidden, memory=self.memory)),
                },
            )  # fmt: skip

        def policy(model: Any) -> RecurrentPolicy:
            scorer = model.policy.actor
            return RecurrentPolicy(scorer=scorer, name="recurrent-ppo", choice=self.choice, slate_size=task.slate_size)

        return train(self, model, policy, task, seed=seed, folder=folder, resume=resume, progress=progress)


class RecurrentCritic(nn.Module):
    """V(o, m) with an LSTM of its own."""

    def __init__(self, critic: Critic) -> None:
        """Put a fresh LSTM before `critic`."""
        super().__init__()
        self.critic = critic
        width = 0 if critic.items is None else critic.items.shape[1]
        self.recurrence = Recurrence(critic.layout, width=critic.memory, item_width=width)

    @property
    def vectors(self) -> Tensor | None:
        """Item vectors (N, E) that a history is read with."""
        return self.critic.items

    def forward(self, observation: Observation) -> Tensor:
        """Values (B,)."""
        values: Tensor = self.critic(observation)
        return values


_States = tuple[Tensor, ...]


class RecurrentItemActorCritic(RecurrentActorCriticPolicy):
    """pi(. | o, m) = Plackett-Luce of a `RecurrentScorer`'s scores of the allowed items; V(o, m) a `RecurrentCritic`.

    SB3 hands over rows (n T, W) of n sequences, one after the other, with the LSTMs' states (1, n, H) before them.
    """

    def __init__(
        self,
        *args: Any,
        layout: Layout,
        make_actor: Callable[[], RecurrentScorer],
        make_critic: Callable[[], RecurrentCritic],
        **kwargs: Any,
    ) -> None:
        """Build from SB3's arguments, the layout of a row, and makers of the networks."""
        self._layout = layout
        super().__init__(*args, **{**kwargs, "net_arch": [], "lstm_hidden_size": 1})
        self.actor, self.critic_network = make_actor(), make_critic()
        self.lstm_actor, self.lstm_critic = self.actor.recurrence.lstm, self.critic_network.recurrence.lstm
        self.lstm_hidden_state_shape = (1, 1, self.lstm_actor.hidden_size)
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer = self.optimizer_class(self.parameters(), **{"lr": rate, **self.optimizer_kwargs})

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        """SB3's own heads are not built; its optimiser is made anew once the networks are there."""

    def forward(  # type: ignore[override]
        self, obs: Tensor, lstm_states: RNNStates, episode_starts: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        """Actions (B,) or (B, K), values (B, 1), log-probabilities (B,), and the states after the step."""
        distribution, actors = self.get_distribution(obs, lstm_states.pi, episode_starts)
        values, critics = self._run(self.critic_network, obs, lstm_states.vf, episode_starts)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values.unsqueeze(1), distribution.log_prob(actions), RNNStates(actors, critics)

    def get_distribution(  # type: ignore[override]
        self, obs: Tensor, lstm_states: _States, episode_starts: Tensor
    ) -> tuple[Slates, _States]:
        """pi(. | o, m) of every row, and the states after the last step."""
        scores, states = self._run(self.actor, obs, lstm_states, episode_starts)
        mask = self._layout.unpack(obs).mask
        return Slates(self._layout.slate_size).proba_distribution(allow(scores, mask)), states

    def predict_values(  # type: ignore[override]
        self, obs: Tensor, lstm_states: _States, episode_starts: Tensor
    ) -> Tensor:
        """V(o, m), (B, 1)."""
        return self._run(self.critic_network, obs, lstm_states, episode_starts)[0].unsqueeze(1)

    def evaluate_actions(  # type: ignore[override]
        self, obs: Tensor, actions: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values (B, 1), log-probabilities of `actions` (B,) and entropies (B,)."""
        distribution, _ = self.get_distribution(obs, lstm_states.pi, episode_starts)
        values = self.predict_values(obs, lstm_states.vf, episode_starts)
        return values, distribution.log_prob(actions), distribution.entropy()

    def _run(self, network: Any, obs: Tensor, states: _States, starts: Tensor) -> tuple[Tensor, _States]:
        """What `network` says of n sequences, (n T, ...), and the states (1, n, H) behind them."""
        count = states[0].shape[1]
        steps = obs.view(count, -1, obs.shape[1]).transpose(0, 1)  # (T, n, W)
        observation = self._layout.unpack(steps.flatten(0, 1))
        fresh = starts.view(count, -1).T > 0
        before = Memory(states[0][0], states[1][0])
        memory = network.recurrence.sequence(observation, network.vectors, before, fresh)
        there = Memory(memory.hidden.flatten(0, 1), memory.cell.flatten(0, 1))
        found = network(observation._replace(memory=there)).unflatten(0, steps.shape[:2])
        after = (memory.hidden[-1:].contiguous(), memory.cell[-1:].contiguous())
        return found.transpose(0, 1).flatten(0, 1), after
