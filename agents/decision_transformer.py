"""Decision Transformer: the next item as a function of the visible history and of the reward still to come.

    R_i        reward from step i to the end of the session
    token i    W_v vector(item_i) + W_f log1p(feedback_i) + W_r [R_i, in the session or not] + position_i
    last       W_s state + W_c steps + W_r [R_t, 1] + position_t
    h          causal transformer over the last L tokens, read at the last one
    score_a    (W state + W_h h) . E_a + b_a,    W state the backbone's own query, where there is one
    loss       mean of -log softmax over allowed items of score(logged item)

To act, R_t = target return - what the session earned so far, read off the history's feedback: so nothing is kept
between steps. Where the session is longer than the L items of the history, what lies before is not counted; where
histories leave out what users did not choose, what earlier sessions earned may be counted in its place.

An own page: d3rlpy's model learns an embedding and an output for every item, where ours reads and scores the
backbone's item vectors, sees feedback, and honours masks. The tokens of past states are left out, since a past
state is a function of the items and feedback before it.

Source: Chen et al. (2021), "Decision Transformer: reinforcement learning via sequence modeling", section 3.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from agents import updates
from agents.learning import Row, check_choice, check_counts, check_shares
from agents.offline import Minibatch, Offline
from agents.return_transformer import ReturnPolicy, ReturnTransformer
from agents.task import Task
from agents.training import Stopping, descend, restore, run, snapshot
from agents.updates import HeldOut, cloning_loss, with_logged
from recgym.policy import StoredPolicy


@dataclass(frozen=True, kw_only=True)
class DecisionTransformer:
    """Return-conditioned sequence model; its ablation without returns is `bc` with `top_share`."""

    updates: int = 2_000
    """Gradient steps."""
    batch_size: int = 64
    """Transitions in a gradient step."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    context: int = 20
    """Items of the visible history that are read, L, where the log holds so many."""
    width: int = 64
    """Units of a token."""
    layers: int = 2
    """Blocks of the transformer."""
    heads: int = 4
    """Heads of the attention."""
    dropout: float = 0.1
    """Share of units left out in training."""
    target_quantile: float = 0.9
    """Quantile of the log's returns that the policy aims at, unless `target_return` is given."""
    target_return: float | None = None
    """Return that the policy aims at."""
    held_out: float = 0.1
    """Share of the sessions held out; the result is the network that predicts them best. 0: the last network."""
    patience: int = 0
    """Segments without a lower loss on what is held out after which nothing more is learned; 0: it goes on."""
    choice: Literal["greedy", "softmax"] = "softmax"
    """How the trained policy chooses."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether to judge policies by reward on the way and keep the best."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice(self)
        check_counts(self, "updates", "batch_size", "context", "width", "layers", "heads", "segments")
        check_shares(self, "dropout", "target_quantile", "held_out")
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, expected a multiple of heads, {self.heads}")

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> StoredPolicy:
        """Train on `task.logged`, which holds the history; see `agents.task.Agent`."""
        return run(
            self, lambda: _Learner(self, task, Path(folder)), task, total=self.updates, segments=self.segments,
            seed=seed, folder=folder, stopping=self.stopping, resume=resume, progress=progress, unit="update",
        )  # fmt: skip


class _Learner:
    """One run: the network, the optimiser and the log."""

    def __init__(self, config: DecisionTransformer, task: Task, folder: Path) -> None:
        self.config, self.task, self.folder, self.done = config, task, folder, 0
        layout = task.layout(1)
        logged = task.logged
        if layout.candidate_width:
            raise ValueError("these users bring new candidates each step, whose numbers mean nothing later: use `bc`")
        if logged is not None and (logged.items is None or logged.history is None):
            raise ValueError(
                "the agent reads the history, and the transitions have none; collect them with "
                "keep=('state', 'history'), or read them with history=True"
            )
        sessions, length = task.sessions, config.context
        kinds = sessions.users.kinds
        if logged is not None and logged.items is not None:
            length = min(length, logged.items.shape[1])
        data = Offline.of(task, layout=replace(layout, history=length, num_feedback=len(kinds)))
        vectors = task.item_vectors() if task.backbone is not None else (None, None)
        self.network = ReturnTransformer(
            data.layout, tuple(sessions.weights.get(kind.name, 0.0) for kind in kinds), *vectors, width=config.width,
            layers=config.layers, heads=config.heads, dropout=config.dropout,
        ).to(task.device)  # fmt: skip
        self.network.scale.fill_(max(1e-6, float(data.returns.abs().max())))
        self.target_return = config.target_return
        if self.target_return is None:
            self.target_return = float(data.returns.quantile(config.target_quantile))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.held = HeldOut(data, config.held_out, config.patience)

    def advance(self, last: int) -> Row:
        """Update to `last`, unless the held-out loss says that it would not help."""
        self.network.train()
        row = {} if self.held.over else updates.learn(self, last)
        self.network.eval()
        return {**row, **self.held.judge(self.network, self._loss)}

    def update(self, number: int) -> dict[str, Tensor]:  # noqa: ARG002
        """One gradient step; its terms."""
        batch = self.held.training.sample(self.config.batch_size)
        return descend(self.folder, self.optimiser, {"cloning": self._loss(batch).mean()}, batch._asdict())

    def _loss(self, batch: Minibatch) -> Tensor:
        seen = with_logged(self.network.layout.unpack(batch.now), batch.action)
        return cloning_loss(self.network(seen, batch.to_go), batch.action, seen.mask)

    def policy(self) -> ReturnPolicy:
        """The network that predicts what is held out best, or the last one, aiming at the target."""
        assert self.target_return is not None
        return ReturnPolicy(
            network=copy.deepcopy(self.held.pick(self.network)).eval(), target_return=self.target_return,
            choice=self.config.choice, slate_size=self.task.slate_size,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on."""
        return snapshot(self, "done", "network", "optimiser", "held")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        restore(self, state)
