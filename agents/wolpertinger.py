"""Wolpertinger: an actor names a point in the space of item vectors, a critic chooses among the items nearest to it.

    p       = f(o), |p| = 1                                             the proto-action
    A_k     = the k allowed items whose vectors are nearest to p        (vectors have length 1: the largest p . E_j)
    a       = argmax over j in A_k of Q(o, E_j)
    critic  mean of huber(r_1 + ... + gamma^n Q'(o_n, E_a') - Q(o, E_a)),  a' chosen in the same way by f', Q'
    actor   - mean of Q(o, f(o)),  through the point, as in DDPG

Only k items are ever valued, so k = 1 is DDPG with rounding and k = N is Q-learning. Targets follow by Polyak averages.
Vectors are the backbone's, fixed; or what each step's candidates show; or a table that the critic learns. Exploration
draws items, as this project's other learners do, where the paper adds noise to the point.

Source: Dulac-Arnold et al. (2015), "Deep reinforcement learning in large discrete action spaces", algorithms 1 and 2;
Lillicrap et al. (2016), "Continuous control with deep reinforcement learning", equations 5 and 6.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, smooth_l1_loss

from agents.choice import allow, greedy_probabilities, top_items
from agents.encoders import Encoder
from agents.experience import Experience
from agents.layout import Layout
from agents.learning import Row, check_counts, check_shares
from agents.task import Task
from agents.training import Stopping, descend, restore, run, snapshot
from recgym.policy import StoredPolicy
from recgym.types import Observation, Reads


@dataclass(frozen=True, kw_only=True)
class Wolpertinger:
    """Actor-critic over the nearest items, one item a step in training."""

    total_steps: int = 100_000
    """User steps to learn from."""
    num_envs: int = 128
    """Sessions simulated side by side."""
    nearest: int = 32
    """Items that the critic chooses among, k; all of them where the catalogue is smaller."""
    actor_learning_rate: float = 3e-4
    """Adam's step size of the actor."""
    learning_rate: float = 1e-3
    """Adam's step size of the critic."""
    discount: float = 0.95
    """Weight of a reward against the one a step earlier, gamma."""
    target_rate: float = 0.01
    """Share of the networks that goes into their targets at each gradient step, tau (the paper: 0.001)."""
    batch_size: int = 256
    """Transitions in a gradient step."""
    gradient_steps: int = 4
    """Gradient steps after each batch of `num_envs` user steps."""
    buffer_size: int = 100_000
    """Transitions kept for replay."""
    learning_starts: int = 5_000
    """User steps, all exploring, before the first gradient step."""
    exploration_fraction: float = 0.5
    """Share of `total_steps` over which epsilon falls from 1 to `final_epsilon`."""
    final_epsilon: float = 0.05
    """Chance of an exploring step at the end."""
    backbone_exploration: float = 0.3
    """Share of exploring steps drawn from softmax(backbone scores), where there is one; the rest is uniform."""
    steps: int = 1
    """Steps of reward before the target looks at Q', n."""
    hidden: int = 64
    """Units of each MLP."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies on the way, keep the best, and stop early."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(
            self, "total_steps", "num_envs", "nearest", "batch_size", "gradient_steps", "buffer_size", "steps",
            "hidden", "segments",
        )  # fmt: skip
        check_shares(self, "discount", "target_rate", "exploration_fraction", "final_epsilon", "backbone_exploration")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train in `task.sessions`, one item a step; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, seed, Path(folder)), task, total=self.total_steps,
            segments=self.segments, seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress,
        )  # fmt: skip


class NearestItems(nn.Module):
    """The actor f, the critic Q, and the item vectors between them."""

    def __init__(self, layout: Layout, vectors: Tensor | None, *, nearest: int, hidden: int, learned: bool) -> None:
        """Build it; `vectors` (N, E) are copied, and None where each step brings candidates."""
        super().__init__()
        self.layout, self.nearest, self.hidden, self.learned = layout, min(nearest, layout.num_items), hidden, learned
        self.items = None if vectors is None else nn.Parameter(vectors.detach().clone(), requires_grad=learned)
        width = layout.candidate_width if vectors is None else vectors.shape[1]
        self.actor = nn.ModuleList([_encoder(layout, hidden, width), nn.Linear(hidden, width)])
        pair = [nn.Linear(hidden, hidden), nn.Linear(width, hidden, bias=False), nn.Linear(hidden, 1)]
        self.critic = nn.ModuleList([_encoder(layout, hidden, width), *pair])

    def vectors(self, observation: Observation) -> Tensor:
        """Item vectors of length 1, (B, N, E)."""
        if self.items is not None:
            return normalize(self.items, dim=1).expand(len(observation.context), -1, -1)
        assert observation.candidates is not None
        return normalize(observation.candidates, dim=2)

    def point(self, observation: Observation) -> Tensor:
        """Proto-actions p = f(o), (B, E)."""
        encoder, top = self.actor
        items = None if self.items is None else normalize(self.items, dim=1).detach()
        return normalize(top(encoder(observation, items)[0]), dim=1)

    def values(self, observation: Observation, points: Tensor) -> Tensor:
        """Q(o, p) of points (B, k, E): (B, k)."""
        encoder, state, action, last = self.critic
        items = None if self.items is None else normalize(self.items, dim=1)
        units = gelu(state(encoder(observation, items)[0]).unsqueeze(1) + action(points))
        found: Tensor = last(units)
        return found.squeeze(2)

    def choose(self, observation: Observation, mask: Tensor | None, count: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Nearness of all items (B, N), the nearest of them (B, k) from 0, at least `count`, and their Q (B, k)."""
        vectors = self.vectors(observation)
        near = torch.einsum("bne,be->bn", vectors, self.point(observation))
        chosen = allow(near, mask).topk(max(self.nearest, count), 1).indices
        points = vectors.gather(1, chosen.unsqueeze(2).expand(-1, -1, vectors.shape[2]))
        values = self.values(observation, points)
        if mask is not None:  # where fewer than k are allowed
            values = values.masked_fill(~mask.gather(1, chosen), -torch.inf)
        return near, chosen, values

    def scores(self, observation: Observation, mask: Tensor | None, count: int = 1) -> Tensor:
        """Scores (B, N): the nearest items first, by their Q; then the others, by their nearness in [-1, 1]."""
        near, chosen, values = self.choose(observation, mask, count)
        place = values.argsort(dim=1, descending=True, stable=True).argsort(1)
        return near.scatter(1, chosen, (2.0 + chosen.shape[1] - place).to(near.dtype))


