"""SlateQ: the value of a slate from the values of its items, where a user takes at most one of them.

    Q(s, A)       = sum over i in A and none of P(i | s, A) Q(s, i)
    P(i | s, A)   = conditional logit, learned from what was taken in the slates shown
    target        y = r_1 + gamma r_2 + ... + gamma^n Q'(s_n, A_n),  learned by Q(s, i) of the item that was taken
    Q-learning    A_n the slate that is best by Q (double) or Q';  SARSA: the slate that was shown
    loss          mean of ((y - Q(s, i)) / scale)^2 - log P(i | s, A)

Taking nothing is an outcome like the others: Q(s, none) has a network of its own, which reads the session but no
candidates, and learns from the steps without a click. Where a user took several items of a slate, which the paper rules
out, each counts as an equal share of one. Taken means that the first kind of feedback is above 0.

Sessions are long: `steps` looks far ahead, uncorrected for what exploration did on the way, and gamma may be 1.

Source: Ie et al. (2019), "SlateQ: a tractable decomposition for reinforcement learning with recommendation sets",
equations 5, 11 and 12 to 19; slates are chosen by `agents.slates`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agents.choice import allow
from agents.experience import Experience
from agents.learning import Row, check_counts, check_shares
from agents.networks import Critic, ItemScorer
from agents.replay import Batch
from agents.slate_policy import SlatePolicy, read_items
from agents.slates import SELECTIONS, Items, Selection, choice_chances, slate_scores, slate_values
from agents.task import Task
from agents.training import Stopping, descend, restore, run, snapshot
from recgym.policy import StoredPolicy
from recgym.types import Observation


@dataclass(frozen=True, kw_only=True)
class SlateQ:
    """Decomposed Q-learning of slates."""

    total_steps: int = 400_000
    """User steps to learn from."""
    num_envs: int = 128
    """Sessions simulated side by side."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    anneal: bool = False
    """Let the step size fall to 0 over the run."""
    discount: float = 0.99
    """Weight of a reward against the one a step earlier, gamma; may be 1."""
    target: Literal["q-learning", "sarsa"] = "q-learning"
    """The next slate of the target: the best, or the one that was shown."""
    double: bool = True
    """Q-learning: choose the next slate by Q and value it by Q'."""
    selection: Selection = "exact"
    """How slates are chosen, in training and after; see `agents.slates.slate_scores`."""
    steps: int = 1
    """Steps of reward before the target looks at Q', n."""
    value_scale: float = 1.0
    """A typical return, in reward: values are learned in this unit."""
    batch_size: int = 512
    """Transitions in a gradient step."""
    gradient_steps: int = 1
    """Gradient steps after each batch of `num_envs` user steps."""
    buffer_size: int = 200_000
    """Transitions kept for replay."""
    learning_starts: int = 10_000
    """User steps, all exploring, before the first gradient step."""
    target_update_interval: int = 5_000
    """User steps between copies of the networks to their targets."""
    exploration_fraction: float = 0.5
    """Share of `total_steps` over which epsilon falls from 1 to `final_epsilon`."""
    final_epsilon: float = 0.05
    """Chance of an exploring slate at the end."""
    backbone_exploration: float = 0.3
    """Share of exploring slates drawn from softmax(backbone scores), where there is one; the rest is uniform."""
    hidden: int = 64
    """Units of each network's MLP."""
    initial_spread: float = 0.1
    """Standard deviation within a state of the first Q-values, which rank as the backbone does; in reward."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(
            self, "total_steps", "num_envs", "batch_size", "gradient_steps", "buffer_size", "steps",
            "target_update_interval", "hidden", "segments",
        )  # fmt: skip
        check_shares(self, "discount", "exploration_fraction", "final_epsilon", "backbone_exploration")
        if self.target not in ("q-learning", "sarsa"):
            raise ValueError(f"target is {self.target!r}, expected 'q-learning' or 'sarsa'")
        if self.selection not in SELECTIONS:
            raise ValueError(f"selection is {self.selection!r}, expected one of {', '.join(SELECTIONS)}")
        if not self.value_scale > 0:
            raise ValueError(f"value_scale is {self.value_scale}, expected above 0")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, seed, Path(folder)), task, total=self.total_steps,
            segments=self.segments, seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress,
        )  # fmt: skip


class ItemValues(nn.Module):
    """Q(s, i) and Q(s, none), both in units of `scale`."""

    def __init__(self, taken: ItemScorer, nothing: Critic, scale: float) -> None:
        super().__init__()
        self.taken, self.nothing, self.scale = taken, nothing, scale

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Values (B, N) of taking each item and (B,) of taking nothing, in reward."""
        return self.scale * self.taken(observation), self.scale * self.nothing(observation)


