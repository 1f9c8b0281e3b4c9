"""Which steps are for training, which for choosing a model, which for the final judgement.

`temporal` is the default: every model is trained on the past of everything it is judged on. `leave_one_out` is the
protocol of most published tables; under it, one user's test step may lie before another's training steps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recgym.logs.sequences import Sequences

TRAIN, VALIDATION, TEST = 0, 1, 2
Roles = npt.NDArray[np.int8]


def temporal(sequences: Sequences, *, validation: float = 0.1, test: float = 0.1) -> Roles:
    """Split whole sessions by their start: the last `test` share of steps, and the `validation` share before, (M,).

    Raises:
        ValueError: the shares leave nothing to train on, or a part would be empty.
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise ValueError(f"validation and test must be positive and add up to below 1, got {validation} and {test}")
    if sequences.num_sessions < 3:
        raise ValueError(f"a temporal split needs at least 3 sessions, got {sequences.num_sessions}")
    first = sequences.session_bounds[:-1]
    steps = np.diff(sequences.session_bounds)  # (S,)
    order = np.argsort(sequences.time[first], kind="stable")
    done = np.cumsum(steps[order]) / sequences.num_steps  # (S,)
    count = sequences.num_sessions
    begin_test = min(max(int(np.searchsorted(done, 1 - test)), 2), count - 1)
    begin_validation = min(max(int(np.searchsorted(done, 1 - test - validation)), 1), begin_test - 1)
    role = np.full(count, TRAIN, np.int8)  # (S,)
    role[order[begin_validation:]] = VALIDATION
    role[order[begin_test:]] = TEST
    return role[sequences.session]


def leave_one_out(sequences: Sequences) -> Roles:
    """Each user's last target for the test and the one before for validation, (M,).

    Steps between the two go with the earlier one. Users with fewer than three targets train only.
    """
    roles = np.full(sequences.num_steps, TRAIN, np.int8)
    target = np.flatnonzero(sequences.targets)  # (Q,)
    user = sequences.user_of_step[target]
    count = np.bincount(user, minlength=sequences.num_users)  # (U,)
    last = np.cumsum(count) - 1  # (U,) place in `target` of each user's last
    enough = np.flatnonzero(count >= 3)
    begin_validation, begin_test = target[last[enough] - 1], target[last[enough]]
    end = sequences.offsets[enough + 1]
    mark = np.zeros(sequences.num_steps + 1, np.int8)
    np.add.at(mark, begin_validation, VALIDATION)
    np.add.at(mark, begin_test, TEST - VALIDATION)
    np.add.at(mark, end, -TEST)
    roles += np.cumsum(mark[:-1], dtype=np.int8)
    return roles


def sessions_of(sequences: Sequences, roles: Roles, role: int) -> npt.NDArray[np.int64]:
    """Sessions whose first step has `role`, in order."""
    return np.flatnonzero(roles[sequences.session_bounds[:-1]] == role).astype(np.int64)


def training_events(sequences: Sequences, roles: Roles) -> npt.NDArray[np.int64]:
    """Training steps of each item, (N,): 0 for items that no model can have met."""
    return np.bincount(sequences.item[roles == TRAIN], minlength=sequences.num_items + 1)[1:].astype(np.int64)