def _encoder(layout: Layout, hidden: int, width: int) -> Encoder:
    return Encoder(layout, hidden=hidden, item_width=width, layers=2)


class _Learner:
    """One run: the networks, the optimisers and the experience."""

    def __init__(self, config: Wolpertinger, task: Task, seed: int, folder: Path) -> None:
        self.config, self.task, self.folder = config, task, folder
        layout, vectors = task.layout(1), None
        if task.backbone is not None:
            vectors = task.item_vectors()[0]
        elif not layout.candidate_width:
            vectors = task.scorer(hidden=1, slate_size=1).items
        self.net = NearestItems(
            layout, vectors, nearest=config.nearest, hidden=config.hidden, learned=task.backbone is None
        ).to(task.device)
        self.target = copy.deepcopy(self.net)
        table = [self.net.items] if self.net.items is not None and task.backbone is None else []
        self.critic = [*self.net.critic.parameters(), *table]
        self.critic_optimiser = torch.optim.Adam(self.critic, lr=config.learning_rate)
        self.actor_optimiser = torch.optim.Adam(self.net.actor.parameters(), lr=config.actor_learning_rate)
        self.experience = Experience(task, config, seed)

    def advance(self, last: int) -> Row:
        """Act, keep, learn, up to user step `last`."""
        experience = self.experience
        losses = experience.practise(last, lambda: experience.act(self._scores), self._update)
        critic, actor = torch.stack(losses).mean(0).tolist() if losses else (None, None)
        return {"train/critic_loss": critic, "train/actor_loss": actor, **experience.row()}

    def _scores(self, observation: Observation) -> Tensor:
        return self.net.scores(observation, observation.mask)

    def _update(self) -> Tensor:
        """One gradient step of the critic and one of the actor; their losses."""
        config, layout, net = self.config, self.experience.layout, self.net
        batch = self.experience.sample(config.batch_size, discount=config.discount, steps=config.steps)
        now, after = layout.unpack(batch.now), layout.unpack(batch.after)
        with torch.no_grad():
            best = self.target.choose(after, after.mask)[2].amax(1)
            follows = torch.where(best.isfinite(), best, 0.0)  # nothing may be shown where all are forbidden
            target = batch.reward + batch.discount * follows
        vectors = net.vectors(now)
        taken = vectors.gather(1, batch.action.unsqueeze(2).expand(-1, -1, vectors.shape[2]))  # (n, 1, E)
        critic = smooth_l1_loss(net.values(now, taken)[:, 0], target)
        found = batch._asdict()
        descend(self.folder, self.critic_optimiser, {"temporal difference": critic}, found, clip=self.critic)
        actor = -net.values(now, net.point(now).unsqueeze(1)).mean()
        descend(self.folder, self.actor_optimiser, {"actor": actor}, found, clip=net.actor.parameters())
        with torch.no_grad():
            for theirs, ours in zip(self.target.parameters(), net.parameters(), strict=True):
                theirs.lerp_(ours, config.target_rate)
        return torch.stack([critic, actor]).detach()

    def policy(self) -> NearestPolicy:
        """The nearest items, re-ranked."""
        return NearestPolicy(net=self.net, slate_size=self.task.slate_size)

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "net", "target", "critic_optimiser", "actor_optimiser", "experience")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestPolicy:
    """Shows the best items, by the critic, among those nearest to the actor's point."""

    net: NearestItems
    slate_size: int = 1
    name: str = "wolpertinger"
    """Registered name of the agent that trained it."""

    @property
    def reads(self) -> Reads:
        """State, or everything where the networks read the history too."""
        return self.net.layout.reads

    @property
    def sizes(self) -> dict[str, int]:
        """What it reads; see `recgym.policy.check_fits`."""
        return self.net.layout.sizes

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return self.net.layout.num_items

    def scores(self, observation: Observation) -> Tensor:
        """The nearest items first, by their value, then the others by nearness: (B, N)."""
        return self._scores(observation, None)

    def probabilities(self, observation: Observation) -> Tensor:
        """One at the best item, (B, N)."""
        return greedy_probabilities(self._scores(observation, observation.mask), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:  # noqa: ARG002 (nothing is drawn)
        """A slate, (B, K) item ids."""
        return top_items(self._scores(observation, observation.mask), observation.mask, self.slate_size)

    def _scores(self, observation: Observation, mask: Tensor | None) -> Tensor:
        with torch.no_grad():
            return self.net.scores(observation, mask, self.slate_size)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        net = self.net
        sizes = {"nearest": net.nearest, "hidden": net.hidden, "learned": net.learned}
        return {"name": self.name, "slate_size": self.slate_size, "layout": asdict(net.layout), **sizes}

    def tensors(self) -> dict[str, Tensor]:
        """The weights."""
        return dict(self.net.state_dict())

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy whose `config` and `tensors` these are."""
        sizes = {name: config[name] for name in ("nearest", "hidden", "learned")}
        net = NearestItems(Layout(**config["layout"]), tensors.get("items"), **sizes)
        net.load_state_dict(tensors)
        return cls(net=net, slate_size=config["slate_size"], name=config["name"])
