"""Impressions as transitions, as features for models, and in parts whose values are shown apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from experiments.ope.fields import MOST_TEXTS
from experiments.ope.rows import LoggedRows
from recgym.env.session import CONTEXT_STEPS
from recgym.logs.log import LogError
from recgym.logs.sequences import windows
from recgym.ope.appraisal import PolicyReport, Segment
from recgym.ope.diagnostics import Question
from recgym.ope.estimators import STEP, answer
from recgym.ope.evidence import Evidence, Per
from recgym.ope.intervals import t_interval
from recgym.types import DoubleArray, IntArray, Transitions

Labels = npt.NDArray[np.str_]
HISTORY = 50
"""Impressions before a step that a policy may read."""
SELDOM = 20
"""Rows in which a feature has to differ from its usual value, to be one."""
PARTS = ("first third", "middle third", "last third")


def known_before(rows: LoggedRows) -> DoubleArray:
    """Features of the context with mean 0 and variance 1, (T, X).

    Those that differ from their usual value in fewer than `SELDOM` rows are left out: a model of some users would have
    hardly seen them, and be far off where they count.
    """
    if rows.features is None:
        return np.zeros((len(rows.item), 0))
    size = len(rows.features)
    usual = np.array([np.unique(column, return_counts=True)[1].max() for column in rows.features.T])
    some = size - usual >= min(SELDOM, max(1, size // 10))
    found: DoubleArray = rows.features[:, some] - rows.features[:, some].mean(axis=0)
    found /= np.maximum(found.std(axis=0), 1e-12)
    return found


def transitions(rows: LoggedRows, *, history: bool = False) -> Transitions:
    """The rows as steps: state = features and one-hot position (but the first), context = steps taken in the session.

    Args:
        rows: the log.
        history: also the user's last `HISTORY` impressions before each step, which policies may read.
    """
    size, start = len(rows.item), rows.start
    parts = [known_before(rows)]
    if rows.position is not None:
        parts.append((rows.position[:, None] == np.arange(1, len(rows.positions))).astype(np.float64))
    if size > len(start) and not any(part.shape[1] for part in parts):
        parts.append(np.zeros((size, 1)))  # a session's model needs a state, if only to know the place
    state = np.concatenate(parts, axis=1).astype(np.float32)
    last = np.append(start[1:], size) - 1
    ends = np.zeros(size, dtype=np.bool_)
    ends[last] = True
    place = (np.arange(size) - start[rows.episode]).astype(np.float32)[:, None]
    seen = windows(rows.sequences(), np.arange(size), HISTORY) if history else (None, None)
    return Transitions(
        context=place / CONTEXT_STEPS,
        state=state if state.shape[1] else None,
        items=seen[0],
        history=seen[1],
        mask=None,
        action=rows.item[:, None],
        feedback=rows.feedback.astype(np.float32)[:, None],
        reward=rows.reward.astype(np.float32),
        terminated=ends,
        truncated=np.zeros(size, dtype=np.bool_),
        propensity=rows.propensity,
        episode=rows.episode,
        user=rows.user,
        final_context=(place[last] + 1) / CONTEXT_STEPS,
        final_state=state[last] if state.shape[1] else None,
    )


def segments(rows: LoggedRows, per: Per, asked: Sequence[str]) -> dict[str, list[str]]:
    """Labels of episodes by user, time, position (per step) and columns; what does not divide them is left out.

    "user": new where nothing of the user is in the log before the session; else frequent or not, by the median of what
    is. A column counts by its value at the first step.

    Raises:
        LogError: a column is not there, or has too many values to be a segment.
    """
    first = np.arange(len(rows.item)) if per == "step" else rows.start
    found = {"user": _experience(rows)[first]}
    if rows.time is not None:
        span = np.ptp(rows.time)
        third = np.minimum((rows.time - rows.time.min()) * 3 // max(span, 1e-9), 2).astype(np.int64)
        found["time"] = np.array(PARTS)[third[first]]
    if rows.position is not None and per == "step":
        found["position"] = np.array(rows.positions)[rows.position]
    for name in asked:
        values = rows.column(name).fill_null("").to_numpy().astype(np.str_)
        if (count := len(np.unique(values))) > MOST_TEXTS:
            raise LogError(
                f"{rows.files[0]}: column {name!r} has {count} different values, too many for segments "
                f"(at most {MOST_TEXTS})"
            )
        found[name] = values[first]
    return {name: labels.tolist() for name, labels in found.items() if len(np.unique(labels)) > 1}


def by_popularity(evidence: Evidence, report: PolicyReport, rows: LoggedRows, question: Question) -> PolicyReport:
    """The report with the reward of showing a head, torso or tail item: each a third of all exposures.

    E_pi[r | a in G] by SNIPS over the rows that show an item of G. Weights are divided by their mean there, which is
    pi(G) / mu(G) and no sign of wrong propensities. Estimates of whole values do not hold in such a part, since it is
    chosen by what was shown.
    """
    if evidence.ratios is None:
        return report
    label, found = popularity(rows), []
    for name in ("head", "torso", "tail"):
        keep = label == name
        part = evidence.take(keep)
        mean = 0.0 if part.ratios is None else float(part.ratios.mean()) if keep.any() else 0.0
        if part.ratios is None or mean <= 0 or len(np.unique(part.user)) < 2:
            continue
        found.append(
            Segment(
                name="item popularity",
                label=name,
                episodes=int(keep.sum()),
                estimate=answer(STEP["SNIPS"], replace(part, ratios=part.ratios / mean), question),
                production=t_interval(part.reward, part.user, level=question.level),
            )
        )
    return replace(report, segments=(*report.segments, *found))


def popularity(rows: LoggedRows) -> Labels:
    """Whether the item shown is of the "head", "torso" or "tail", each a third of exposures, commonest first, (T,)."""
    count = np.bincount(rows.item - 1, minlength=rows.num_items)
    order = np.argsort(-count, kind="stable")
    before = np.cumsum(count[order]) - count[order]
    third = np.empty(rows.num_items, dtype=np.int64)
    third[order] = np.minimum(before * 3 // max(1, len(rows.item)), 2)
    found: Labels = np.array(["head", "torso", "tail"])[third[rows.item - 1]]
    return found


def _experience(rows: LoggedRows) -> Labels:
    """How much of the user is in the log before each row's session, as a label, (T,)."""
    number = np.arange(len(rows.item))
    who = rows.user_of_row
    first: IntArray = np.flatnonzero(np.diff(who, prepend=-1))
    before = (number - first[np.cumsum(np.diff(who, prepend=-1) != 0) - 1])[rows.start][rows.episode]
    usual = int(np.median(before[before > 0])) if (before > 0).any() else 0
    names = np.array(["new", f"known (up to {usual} impressions before)", f"heavy (over {usual} before)"])
    found: Labels = names[(before > 0).astype(np.int64) + (before > usual)]
    return found
