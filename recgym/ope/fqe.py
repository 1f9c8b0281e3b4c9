"""Fitted Q evaluation: learn from the log what each choice leads to under the target policy, then read the value off.

Q(s, j) = v(s) + b_j + phi(s) . e_j with a two-layer network for v and phi and R numbers an item, so that the
expectation over a catalogue of N items costs R N: sum_j pi(j | s) Q(s, j) = v(s) + pi b + phi(s) . (pi e).

Source: Le, Voloshin and Yue (2019), "Batch policy learning under constraints", algorithm 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recgym.ope.diagnostics import MODEL_ERROR, Question, conclude, judge, read_interval, support, withheld, worse
from recgym.ope.importance import episode_sums
from recgym.ope.intervals import members_and_users
from recgym.ope.targets import PolicyTarget, Target
from recgym.ope.views import chunks, first_steps, resampled, single_steps
from recgym.ope.weights import SupportError, step_ratios, target_probabilities
from recgym.types import DoubleArray, Estimate, FloatArray, IntArray, Policy, Transitions

_KEEP = 1 << 26  # target probabilities kept between passes, in numbers (256 MiB); beyond it they are computed again


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How the Q function is fitted."""

    width: int = 64
    """Hidden units."""
    rank: int = 16
    """Numbers an item, R."""
    rounds: int = 40
    """Refreshes of the regression target: about the number of steps over which reward is carried back."""
    updates: int = 80
    """Gradient steps a round."""
    batch_size: int = 512
    """Steps of the log a gradient step."""
    learning_rate: float = 2e-3
    """Of Adam; it falls to a tenth over the rounds."""
    weight_decay: float = 1e-3
    """Decoupled, on every weight: an item that the log seldom shows stays near the average item."""

    def __post_init__(self) -> None:
        """Refuse numbers that fit nothing."""
        for name in ("width", "rank", "rounds", "updates", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ValueError(
                "learning_rate must be positive and weight_decay not negative, "
                f"got {self.learning_rate} and {self.weight_decay}"
            )


class Values(NamedTuple):
    """A Q function read along a log, in units of reward."""

    q: DoubleArray  # (T,) Q(s_t, a_t)
    v: DoubleArray  # (T,) sum_j pi(j | s_t) Q(s_t, j)
    v_next: DoubleArray  # (T,) the same after step t; 0 where the session has ended


class QFunction(nn.Module):
    """Q(s, j) for all items, low-rank in the item; features are standardised, values are in units of `scale`."""

    def __init__(self, features: Tensor, num_items: int, scale: float, config: FitConfig, generator: torch.Generator):
        """Draw weights from `generator`; `features` (T, D + C) standardise: what is constant there is read as 0."""
        super().__init__()
        self.scale = scale
        self.mean, spread = features.mean(0), features.std(0, correction=0)
        self.spread = torch.where(spread > 1e-6 * features.abs().amax(0), spread, torch.inf)

        def draw(rows: int, columns: int, spread: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns, generator=generator) * spread)

        inputs, width = features.shape[1], config.width
        self.first, self.first_bias = draw(inputs, width, inputs**-0.5), nn.Parameter(torch.zeros(width))
        self.second, self.second_bias = draw(width, width, width**-0.5), nn.Parameter(torch.zeros(width))
        self.head = draw(width, 1 + config.rank, width**-0.5)  # v and phi
        self.item = draw(num_items, config.rank, 0.1 * config.rank**-0.5)  # (N, R)
        self.item_bias = nn.Parameter(torch.zeros(num_items))
        self.bias = nn.Parameter(torch.zeros(()))

    def parts(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """v(s) (B,) and phi(s) (B, R)."""
        hidden = torch.relu(((features - self.mean) / self.spread).clamp(-10, 10) @ self.first + self.first_bias)
        hidden = torch.relu(hidden @ self.second + self.second_bias)
        out = hidden @ self.head  # (B, 1 + R)
        return out[:, 0] + self.bias, out[:, 1:]

    def taken(self, features: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) of the given item ids 1..N, (B,), in units of `scale`."""
        v, phi = self.parts(features)
        return v + self.item_bias[action - 1] + (phi * self.item[action - 1]).sum(1)

    def expected(self, features: Tensor, probability: Tensor) -> Tensor:
        """sum_j pi(j | s) Q(s, j), (B,), from pi (B, N), in units of `scale`."""
        v, phi = self.parts(features)
        return v + probability @ self.item_bias + (phi * (probability @ self.item)).sum(1)


class LoggedTarget:
    """The target policy's distributions along one log, chunk by chunk, with the features of the same steps."""

    def __init__(self, logged: Transitions, target: Target, *, rows: IntArray | None = None):
        """Check that the log carries what the fit needs.

        Args:
            logged: the log.
            target: the policy, along this log or one that holds it.
            rows: (T,) the target's row of each step of `logged`; None: they are numbered alike.

        Raises:
            ValueError: The log has no state, or slates, or only the chance of what was shown is known of the target.
        """
        if logged.state is None or logged.final_state is None:
            raise ValueError("fitted Q evaluation needs the state of each step: read the log with a backbone")
        if logged.action.shape[1] != 1:
            raise ValueError(f"fitted Q evaluation is for one item a step, got slates of {logged.action.shape[1]}")
        if not target.knows_all:
            raise ValueError(f"fitted Q evaluation needs all that policy {target.name!r} would show, got a column")
        self.logged, self.target = logged, target
        self.features = _features(logged.state, logged.context)  # (T, D + C)
        self.action = torch.tensor(logged.action[:, 0])  # (T,)
        self._rows = np.arange(logged.num_steps) if rows is None else rows
        first_steps(logged.episode)
        last = np.append(np.diff(logged.episode) != 0, True)  # (T,)
        cut = np.flatnonzero(last & logged.truncated & ~logged.terminated)
        readable = bool(len(cut)) and target.after(self._rows[cut[:1]]) is not None
        self.unread_cuts = 0 if readable else len(cut)
        self._cut = cut if readable else np.empty(0, dtype=np.int64)  # (X,) steps
        self._cut_features = _features(logged.final_state, logged.final_context)[logged.episode[self._cut]]
        self._inner = ~last & ~logged.terminated  # (T,) a step of the same episode follows
        self._kept: list[Tensor] = []

    @property
    def num_items(self) -> int:
        """N, as the policy has it."""
        return self.target.distribution(self._rows[:1]).shape[1]

    def values(self, q: QFunction) -> tuple[DoubleArray, DoubleArray]:
        """V before and after each step, both (T,), in units of q.scale."""
        with torch.no_grad():
            parts = [q.expected(self.features[rows], pi) for rows, pi in self._distributions()]
            before = torch.cat(parts).double().numpy()  # (T,)
            after = np.append(before[1:], 0.0) * self._inner
            for rows in chunks(len(self._cut)):
                cut = self._cut[rows]
                pi = self.target.after(self._rows[cut])
                assert pi is not None, "asked before"
                after[cut] = q.expected(self._cut_features[rows], pi).double().numpy()
        return before, after

    def _distributions(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, pi (B, N)) over the log; kept after the first pass where they are small enough."""
        slices = chunks(self.logged.num_steps)
        if len(self._kept) == len(slices):
            yield from zip(slices, self._kept, strict=True)
            return
        self._kept = []
        for rows in slices:
            pi = self.target.distribution(self._rows[rows])
            if self.logged.num_steps * pi.shape[1] <= _KEEP:
                self._kept.append(pi)
            yield rows, pi


def fit(
    target: LoggedTarget, config: FitConfig, *, discount: float, seed: int, rows: IntArray | None = None
) -> QFunction:
    """Fit Q by repeated regression on r + discount V(s'), V from the Q of the round before; no global randomness.

    Each gradient step draws among `rows` of the log, with their repetitions; None: among all, once each.
    """
    pool = torch.arange(target.logged.num_steps) if rows is None else torch.from_numpy(rows)
    generator = torch.Generator().manual_seed(seed)
    reward = target.logged.reward.astype(np.float64)
    scale = max(float(np.sqrt(np.mean(reward**2))), 1e-8)
    q = QFunction(target.features, target.num_items, scale, config, generator)
    optimiser = torch.optim.AdamW(q.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    rounds = config.rounds if discount > 0 and not target.logged.terminated.all() else max(1, config.rounds // 4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, total_iters=rounds)
    batch = min(config.batch_size, len(reward))
    after = np.zeros(len(reward))
    for _ in range(rounds):
        goal = torch.from_numpy(reward / scale + discount * after).float()  # (T,)
        for _ in range(config.updates):
            some = pool[torch.randint(len(pool), (batch,), generator=generator)]
            loss = ((q.taken(target.features[some], target.action[some]) - goal[some]) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
        after = target.values(q)[1]
    return q.requires_grad_(False)


def read(q: QFunction, target: LoggedTarget) -> Values:
    """Q and V along a log, in units of reward."""
    before, after = target.values(q)
    taken = torch.cat([q.taken(target.features[rows], target.action[rows]) for rows in chunks(len(target.features))])
    return Values(q=taken.double().numpy() * q.scale, v=before * q.scale, v_next=after * q.scale)


@dataclass(frozen=True, kw_only=True)
class FittedQ:
    """Fitted Q evaluation (the direct method per step): no weights, so no wildness; bias wherever the fit is wrong.

    With one member its interval holds the spread over users, not the error of the fit; with more, each fitted to users
    drawn anew with replacement, the value is their mean and the interval holds what the fit owes to these users and to
    its own luck. What the network cannot express is in neither; so its verdict is never better than "weak".

    Source of the bootstrap: Hao et al. (2021), "Bootstrapping fitted Q-evaluation for off-policy inference".
    """

    question: Question = field(default_factory=Question)
    """What is asked of the log."""
    fitting: FitConfig = field(default_factory=FitConfig)
    """How Q is fitted."""
    members: int = 1
    """Fits, M: 1, to the log as it is; or several, each to as many users drawn from the log's with replacement."""

    def __post_init__(self) -> None:
        """Refuse an ensemble of nothing."""
        if self.members < 1:
            raise ValueError(f"members must be at least 1, got {self.members}")

    def estimate(self, logged: Transitions, policy: Policy) -> Estimate:
        """Estimate the policy's value by a fitted Q function, with or without logged propensities.

        Raises:
            ValueError: The log carries no state, or the log or the policy's probabilities are malformed.
        """
        asked = self.question
        view = single_steps(logged) if asked.per == "step" else logged
        target = LoggedTarget(view, PolicyTarget(policy=policy, logged=view))
        start = self._starts(target)  # (M, E)
        returns = episode_sums(view.reward.astype(np.float64), view.episode, asked.discount)  # (E,)
        if wild := [value for value in start.mean(axis=1) if not plausible(value, returns)]:
            reason = (
                f"the fit diverged: it puts the value at {wild[0]:.3g} where logged returns lie in "
                f"[{returns.min():.3g}, {returns.max():.3g}]; lower the discount or the learning rate, or log more"
            )
            return withheld("FQE", reason, asked, sample_size=view.num_episodes)
        interval = read_interval(asked, start[0], np.ones(start.shape[1]), view.user)
        words = (*cut_words(target), *((MODEL_ERROR,) if self.members == 1 else ()))
        if self.members > 1:
            interval = members_and_users(start, view.user, level=asked.level)
            words += (
                f"the interval is the spread over users and over {self.members} fits to resampled users; "
                "what the network cannot express is not in it",
            )
        try:
            ratios = step_ratios(target_probabilities(policy, view), view.propensity)
        except SupportError as reason:
            words += (f"support cannot be checked: {reason}",)
            return conclude("FQE", interval, asked, None, user=view.user, warnings=words, cap="weak")
        alone = single_steps(view)  # the fit extrapolates step by step, so support is a matter of single steps
        verdict, doubts = judge(support(ratios, alone.episode, alone.user), asked.thresholds, per="step")
        cap = worse(verdict, "weak")
        return conclude("FQE", interval, asked, None, user=view.user, warnings=words + doubts, cap=cap)

    def _starts(self, target: LoggedTarget) -> DoubleArray:
        """V at the start of each episode by each member, (M, E)."""
        asked, episode = self.question, target.logged.episode
        found = []
        for number in range(self.members):
            rows = None if self.members == 1 else resampled(target.logged, seed=asked.seed + number)
            q = fit(target, self.fitting, discount=asked.discount, seed=asked.seed + number, rows=rows)
            found.append(read(q, target).v[first_steps(episode)])
        return np.stack(found)


def cut_words(target: LoggedTarget) -> tuple[str, ...]:
    """Words where sessions that were cut had to count as ended."""
    if not target.unread_cuts:
        return ()
    return (
        f"{target.unread_cuts} sessions were cut while the user was still there and count as ended: "
        "the policy cannot be asked what it would do after the last logged step",
    )


def plausible(value: float, returns: DoubleArray) -> bool:
    """Whether a mean lies within the logged returns, stretched by their range on either side."""
    low, high = float(returns.min()), float(returns.max())
    margin = max(high - low, abs(high), abs(low), 1e-6)
    return math.isfinite(value) and low - margin <= value <= high + margin


def _features(state: FloatArray, context: FloatArray) -> Tensor:
    """State and context side by side, (T, D + C) float32."""
    return torch.from_numpy(np.concatenate([state, context], axis=1)).float()