class _Learner:
    """One run: the networks, the optimiser and the experience."""

    def __init__(self, config: SlateQ, task: Task, seed: int, folder: Path) -> None:
        self.config, self.task, self.folder = config, task, folder
        gain = task.value_gain(config.initial_spread / config.value_scale, seed)
        taken = task.scorer(gain=gain, hidden=config.hidden)
        self.q = ItemValues(taken, task.critic(hidden=config.hidden), config.value_scale)
        self.choice = task.scorer(hidden=config.hidden)  # logits of taking an item against taking nothing
        self.target = copy.deepcopy(self.q)
        self.parameters = [*self.q.parameters(), *self.choice.parameters()]
        self.optimiser = torch.optim.Adam(self.parameters, lr=config.learning_rate)
        self.experience = Experience(task, config, seed, slate_size=task.slate_size)

    def advance(self, last: int) -> Row:
        """Act, keep, learn, up to user step `last`."""
        losses = self.experience.practise(
            last, lambda: self.experience.act(self._scores), self._update, copied=(self.target, self.q)
        )
        value, choice = torch.stack(losses).mean(0).tolist() if losses else (None, None)
        return {"train/value_loss": value, "train/choice_loss": choice, **self.experience.row()}

    def _scores(self, observation: Observation) -> Tensor:
        items = read_items(self.q.taken, self.q.nothing, self.choice, observation)
        return slate_scores(items, observation.mask, self.task.slate_size, self.config.selection)

    def _update(self) -> Tensor:
        """One gradient step; its two losses."""
        config, layout = self.config, self.experience.layout
        batch = self.experience.sample(config.batch_size, discount=config.discount, steps=config.steps)
        now = layout.unpack(batch.now)
        taken = (batch.feedback[..., 0] > 0).float()  # (n, K)
        share = torch.cat([taken, 1 - taken.amax(1, keepdim=True)], 1)  # (n, K + 1): the last is taking nothing
        share = share / share.sum(1, keepdim=True)
        items, nothing = self.q(now)
        found = torch.cat([items.gather(1, batch.action), nothing.unsqueeze(1)], 1)  # (n, K + 1)
        error = (self._targets(batch).unsqueeze(1) - found) / config.value_scale
        value = (share * error.square()).sum(1).mean()
        chances = choice_chances(self.choice(now).gather(1, batch.action))
        choice = -(share * chances.clamp_min(1e-12).log()).sum(1).mean()
        terms = {"temporal difference": value, "choice": choice}
        if config.anneal:
            self.optimiser.param_groups[0]["lr"] = config.learning_rate * self.experience.left
        descend(self.folder, self.optimiser, terms, batch._asdict(), clip=self.parameters)
        return torch.stack([value, choice]).detach()

    def _targets(self, batch: Batch) -> Tensor:
        """Y of every transition, (n,)."""
        config, after = self.config, self.experience.layout.unpack(batch.after)
        with torch.no_grad():
            theirs = Items(self.choice(after), *self.target(after))
            ours = Items(theirs.logit, *self.q(after)) if config.double and config.target == "q-learning" else theirs
            scores = slate_scores(ours, after.mask, self.task.slate_size, config.selection)
            slates = allow(scores, after.mask).topk(self.task.slate_size, 1).indices
            if config.target == "sarsa":  # the best one where the record was cut
                slates = torch.where(batch.following >= 0, batch.following, slates)
            return batch.reward + batch.discount * slate_values(theirs, slates)

    def policy(self) -> SlatePolicy:
        """The slate of the highest value."""
        return SlatePolicy(
            taken=self.q.taken, nothing=self.q.nothing, choice=self.choice, slate_size=self.task.slate_size,
            selection=self.config.selection, name="slateq",
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "q", "target", "choice", "optimiser", "experience")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)
