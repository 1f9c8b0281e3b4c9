"""What an agent is given and what it must do: a task in, a policy out; and the registry of agents."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone
from recgym.env.session import Sessions
from recgym.policy import StoredPolicy
from recgym.types import Transitions


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an agent learns from."""

    sessions: Sessions[Any]
    """Simulated users behind the platform's surface; agents that learn from logs alone never step it."""
    backbone: Backbone
    """The platform's encoder, whose states the policy reads and whose item vectors its head starts from."""
    logged: Transitions | None = None
    """Transitions for agents that learn from logs (CQL)."""

    def item_vectors(self) -> tuple[Tensor, Tensor]:
        """The backbone's item vectors (N, D) and biases (N,), detached copies on the CPU."""
        with torch.no_grad():
            return self.backbone.item_vectors().float().cpu().clone(), self.backbone.item_bias().float().cpu().clone()


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
    if name not in AGENTS:
        raise ValueError(f"no agent is called {name!r}; known: {', '.join(sorted(AGENTS))}")
    module, _, attribute = AGENTS[name].partition(":")
    return cast("Agent", getattr(importlib.import_module(module), attribute)(**fields))
