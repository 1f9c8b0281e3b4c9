"""CQL with an item-scoring head, by d3rlpy, from transitions alone: logged sessions, or collected ones.

The minibatches are drawn here, not by d3rlpy's buffer: so a truncated session keeps its last step (d3rlpy would drop
it), with the state after it as the next observation, and a resumed run draws what it would have drawn.

Source: Kumar, Zhou, Tucker, Levine (2020), "Conservative Q-learning for offline reinforcement learning", equation 4.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import d3rlpy
import numpy as np
import structlog
import torch
from d3rlpy.dataset import TransitionMiniBatch
from d3rlpy.models.torch.q_functions.base import DiscreteQFunction, QFunctionOutput
from d3rlpy.models.torch.q_functions.mean_q_function import DiscreteMeanQFunctionForwarder
from torch import Tensor
from tqdm import tqdm

from agents.layout import Layout
from agents.learning import (
    LearningCurve,
    Row,
    describe,
    isolated_randomness,
    load_checkpoint,
    save_checkpoint,
    seed_segment,
)
from agents.networks import ItemScorer, spread_gain
from agents.scoring import ScoringPolicy
from agents.task import Task
from recgym.types import FloatArray, IntArray, Transitions


@dataclass(frozen=True, kw_only=True)
class CQL:
    """Conservative Q-learning: Q by temporal differences, pushed down for what the log does not show."""

    updates: int = 2_000
    """Gradient steps."""
    batch_size: int = 256
    """Transitions in a gradient step."""
    learning_rate: float = 3e-4
    """Adam's step size."""
    discount: float = 0.95
    """Weight of a reward against the one a step earlier, gamma."""
    conservatism: float = 0.1
    """Weight of logsumexp Q - Q(logged), alpha."""
    target_update_interval: int = 200
    """Gradient steps between copies of the Q-network to its target."""
    hidden: int = 64
    """Units of the head's MLP."""
    initial_spread: float = 0.1
    """Standard deviation within a state of the first Q-values, which rank as the backbone does; in reward."""
    choice: Literal["greedy", "softmax"] = "softmax"
    """How the trained policy chooses: its best item bores where it is shown again and again."""
    temperature: float = 0.05
    """Divides Q for choice "softmax"."""
    segments: int = 20
    """Rows of the learning curve, with a checkpoint each."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for field in ("updates", "batch_size", "target_update_interval", "hidden", "segments"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}, expected at least 1")
        if not (0 <= self.discount < 1 and self.conservatism >= 0):
            raise ValueError(
                f"discount {self.discount} and conservatism {self.conservatism}: expected [0, 1) and at least 0"
            )

    def train(
        self, task: Task, *, seed: int, folder: Path | str, resume: bool = False, progress: bool = False
    ) -> ScoringPolicy:
        """Train on `task.logged`; see `agents.task.Agent`.

        Raises:
            ValueError: the task has no transitions, or they lack the state or hold slates.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        data = Offline.of(task.logged)
        with isolated_randomness():
            seed_segment(seed, -1)
            algorithm = self._build(task, data)
            self._learn(algorithm, data, describe(self, seed), seed, folder, resume=resume, progress=progress)
        scorer = algorithm.impl.q_function[0].scorer
        slate_size = task.sessions.config.slate_size
        return ScoringPolicy(
            scorer=scorer, name="cql", choice=self.choice, temperature=self.temperature, slate_size=slate_size
        )

    def _build(self, task: Task, data: Offline) -> Any:
        """d3rlpy's algorithm with an item scorer as its Q-function."""
        vectors, bias = task.item_vectors()
        state = torch.from_numpy(data.now[:: max(1, len(data.now) // 256), :-1])
        gain = spread_gain(state, vectors, bias, self.initial_spread)

        def scorer() -> ItemScorer:
            layout = Layout(num_items=len(bias), state_width=vectors.shape[1])
            return ItemScorer(layout, vectors, bias, hidden=self.hidden, gain=gain)

        config = d3rlpy.algos.DiscreteCQLConfig(
            batch_size=self.batch_size,
            gamma=self.discount,
            learning_rate=self.learning_rate,
            target_update_interval=self.target_update_interval,
            alpha=self.conservatism,
            encoder_factory=d3rlpy.models.VectorEncoderFactory(hidden_units=[1]),
            q_func_factory=_ItemQFactory(make_scorer=scorer),
        )
        algorithm = config.create(device="cpu")
        logging = structlog.get_config()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))  # d3rlpy says what we do already
        algorithm.create_impl((data.now.shape[1],), len(bias))
        structlog.configure(**logging)
        return algorithm

    def _learn(
        self, algorithm: Any, data: Offline, run: str, seed: int, folder: Path, *, resume: bool, progress: bool
    ) -> None:
        """All segments, from the checkpoint where there is one."""
        checkpoint = load_checkpoint(folder, run) if resume else None
        curve = LearningCurve(folder, checkpoint["rows"] if checkpoint else [])
        modules = algorithm.impl.modules
        begin = 0
        if checkpoint:
            begin = int(checkpoint["segment"])
            modules.q_funcs.load_state_dict(checkpoint["q"])
            modules.targ_q_funcs.load_state_dict(checkpoint["target"])
            modules.optim.optim.load_state_dict(checkpoint["optimiser"])
        try:
            with tqdm(total=self.updates, desc="CQL", unit="update", disable=not progress) as bar:
                for segment in range(begin, self.segments):
                    seed_segment(seed, segment)
                    first, last = (self.updates * part // self.segments for part in (segment, segment + 1))
                    bar.update(first - bar.n)
                    sums: dict[str, float] = {}
                    for update in range(first, last):
                        algorithm._grad_step = update
                        rows = torch.randint(len(data.action), (self.batch_size,)).numpy()
                        for name, value in algorithm.update(data.minibatch(rows)).items():
                            sums[name] = sums.get(name, 0.0) + value / max(last - first, 1)
                        bar.update()
                    row: Row = {"step": last, **{f"train/{name}": value for name, value in sums.items()}}
                    curve.add(row)
                    state = {"q": modules.q_funcs.state_dict(), "target": modules.targ_q_funcs.state_dict()}
                    state["optimiser"] = modules.optim.optim.state_dict()
                    save_checkpoint(folder, run, {"rows": curve.rows, "segment": segment + 1, **state})
        finally:
            curve.close()


@dataclass(frozen=True, eq=False)
class Offline:
    """T transitions as d3rlpy takes them."""

    now: FloatArray  # (T, D + 1) state and context before the step
    after: FloatArray  # (T, D + 1) the same after it
    action: IntArray  # (T,) 0..N-1
    reward: FloatArray  # (T,)
    terminal: FloatArray  # (T,) 1 where the user left

    @classmethod
    def of(cls, logged: Transitions | None) -> Offline:
        """Read transitions.

        Raises:
            ValueError: there are none, or they lack the state, or hold slates.
        """
        if logged is None or not logged.num_steps:
            raise ValueError("CQL learns from transitions, and the task has none: give Task(logged=...)")
        if logged.state is None or logged.final_state is None:
            raise ValueError(
                "the transitions have no state; collect them with keep=('state',), or read them with a backbone"
            )
        if logged.action.shape[1] != 1:
            raise ValueError(f"CQL chooses one item, the transitions hold slates of {logged.action.shape[1]}")
        now = np.concatenate([logged.state, logged.context], 1).astype(np.float32)
        after = np.roll(now, -1, axis=0)
        last = np.append(np.diff(logged.episode) != 0, True)
        after[last] = np.concatenate([logged.final_state, logged.final_context], 1)
        return cls(now, after, logged.action[:, 0] - 1, logged.reward, logged.terminated.astype(np.float32))

    def minibatch(self, rows: IntArray) -> TransitionMiniBatch:
        """The given transitions (B,)."""
        action = self.action[rows, None].astype(np.float32)
        return TransitionMiniBatch(
            observations=self.now[rows],
            actions=action,
            rewards=self.reward[rows, None],
            next_observations=self.after[rows],
            next_actions=action,  # not read by Q-learning
            terminals=self.terminal[rows, None],
            intervals=np.ones((len(rows), 1), np.float32),
            transitions=[],
        )


class _ItemQ(DiscreteQFunction):  # type: ignore[misc]
    """d3rlpy's Q-function protocol around an item scorer; the encoder it insists on is not used."""

    def __init__(self, encoder: Any, scorer: ItemScorer) -> None:
        super().__init__()
        self._unused, self.scorer = encoder, scorer

    def forward(self, x: Tensor) -> QFunctionOutput:
        return QFunctionOutput(q_value=self.scorer(self.scorer.layout.unpack(x)), quantiles=None, taus=None)

    @property
    def encoder(self) -> Any:
        return self._unused


@dataclasses.dataclass()
class _ItemQFactory(d3rlpy.models.QFunctionFactory):  # type: ignore[misc]
    """Makes item scorers for d3rlpy."""

    make_scorer: Any = None

    def create_discrete(self, encoder: Any, hidden_size: int, action_size: int) -> Any:  # noqa: ARG002
        q_function = _ItemQ(encoder, self.make_scorer())
        return q_function, DiscreteMeanQFunctionForwarder(q_function, action_size)

    def create_continuous(self, encoder: Any, hidden_size: int) -> Any:
        raise NotImplementedError("items are discrete actions")

    @staticmethod
    def get_type() -> str:
        return "recgym-items"
