"""Off-policy estimates from Parquet files too large for memory.

What an estimator needs of a log are sums over the sessions of each user: numerators and denominators (U, H), the same
whether the log was read at once or in chunks. Support is summed along the way, the heaviest 1% included. Above
`most_users` users the rows of the sums become bags of users, drawn by hash, and the bootstrap resamples bags: users
are independent, so bags are. The value stays what it was. The interval is as valid, and its width varies by
1 / sqrt(2 bags) of itself with the draw of the bags: 0.3% at 65,536. Memory is then rows times columns (horizon, twice
for ratios) of the estimators, whatever the length of the log.

The formulas are those of `estimators`, chunk by chunk, but MAGIC, whose terms need the whole log. Sessions that the log
cut count as ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recgym.ope.diagnostics import (
    MODEL_ERROR,
    Question,
    Support,
    conclude_counts,
    judge,
    read_interval,
    withheld,
    worse,
)
from recgym.ope.estimators import Formula, by_parts
from recgym.ope.evidence import Evidence, Per
from recgym.ope.rows import check_weight_left
from recgym.ope.running_sums import Rows, Table, sort_rows
from recgym.ope.step_files import Chunk, StepColumns, StepPolicy, count_rows, read_steps, step_files
from recgym.ope.tails import Weights
from recgym.ope.weights import SupportError
from recgym.types import DoubleArray, Estimate, IntArray


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
    per: Per
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
        interval = read_interval(asked, above, below, np.arange(users))
        episodes, formula = self.support.num_episodes, by_parts(asked.per)[name]
        if formula.weighs:
            return conclude_counts(
                name, interval, asked, self.support, num_episodes=episodes, num_users=users, biased=formula.biased
            )
        verdict, doubts = judge(self.step_support, asked.thresholds, per="step")
        return conclude_counts(
            name, interval, asked, None, num_episodes=episodes, num_users=users, warnings=(*doubts, MODEL_ERROR),
            cap=worse(verdict, "weak"),
        )  # fmt: skip


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
    per: Per = "session",
    discount: float = 1.0,
    names: Sequence[str] | None = None,
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
        names: Of `estimators.estimators(per)`, but MAGIC; None: all that the policy's model allows.
        limit: Where weights are clipped, or left to the model; see `Evidence`.
        most_users: Users that get a row of their own; where there are more, as many bags.
        rows: Steps read at a time; see `step_files.read_steps`.
        batch: Steps that a policy's function gets at a time.
        progress: Whether to show how far it is.

    Raises:
        ValueError: A row of the log is bad (`step_files.read_steps` names it), or an argument is out of range.
    """
    asked = Question(per=per, discount=discount)
    if not policies or most_users < 2 or not limit > 0:
        raise ValueError(
            f"expected at least one policy, most_users of at least 2 and a positive limit, got {len(policies)}, "
            f"{most_users} and {limit}"
        )
    known = by_parts(asked.per)
    wrong = [name for name in names or () if name not in known]
    if wrong:
        raise ValueError(f"estimators must be among {', '.join(known)} (per {per}), got {wrong[0]!r}")
    files = step_files(source)
    heaviest = Weights.enough(count_rows(files, columns, policies))
    place = Rows(most_users)
    totals = {
        policy: _Policy(
            {name: known[name] for name in names or known if names or target.q or not known[name].models},
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
        self, formulas: Mapping[str, Formula], *, per: Per, heaviest: int, most: int, discount: float, limit: float
    ) -> None:
        self.formulas, self.per, self.most, self.discount, self.limit = formulas, per, most, discount, limit
        self.weights, self.step_weights = Weights(heaviest), Weights(heaviest)
        self.units, self.steps, self.ratios = Table(most), Table(most), Table(most)
        self.above = {name: Table(most) for name in formulas}
        self.below = {name: Table(most, held=True) for name in formulas}

    def add(self, chunk: Chunk, policy: str, row: IntArray) -> None:
        """Add a chunk whose sessions go to the given rows, (E,)."""
        ratios, episode = chunk.ratios[policy], chunk.episode
        sessions = sort_rows(row)
        self.ratios.add(np.bincount(episode, weights=ratios).astype(np.float64), sessions)
        self.steps.add(np.bincount(episode).astype(np.float64), sessions)
        self.step_weights.add(ratios, np.arange(len(ratios)))
        if self.per == "step":
            row, episode = row[episode], np.arange(len(episode))
        by = sort_rows(row)
        self.weights.add(ratios, episode)
        self.units.add(np.ones(len(row)), by)
        seen = Evidence(
            policy=policy, per=self.per, reward=chunk.reward, episode=episode, user=np.arange(len(row)), ratios=ratios,
            values=chunk.values.get(policy), no_values="give q and v to the policy", discount=self.discount,
            limit=self.limit,
        )  # fmt: skip
        for name, formula in self.formulas.items():
            above, below = formula.terms(seen)
            self.above[name].add(above, by)
            self.below[name].add(below, by)

    def fold(self, moved: IntArray) -> None:
        """Send the rows so far to bags; see `Table.fold`."""
        for table in (self.units, self.steps, self.ratios, *self.above.values(), *self.below.values()):
            table.fold(moved)

    def result(self, rows: Rows) -> UserSums:
        """The sums by user, in the order of their ids."""
        order = rows.order(self.units.sums[:, 0])
        ratios, steps = self.ratios.sums[order, 0], self.steps.sums[order, 0]
        return UserSums(
            numerators={name: table.sums[order] for name, table in self.above.items()},
            denominators={name: table.sums[order] for name, table in self.below.items()},
            support=self.weights.support(ratios, steps),
            step_support=self.step_weights.support(ratios, steps),
            bagged=rows.bagged,
            per=self.per,
            discount=self.discount,
        )
