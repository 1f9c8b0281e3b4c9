"""Top-K policy gradient: slates drawn slot by slot, and each shown item answers for what it brought itself.

    pi(A | o)   = product over k of softmax over the items left of l(o, a_k)                       (Plackett-Luce)
    U_t         = generalised advantage of step t less (r_t - sum over k of b_k(o_t)): what comes after the step
    credit own    advantage of slot k = (r_tk - b_k(o_t)) + U_t,   r_tk the reward of the item in slot k
    credit slate  advantage of slot k = U_t + sum over j of (r_tj - b_j(o_t)): the slate's, as in PPO
    loss        mean over t and k of - min(ratio_k A_tk, clip(ratio_k) A_tk), ratio_k of slot k alone

With K slots, K - 1 of the items that share a slate's advantage had no part in a click: their noise is what `own`
leaves out, and a ratio a slot is clipped where it moves, not the product of K. Credit "own" is right where the feedback
of an item does not depend on the others in the slate (clicks by position); where items compete for one click, it does
not see what an item takes from the others: use "slate".

With `Task.item_categories` or a model of clicks, slates are drawn from `agents.spread` instead of by Plackett-Luce.
The model (`agents.clicks`) is fitted to each rollout's feedback, slot by slot, once the policy has learned from it.

Source: Chen et al. (2019), "Top-K off-policy correction for a REINFORCE recommender system", section 4.3 (slates as
draws); Schulman et al. (2017), "Proximal policy optimization algorithms", equation 7; Schulman et al. (2016),
"High-dimensional continuous control using generalized advantage estimation", equation 16. The split of the advantage
over slots is this project's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agents.actor_critic import Slates
from agents.choice import allow
from agents.clicks import ClickModel
from agents.learning import Row, check_choice, check_counts, check_shares, of_sessions
from agents.networks import ItemScorer
from agents.returns import following, generalised_advantages
from agents.scoring import ScoringPolicy
from agents.spread import Spread, SpreadActor, SpreadPolicy
from agents.task import Task
from agents.training import Stopping, check_finite, descend, restore, run, snapshot
from recgym.policy import StoredPolicy


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Clipped policy gradient of slates with an advantage for each item."""

    total_steps: int = 300_000
    """User steps to learn from."""
    num_envs: int = 64
    """Sessions simulated side by side."""
    rollout: int = 16
    """Steps of each environment between updates."""
    batch_size: int = 512
    """Steps in a gradient step."""
    epochs: int = 3
    """Passes over each rollout."""
    learning_rate: float = 2e-3
    """Adam's step size."""
    anneal: bool = False
    """Let the step sizes fall to 0 over the run."""
    discount: float = 0.95
    """Weight of a reward against the one a step earlier, gamma; may be 1."""
    gae_lambda: float = 0.95
    """Bias-variance dial of generalised advantage estimation, lambda."""
    credit: Literal["own", "slate"] = "own"
    """What an item answers for at its step: its own reward, or the slate's."""
    clip_range: float = 0.2
    """How far the probability ratio of a slot may move an update, epsilon."""
    entropy_weight: float = 0.003
    """Weight of the entropy bonus, of the first slot."""
    value_scale: float = 1.0
    """A typical discounted return, in reward: values are learned in this unit."""
    click_rate: float = 0.0
    """Adam's step size of a model of clicks whose log-odds the logits start from; 0: none. It needs a history."""
    temperature: float = 1.0
    """The actor starts as softmax(backbone scores / temperature)."""
    hidden: int = 64
    """Units of the actor's and of the critic's MLP."""
    choice: Literal["greedy", "softmax"] = "greedy"
    """How the trained policy chooses: its best items, or a draw as in training."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, "total_steps", "num_envs", "rollout", "batch_size", "epochs", "hidden", "segments")
        check_shares(self, "discount", "gae_lambda")
        for name in ("temperature", "clip_range", "value_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected above 0")
        if not self.click_rate >= 0:
            raise ValueError(f"click_rate is {self.click_rate}, expected 0 or more")
        if self.credit not in ("own", "slate"):
            raise ValueError(f"credit is {self.credit!r}, expected 'own' or 'slate'")
        check_choice(self)

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, seed, Path(folder)), task, total=self.total_steps,
            segments=self.segments, seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress,
        )  # fmt: skip


def slot_log_chances(logits: Tensor, slates: Tensor) -> Tensor:
    """Log P(a_k | a_1 .. a_{k-1}) under Plackett-Luce of logits (B, N), for items (B, K) from 0: (B, K)."""
    taken = logits.gather(1, slates)  # (B, K)
    if slates.shape[1] == 1:
        return taken - logits.logsumexp(1, keepdim=True)
    others = logits.scatter(1, slates, -torch.inf).logsumexp(1, keepdim=True)  # (B, 1)
    left = taken.flip(1).logcumsumexp(1).flip(1)  # (B, K) of the slots from k on
    return taken - torch.logaddexp(left, others)


class PlackettLuce(NamedTuple):
    """Distributions of B slates of K items: the items left, by their logits."""

    logits: Tensor  # (B, N) of the first slot, -inf where an item is forbidden
    size: int  # K

    def log_chances(self, slates: Tensor) -> Tensor:
        """Log-probability of every slot, (B, K)."""
        return slot_log_chances(self.logits, slates)

    def draw(self) -> Tensor:
        """Slates (B, K) of items from 0."""
        return Slates(self.size).proba_distribution(self.logits).sample().view(len(self.logits), -1)


def slot_advantages(own: Tensor, baseline: Tensor, reward: Tensor, advantage: Tensor, credit: str) -> Tensor:
    """Advantage of every slot, (T, B, K).

    Args:
        own: reward of each item, (T, B, K).
        baseline: what is expected of each slot, (T, B, K).
        reward: of the step, (T, B).
        advantage: generalised, of the step, (T, B).
        credit: "own" or "slate".
    """
    surprise = own - baseline
    later = advantage - (reward - baseline.sum(2))
    here = surprise if credit == "own" else surprise.sum(2, keepdim=True)
    return here + later.unsqueeze(2)


class _Rollout(NamedTuple):
    """T steps of B sessions, flattened to T B rows."""

    row: Tensor  # (T B, W)
    action: Tensor  # (T B, K)
    chance: Tensor  # (T B, K) log-probabilities of the slots
    own: Tensor  # (T B, K) reward of each item
    value: Tensor  # (T B,) lambda-return
    advantage: Tensor  # (T B, K)


class _Learner:
    """One run: the networks, the optimiser and the sessions."""

    def __init__(self, config: TopK, task: Task, seed: int, folder: Path) -> None:
        self.config, self.task, self.folder = config, task, folder
        self.size, self.layout, self.device = task.slate_size, task.layout(), task.device
        scorer, categories = task.scorer(hidden=config.hidden, gain=1 / config.temperature), task.item_categories
        self.clicks = ClickModel(scorer, hidden=config.hidden) if config.click_rate else None
        self.actor: ItemScorer | SpreadActor = scorer
        self.steered = list(scorer.parameters())
        if self.clicks is not None or categories is not None:
            self.actor = SpreadActor(scorer, categories, self.clicks, hidden=config.hidden).to(task.device)
            self.steered = self.actor.steered()
        self.critic = task.critic(hidden=config.hidden, outputs=1 + self.size)
        self.optimiser = torch.optim.Adam([*self.steered, *self.critic.parameters()], lr=config.learning_rate)
        if self.clicks is not None:
            self.optimiser.add_param_group({"params": self.clicks.parameters(), "lr": config.click_rate})
        weights = task.sessions.weights
        self.weights = torch.tensor([weights.get(kind.name, 0.0) for kind in task.sessions.users.kinds])  # (F,)
        self.env: Any = task.environment(config.num_envs, seed)
        self.rows, self.steps = torch.from_numpy(np.asarray(self.env.reset())), 0

    def advance(self, last: int) -> Row:
        """Play, learn, up to user step `last`."""
        config, losses, fits = self.config, [], []
        while self.steps < last:
            rollout = self._play()
            if config.anneal:
                self._pace(max(0.0, 1 - self.steps / config.total_steps))
            for _ in range(config.epochs):
                losses += [self._update(batch) for batch in self._batches(rollout)]
            for _ in range(config.epochs if self.clicks else 0):
                fits += [self._fit(batch) for batch in self._batches(rollout)]
        actor, value, entropy = torch.stack(losses).mean(0).tolist() if losses else (None, None, None)
        return {
            "train/policy_loss": actor,
            "train/value_loss": value,
            "train/entropy": entropy,
            "train/click_loss": float(torch.stack(fits).mean()) if fits else None,
            **of_sessions(*self.env.ended_sessions()),
        }

    def _pace(self, share: float) -> None:
        """Set the step sizes to a share of the config's."""
        of_policy, *of_clicks = self.optimiser.param_groups
        of_policy["lr"] = share * self.config.learning_rate
        for group in of_clicks:
            group["lr"] = share * self.config.click_rate

    def _batches(self, rollout: _Rollout) -> list[_Rollout]:
        parts = torch.randperm(len(rollout.row)).split(self.config.batch_size)
        return [_Rollout(*(each[part].to(self.device) for each in rollout)) for part in parts]

    def _slates(self, rows: Tensor) -> PlackettLuce | Spread:
        observation = self.layout.unpack(rows.to(self.device))
        found = self.actor(observation)
        return found if isinstance(found, Spread) else PlackettLuce(allow(found, observation.mask), self.size)

    def _values(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """V(o) in reward, (n,), and the slots' baselines b_k(o), (n, K)."""
        found = self.critic(self.layout.unpack(rows.to(self.device)))
        return found[:, 0] * self.config.value_scale, found[:, 1:]

    @torch.no_grad()
    def _play(self) -> _Rollout:
        """One rollout of all sessions, with its advantages; on the CPU, as the sessions' rows are."""
        config = self.config
        kept: list[tuple[Tensor, ...]] = []
        ends: list[Tensor] = []  # of sessions that were cut, in order
        for _ in range(config.rollout):
            rows, slates = self.rows, self._slates(self.rows)
            drawn = slates.draw()
            chances, action = slates.log_chances(drawn).cpu(), drawn.cpu()
            numbers = action[:, 0] if self.size == 1 else action
            after, reward, done, infos = self.env.step(numbers.numpy())
            self.rows = torch.from_numpy(np.asarray(after))
            value, baseline = (each.cpu() for each in self._values(rows))
            cut = torch.zeros(len(rows), dtype=torch.bool)
            for place in np.flatnonzero(done).tolist():
                if infos[place].get("TimeLimit.truncated", False):
                    cut[place] = True
                    ends.append(torch.from_numpy(infos[place]["terminal_observation"]))
            kept.append((
                rows, action, chances, self.env.feedback.cpu() @ self.weights, baseline, value,
                torch.from_numpy(np.asarray(reward)), torch.from_numpy(done.copy()) & ~cut, cut,
            ))  # fmt: skip
        self.steps += config.rollout * config.num_envs
        row, action, chance, own, baseline, value, reward, left, cut = map(torch.stack, zip(*kept, strict=True))
        last = self._values(torch.stack(ends))[0].cpu() if ends else torch.zeros(0)
        after = following(torch.cat([value, self._values(self.rows)[0].cpu().unsqueeze(0)]), cut, last)
        advantage = generalised_advantages(
            reward, value, after, left, cut, discount=config.discount, decay=config.gae_lambda
        )
        shares = slot_advantages(own, baseline, reward, advantage, config.credit)
        shares = (shares - shares.mean()) / (shares.std() + 1e-8)
        parts = (row, action, chance, own, value + advantage, shares)
        return _Rollout(*(part.flatten(0, 1) for part in parts))

    def _update(self, batch: _Rollout) -> Tensor:
        """One gradient step; losses of actor and critic, and the entropy."""
        config, slates = self.config, self._slates(batch.row)
        ratio = (slates.log_chances(batch.action) - batch.chance).exp()  # (n, K)
        clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
        actor = -torch.minimum(ratio * batch.advantage, clipped * batch.advantage).mean()
        entropy = Slates(self.size).proba_distribution(slates.logits).entropy().mean()
        value, baseline = self._values(batch.row)
        critic = ((batch.value - value) / config.value_scale).square().mean() + (batch.own - baseline).square().mean()
        check_finite(self.folder, {"policy": actor, "value": critic, "entropy": entropy}, batch._asdict())
        self.optimiser.zero_grad()
        (actor - config.entropy_weight * entropy + critic).backward()
        nn.utils.clip_grad_norm_(self.steered, 0.5)
        nn.utils.clip_grad_norm_(self.critic.parameters(), 0.5)
        self.optimiser.step()
        return torch.stack([actor, critic, entropy]).detach()

    def _fit(self, batch: _Rollout) -> Tensor:
        """One gradient step of the model of clicks; its loss."""
        assert self.clicks is not None
        loss = self.clicks.loss(self.layout.unpack(batch.row), batch.action, batch.own > 0)
        return descend(self.folder, self.optimiser, {"click": loss}, batch._asdict())["click"]

    def policy(self) -> StoredPolicy:
        """The actor."""
        if isinstance(self.actor, SpreadActor):
            return SpreadPolicy(actor=self.actor, choice=self.config.choice)
        return ScoringPolicy(scorer=self.actor, name="topk", choice=self.config.choice, slate_size=self.size)

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "actor", "critic", "optimiser", "env", "rows", "steps")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)
