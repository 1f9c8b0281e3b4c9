"""What an agent is given and what it must do: a task in, a policy out; and the registry of agents."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from agents.layout import Layout, layout_of
from agents.networks import Critic, ItemScorer, spread_gain
from recgym.backbones.backbone import Backbone
from recgym.env.session import Sessions
from recgym.policy import StoredPolicy
from recgym.random import session_keys
from recgym.rollout import collect
from recgym.types import Policy, Transitions

_OWN = 0.5
"""Length of the noise in item vectors that start from features, whose part has length 1."""
if TYPE_CHECKING:  # policies are read where Stable-Baselines3 is not installed
    from stable_baselines3.common.vec_env import VecEnv

_PROBES = 256
"""Fresh sessions whose states say how far the backbone's scores spread."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an agent learns from: users behind a platform's surface, and what the platform knows of its items."""

    sessions: Sessions[Any]
    """Simulated users, learned or known; agents that learn from logs alone never step them."""
    backbone: Backbone | None = None
    """The platform's encoder, whose states the policy reads and whose item vectors its head starts from; None: the
    state is what the users show, and item vectors are learned from nothing."""
    logged: Transitions | None = None
    """Transitions for agents that learn from logs."""
    history: int = 0
    """Items of the visible history that the policy reads beside the state, L: for known worlds that keep one."""
    item_width: int = 64
    """Width of item vectors that are learned from nothing, E."""
    item_features: Tensor | None = None
    """What the platform knows of its items, (N, X), say their categories as zeros and ones: without a backbone, item
    vectors start from it."""
    item_categories: Tensor | None = None
    """Category of each item, (N,) int64 from 0, for agents that spread slates over categories (`agents.topk`)."""

    def __post_init__(self) -> None:
        """Refuse a backbone beside candidates, whose features hold all that it knows of items."""
        if self.backbone is not None and layout_of(self.sessions).candidate_width:
            raise ValueError(
                "each step brings candidates, which are scored by their features: give the task no backbone "
                "(a retriever's candidates hold its item vectors)"
            )

    @property
    def users(self) -> Any:
        """The user model behind the platform; None in a plain Gymnasium environment."""
        return self.sessions.users

    @property
    def slate_size(self) -> int:
        """Items shown at each step, K."""
        return self.sessions.config.slate_size

    @property
    def device(self) -> torch.device:
        """Where users and networks live."""
        return self.sessions.device

    def layout(self, slate_size: int | None = None) -> Layout:
        """How an observation stands in a row, with slates of another size where one is given."""
        return layout_of(self._platform(slate_size), self.history)

    def environment(self, num_envs: int, seed: int, *, slate_size: int | None = None) -> VecEnv:
        """Sessions side by side that restart where they end, for training."""
        from agents.bridge import SessionsVecEnv

        return SessionsVecEnv(self._platform(slate_size), num_envs, seed=seed, history=self.history)

    def scorer(self, *, gain: float = 1.0, slate_size: int | None = None, **fields: Any) -> ItemScorer:
        """A fresh network: the backbone's own ranking where there is one, else zero scores.

        Its weights are drawn from torch's generator.

        Args:
            gain: scale of the scores.
            slate_size: as in `layout`.
            **fields: arguments of `ItemScorer`.
        """
        layout = self.layout(slate_size)
        if self.backbone is None:
            vectors = self._vectors_from_features()
            return ItemScorer(layout, vectors, item_width=self.item_width, **fields).to(self.device)
        return ItemScorer(layout, *self.item_vectors(), gain=gain, **fields).to(self.device)

    def critic(self, *, slate_size: int | None = None, **fields: Any) -> Critic:
        """A fresh network for values of states, drawn from torch's generator; `fields` are those of `Critic`."""
        return Critic(self.layout(slate_size), **fields).to(self.device)

    def item_vectors(self) -> tuple[Tensor, Tensor]:
        """The backbone's item vectors (N, D) and biases (N,), detached copies on the CPU.

        Raises:
            ValueError: the task has no backbone.
        """
        if self.backbone is None:
            raise ValueError("the task has no backbone, and so no item vectors: give Task(backbone=...)")
        with torch.no_grad():
            return self.backbone.item_vectors().float().cpu().clone(), self.backbone.item_bias().float().cpu().clone()

    def value_gain(self, spread: float, seed: int) -> float:
        """The gain at which the backbone's scores of fresh states deviate by `spread`, in reward; 1 without one."""
        if self.backbone is None:
            return 1.0
        state = self.sessions.observe(self.sessions.reset(session_keys(seed, _PROBES)), "state").state
        assert state is not None
        return spread_gain(state.cpu(), *self.item_vectors(), spread)

    def judge(self, policy: Policy, sessions: int, seed: int) -> float:
        """Mean return of `policy` over so many sessions of users that training never meets."""
        return float(collect(self.sessions, policy, num_sessions=sessions, seed=seed).returns.mean())

    def _vectors_from_features(self) -> Tensor | None:
        """Item vectors (N, E): features scaled to a mean length of 1, and noise beside them to tell items apart.

        Where E is less than the features' X, a random projection stands for them, with the noise on top.
        """
        features, width = self.item_features, self.item_width
        if features is None or layout_of(self.sessions).candidate_width:
            return None
        if features.ndim != 2 or len(features) != self.sessions.num_items:
            raise ValueError(f"item_features {tuple(features.shape)} should be ({self.sessions.num_items}, X)")
        features = features.float().cpu()
        features = features / features.norm(dim=1).mean().clamp_min(1e-6)
        spare = width - features.shape[1]
        if spare >= 0:
            return torch.cat([features, _OWN * torch.randn(len(features), spare) / max(spare, 1) ** 0.5], 1)
        drawn = features @ torch.randn(features.shape[1], width) / width**0.5
        vectors: Tensor = drawn + _OWN * torch.randn(len(features), width) / width**0.5
        return vectors

    def _platform(self, slate_size: int | None) -> Sessions[Any]:
        if slate_size is None or slate_size == self.slate_size:
            return self.sessions
        config = replace(self.sessions.config, slate_size=slate_size)
        return type(self.sessions)(self.sessions.users, config, encoder=self.sessions.encoder)


