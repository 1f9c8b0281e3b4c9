"""The words every module shares: dimensions, observations, responses, transitions, estimates.

Dimension key, used in every shape comment of the project:

    B sessions in a batch    L history length    K slate size    N items    D state width
    F kinds of feedback      T steps             E episodes      C context columns

Item ids inside sequences, slates and histories are 1..N and 0 is padding. Column j of a (B, N) score belongs to
item j + 1. A Gymnasium action is 0..N-1; only `recgym.env` converts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

FeedbackType = Literal["binary", "real"]
Reads = Literal["state", "history", "all"]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class FeedbackKind:
    """One kind of feedback (a behaviour): its name, its type and what it depends on."""

    name: str
    """Behaviour as in the log: "click", "like", "dwell", ..."""
    type: FeedbackType = "binary"
    """"binary": 0 or 1. "real": a non-negative amount in `unit`, 0 where it did not happen."""
    given: str | None = None
    """Another kind without which this one cannot happen ("like" given "click"), or None."""
    unit: str = ""
    """Unit of a real kind ("seconds", "stars"); empty for a binary one."""


class Observation(NamedTuple):
    """What the platform sees of B sessions when it chooses what to show next.

    Parts that nobody asked for are None: a policy says which it `reads`.
    """

    context: Tensor  # (B, 1) float32: steps taken in this session, in hundreds
    state: Tensor | None = None  # (B, D) float32: the encoder's state of the history
    items: Tensor | None = None  # (B, L) int64: 1..N, most recent last, 0 pads on the left
    feedback: Tensor | None = None  # (B, L, F) float32: feedback of each of those items
    mask: Tensor | None = None  # (B, N) bool: True where the item may be shown; None: all may
    candidates: Tensor | None = None  # (B, N, X) float32: features of fresh candidates; None: a fixed catalogue
    offered: Tensor | None = None  # (B, N) int64: ids of the candidates in the catalogue, where a retriever chose them
    memory: Any = None  # NamedTuple of tensors (B, ...) that a policy keeps of the session; see `RemembersSessions`


class Visible(NamedTuple):
    """The part of a user's state that the platform can see."""

    vector: Tensor  # (B, D) float32
    candidates: Tensor | None = None  # (B, N, X) float32: features of the items, where each step brings new ones
    offered: Tensor | None = None  # (B, N) int64: their ids in the catalogue, where a retriever chose them


class Response(NamedTuple):
    """How B users reacted to one slate each."""

    feedback: Tensor  # (B, K, F) float32
    leaves: Tensor  # (B,) bool: the user ends the session (terminated, never truncated)
    gap: Tensor  # (B,) float32: days until the user returns; inf = churned, nan = still here or not modelled


class Policy(Protocol):
    """A recommendation policy, whatever trained it."""

    @property
    def name(self) -> str:
        """Registered name, as in `policy.json`."""
        ...

    @property
    def reads(self) -> Reads:
        """Which part of the observation it needs: "state", "history" (items and feedback) or "all"."""
        ...

    def scores(self, observation: Observation) -> Tensor:
        """Score every item, (B, N); higher is shown first. Used for HR/NDCG and top-K. Ignores the mask."""
        ...

    def probabilities(self, observation: Observation) -> Tensor:
        """Probability that each item is shown at slot 0, (B, N); rows sum to 1, 0 where the mask forbids."""
        ...

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        """Choose a slate of item ids, (B, K); `keys` (B,) int64 are fresh for this decision."""
        ...


@runtime_checkable
class RemembersSessions(Policy, Protocol):
    """A policy that reads a session step by step into a memory, as recurrent ones do.

    It holds no memory itself: who runs sessions calls `recall` at every step, puts the result into the observation, and
    carries it to the next step (`recgym.policy.recalled`).

    An observation without memory (a ranking question on a log) is read for what it shows: its visible history, or this
    one step where there is none. Off-policy estimators ask without memory.
    """

    def recall(self, observation: Observation, memory: Any) -> Any:
        """The memory of B sessions once `observation` is read, a NamedTuple of tensors (B, ...).

        Args:
            observation: of this step.
            memory: what `recall` gave at these sessions' step before, which stays as it is; None at their first.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """T steps of E episodes, episode after episode, each in time order. Numpy, first dimension T (or E)."""

    context: FloatArray  # (T, 1)
    state: FloatArray | None  # (T, D)
    items: IntArray | None  # (T, L)
    history: FloatArray | None  # (T, L, F): feedback of `items`
    mask: BoolArray | None  # (T, N) True where the item might be shown
    action: IntArray  # (T, K) item ids 1..N
    feedback: FloatArray  # (T, K, F)
    reward: FloatArray  # (T,)
    terminated: BoolArray  # (T,) the user left after this step
    truncated: BoolArray  # (T,) the record was cut after this step
    propensity: DoubleArray  # (T,) probability of `action` under the policy that logged it; nan where unknown
    episode: IntArray  # (T,) 0..E-1, non-decreasing
    user: IntArray  # (E,) who, for intervals that resample users; index of the session where unknown
    final_context: FloatArray  # (E, 1) the observation after each episode's last step
    final_state: FloatArray | None  # (E, D)
    visit: IntArray | None = None  # (T,) sessions before the step's, where an episode is a life of several
    day: FloatArray | None = None  # (T,) days since the life's first session began

    @property
    def num_steps(self) -> int:
        """Steps, T."""
        return len(self.reward)

    @property
    def num_episodes(self) -> int:
        """Episodes, E."""
        return len(self.user)

    @property
    def returns(self) -> DoubleArray:
        """Undiscounted reward of each episode, (E,)."""
        found = np.bincount(self.episode, self.reward.astype(np.float64), minlength=self.num_episodes)
        return found.astype(np.float64)

    @property
    def step(self) -> IntArray:
        """Place of each step in its episode, (T,), from 0."""
        first = np.searchsorted(self.episode, np.arange(self.num_episodes))  # (E,)
        return np.arange(self.num_steps) - first[self.episode]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimated value with what is needed to distrust it."""

    estimator: str
    value: float
    low: float
    high: float
    level: float = 0.95
    """Nominal coverage of [low, high]."""
    effective_sample_size: float = float("nan")
    """(sum w)^2 / sum w^2 of the importance weights, in episodes; nan where no weights are used."""
    sample_size: int = 0
    """Episodes used."""
    verdict: Literal["supported", "weak", "cannot say"] = "supported"
    warnings: tuple[str, ...] = ()


class Estimator(Protocol):
    """An off-policy estimator."""

    def estimate(self, logged: Transitions, policy: Policy) -> Estimate:
        """Estimate the value that `policy` would have earned, from `logged` alone."""
        ...
