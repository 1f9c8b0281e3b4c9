"""Off-policy estimates from Parquet files too large for memory.

What an estimator needs of a log are sums over the sessions of each user: numerators and denominators (U, H), the same
whether the log was read at once or in chunks. Support is summed along the way, the heaviest 1% included. Above
`most_users` users the rows of the sums become bags of users, drawn by hash, and the bootstrap resamples bags: users
are independent, so bags are. The value stays what it was. The interval is as valid, and its width varies by
1 / sqrt(2 bags) of itself with the draw of the bags: 0.3% at 65,536. Memory is then rows times columns (horizon, twice
for ratios) of the estimators, whatever the length of the log.

The formulas are those of `importance`, `doubly_robust`, `weighted_dr`, `one_step` and `one_step_models`, chunk by
chunk. Sessions that the log cut count as ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recgym.ope.diagnostics import Question, Support, conclude_counts, judge, withheld, worse
from recgym.ope.doubly_robust import doubly_robust
from recgym.ope.fqe import Values
from recgym.ope.importance import (
    episode_sums,
    last_weights,
    per_decision,
    trajectory_wise,
    weighted_per_decision_terms,
)
from recgym.ope.intervals import bootstrap_ratio
from recgym.ope.one_step import clipped_weights
from recgym.ope.one_step_models import optimistic_weights, switch_weights
from recgym.ope.rows import check_weight_left
from recgym.ope.running_sums import Rows, Table, Weights, sort_rows
from recgym.ope.step_files import Chunk, StepColumns, StepPolicy, count_rows, read_steps, step_files
from recgym.ope.views import first_steps
from recgym.ope.weights import SupportError, cumulative_weights
from recgym.types import DoubleArray, Estimate, IntArray


class Seen(NamedTuple):
    """A chunk as an estimator sees it."""

    ratios: DoubleArray  # (T,) pi / mu
    reward: DoubleArray  # (T,)
    values: Values | None
    episode: IntArray  # (T,)
    discount: float
    limit: float
    """Above it weights are clipped and Switch-DR leaves them to the model; DRos has its square as strength."""

    @property
    def model(self) -> Values:
        """The model, where an estimator asks for it."""
        if self.values is None:
            raise ValueError("this estimator needs a model: give q and v to the policy")
        return self.values

    @property
    def error(self) -> DoubleArray:
        """What the model missed: r + discount V(s') - Q(s, a), (T,)."""
        return self.reward + self.discount * self.model.v_next - self.model.q


Pair = tuple[DoubleArray, DoubleArray]
Terms = Callable[[Seen], DoubleArray | Pair]
"""Terms (E,) whose mean is the estimate, or numerators and denominators (E,) or (E, H) whose ratios add up to it."""


def _weighted_doubly_robust(seen: Seen) -> Pair:
    """The terms of `weighted_dr`, without its refusal of chunks that have no weight left: other chunks may have."""
    above, below = weighted_per_decision_terms(seen.ratios, seen.error, seen.episode, seen.discount)
    start = first_steps(seen.episode)
    return np.hstack([seen.model.v[start][:, None], above]), np.hstack([np.ones((len(start), 1)), below])


def _self_normalised_doubly_robust(seen: Seen) -> Pair:
    above = np.stack([seen.model.v, seen.ratios * (seen.reward - seen.model.q)], axis=1)
    return above, np.stack([np.ones(len(seen.ratios)), seen.ratios], axis=1)


def _corrected(seen: Seen, weights: DoubleArray) -> DoubleArray:
    return seen.model.v + weights * (seen.reward - seen.model.q)


SESSION: dict[str, Terms] = {
    "IS": lambda s: trajectory_wise(s.ratios, s.reward, s.episode, s.discount),
    "PDIS": lambda s: per_decision(s.ratios, s.reward, s.episode, s.discount),
    "clipped PDIS": lambda s: episode_sums(
        clipped_weights(cumulative_weights(s.ratios, s.episode), s.limit) * s.reward, s.episode, s.discount
    ),
    "weighted IS": lambda s: (
        trajectory_wise(s.ratios, s.reward, s.episode, s.discount), last_weights(s.ratios, s.episode)
    ),
    "weighted PDIS": lambda s: weighted_per_decision_terms(s.ratios, s.reward, s.episode, s.discount),
    "DM": lambda s: s.model.v[first_steps(s.episode)],
    "DR": lambda s: doubly_robust(s.ratios, s.reward, s.model, s.episode, s.discount),
    "WDR": _weighted_doubly_robust,
}  # fmt: skip
"""Estimators of the value of a session."""
STEP: dict[str, Terms] = {
    "IPS": lambda s: s.ratios * s.reward,
    "clipped IPS": lambda s: clipped_weights(s.ratios, s.limit) * s.reward,
    "SNIPS": lambda s: (s.ratios * s.reward, s.ratios),
    "DM": lambda s: s.model.v,
    "DR": lambda s: _corrected(s, s.ratios),
    "SNDR": _self_normalised_doubly_robust,
    "Switch-DR": lambda s: _corrected(s, switch_weights(s.ratios, s.limit)),
    "DRos": lambda s: _corrected(s, optimistic_weights(s.ratios, s.limit**2)),
}
"""Estimators of the value of an impression."""
MODELLED = ("DM", "DR", "WDR", "SNDR", "Switch-DR", "DRos")
"""Those that need q and v."""


@dataclass(frozen=True, kw_only=True)
class UserSums:
    """All that a log says of one policy: sums for each user, or bag of users, and support."""

    numerators: dict[str, DoubleArray]  # estimator -> (U, H)
    denominators: dict[str, DoubleArray]  # the same shapes; each estimate is sum_h [sum_u above / sum_u below]
    support: Support
    """Of the weights asked for: whole sessions', or steps'."""
    step_support: Support
    """Of single steps."""
    bagged: bool
    """Whether rows are bags of users."""
    per: str
    discount: float

    def estimates(self, question: Question) -> dict[str, Estimate]:
        """Value, interval over users and verdict of each estimator.

        Raises:
            ValueError: The question is not the one that was summed up: another `per` or `discount`.
        """
        if (question.per, question.discount) != (self.per, self.discount):
            raise ValueError(
                f"the sums are per {self.per} with discount {self.discount}, the question is per {question.per} with "
                f"discount {question.discount}: sum up the log for it"
            )
        return {name: self._estimate(name, question) for name in self.numerators}

    def _estimate(self, name: str, asked: Question) -> Estimate:
        above, below = self.numerators[name], self.denominators[name]
        try:
            check_weight_left(below)
        except SupportError as reason:
            return withheld(name, str(reason), asked, sample_size=self.support.num_episodes)
        users = len(above)
        interval = bootstrap_ratio(
            above, below, np.arange(users), seed=asked.seed, level=asked.level, replicates=asked.replicates
        )
        episodes = self.support.num_episodes
        if name != "DM":
            return conclude_counts(name, interval, asked, self.support, num_episodes=episodes, num_users=users)
        verdict, doubts = judge(self.step_support, asked.thresholds, per="step")
        words = ("the interval is the spread over users; the model's own error is not in it", *doubts)
        cap = worse(verdict, "weak")
        return conclude_counts(
            name, interval, asked, None, num_episodes=episodes, num_users=users, warnings=words, cap=cap
        )


def stream_estimates(
    source: Path | str,
    columns: StepColumns,
    policies: Mapping[str, StepPolicy],
    question: Question,
    *,
    progress: bool = False,
) -> dict[str, dict[str, Estimate]]:
    """The estimates of each policy by estimator, from a Parquet file or a folder of them; see `stream_sums`."""
    found = stream_sums(source, columns, policies, per=question.per, discount=question.discount, progress=progress)
    return {name: sums.estimates(question) for name, sums in found.items()}


def stream_sums(
    source: Path | str,
    columns: StepColumns,
    policies: Mapping[str, StepPolicy],
    *,
    per: str = "session",
    discount: float = 1.0,
    estimators: Sequence[str] | None = None,
    limit: float = 10.0,
    most_users: int = 1 << 16,
    rows: int = 1 << 18,
    batch: int = 1024,
    progress: bool = False,
) -> dict[str, UserSums]:
    """Read the log once and sum up what every estimator needs, for each policy.

    Args:
        source: A Parquet file, or a folder of them in the order of their names.
        columns: Which column holds what.
        policies: Target policies by name.
        per: "session" or "step"; see `Question`.
        discount: Discount per step.
        estimators: Names in `SESSION` or `STEP`; None: all that the policy's model allows.
        limit: Where weights are clipped, or left to the model; see `Seen`.
        most_users: Users that get a row of their own; where there are more, as many bags.
        rows: Steps read at a time; see `step_files.read_steps`.
        batch: Steps that a policy's function gets at a time.
        progress: Whether to show how far it is.

    Raises:
        ValueError: A row of the log is bad (`step_files.read_steps` names it), or an argument is out of range.
    """
    Question(per=per, discount=discount)  # type: ignore[arg-type] # it refuses what is neither
    if not policies or most_users < 2 or not limit > 0:
        raise ValueError(
            f"expected at least one policy, most_users of at least 2 and a positive limit, got {len(policies)}, "
            f"{most_users} and {limit}"
        )
    known = SESSION if per == "session" else STEP
    wrong = [name for name in estimators or () if name not in known]
    if wrong:
        raise ValueError(f"estimators must be among {', '.join(known)} (per {per}), got {wrong[0]!r}")
    files = step_files(source)
    heaviest = max(1, count_rows(files, columns, policies) // 100)
    place = Rows(most_users)
    totals = {
        policy: _Policy(
            {name: known[name] for name in estimators or known if estimators or target.q or name not in MODELLED},
            per=per, heaviest=heaviest, most=most_users, discount=discount, limit=limit,
        )
        for policy, target in policies.items()
    }  # fmt: skip
    for chunk in read_steps(files, columns, policies, rows=rows, batch=batch, progress=progress):
        row, moved = place.place(chunk.user.to_list())  # (E,)
        for policy, sums in totals.items():
            if moved is not None:
                sums.fold(moved)
            sums.add(chunk, policy, row)
    return {policy: sums.result(place) for policy, sums in totals.items()}


class _Policy:
    """The sums of one policy while the log goes by."""

    def __init__(
        self, terms: Mapping[str, Terms], *, per: str, heaviest: int, most: int, discount: float, limit: float
    ) -> None:
        self.terms, self.per, self.most, self.discount, self.limit = terms, per, most, discount, limit
        self.weights, self.step_weights = Weights(heaviest), Weights(heaviest)
        self.units, self.steps, self.ratios = Table(most), Table(most), Table(most)
        self.above = {name: Table(most) for name in terms}
        self.below: dict[str, Table] = {}

    def add(self, chunk: Chunk, policy: str, row: IntArray) -> None:
        """Add a chunk whose sessions go to the given rows, (E,)."""
        ratios, episode = chunk.ratios[policy], chunk.episode
        sessions = sort_rows(row)
        self.ratios.add(np.bincount(episode, weights=ratios).astype(np.float64), sessions)
        self.steps.add(np.bincount(episode).astype(np.float64), sessions)
        self.step_weights.add(ratios)
        if self.per == "step":
            row, episode = row[episode], np.arange(len(episode))
        by = sort_rows(row)
        self.weights.add(last_weights(ratios, episode))
        self.units.add(np.ones(len(row)), by)
        seen = Seen(ratios, chunk.reward, chunk.values.get(policy), episode, self.discount, self.limit)
        for name, terms in self.terms.items():
            found = terms(seen)
            if isinstance(found, tuple):
                self.below.setdefault(name, Table(self.most, held=True)).add(found[1], by)
                found = found[0]
            self.above[name].add(found, by)

    def fold(self, moved: IntArray) -> None:
        """Send the rows so far to bags; see `Table.fold`."""
        for table in (self.units, self.steps, self.ratios, *self.above.values(), *self.below.values()):
            table.fold(moved)

    def result(self, rows: Rows) -> UserSums:
        """The sums by user, in the order of their ids."""
        order = rows.order(self.units.sums[:, 0])
        ratios, steps = self.ratios.sums[order, 0], self.steps.sums[order, 0]
        units = self.units.sums[order]
        return UserSums(
            numerators={name: table.sums[order] for name, table in self.above.items()},
            denominators={name: self.below[name].sums[order] if name in self.below else units for name in self.above},
            support=self.weights.support(ratios, steps),
            step_support=self.step_weights.support(ratios, steps),
            bagged=rows.bagged,
            per=self.per,
            discount=self.discount,
        )