class Agent(Protocol):
    """A frozen dataclass of hyperparameters that can train a policy."""

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train a policy on `task`.

        Args:
            task: what to learn from.
            seed: of everything random; the same seed gives the same weights.
            folder: gets `log.jsonl` (the learning curve), TensorBoard events and `checkpoints/`.
            resume: go on from the checkpoint in `folder`, to the weights an uninterrupted run would have had.
            progress: show a progress bar.
        """
        ...


AGENTS: dict[str, str] = {}
"""Entry point ("module:Config") of every registered agent, by name."""


def register_agent(name: str, entry_point: str) -> None:
    """Register the agent config at "module:Config" under `name`.

    Raises:
        ValueError: the entry point is not "module:Config", or the name is taken.
    """
    module, _, attribute = entry_point.partition(":")
    if not (module and attribute.isidentifier()):
        raise ValueError(f"entry point of agent {name!r} is {entry_point!r}, expected 'module:Config'")
    if AGENTS.get(name, entry_point) != entry_point:
        raise ValueError(f"agent {name!r} is already registered as {AGENTS[name]!r}; choose another name")
    AGENTS[name] = entry_point


def make_agent(name: str, **fields: Any) -> Agent:
    """The agent called `name` with these fields of its config.

    Raises:
        ValueError: no agent has that name.
    """
    return cast("Agent", agent_class(name)(**fields))


def agent_class(name: str) -> Callable[..., Any]:
    """The config class of the agent called `name`.

    Raises:
        ValueError: no agent has that name.
    """
    if name not in AGENTS:
        raise ValueError(f"no agent is called {name!r}; known: {', '.join(sorted(AGENTS))}")
    module, _, attribute = AGENTS[name].partition(":")
    return cast("Callable[..., Any]", getattr(importlib.import_module(module), attribute))
