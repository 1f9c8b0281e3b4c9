"""A policy known as a policy, a column, a table or a function says the same of the same log, or is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from recgym.ope.doubly_robust import cross_fit_values
from recgym.ope.fqe import FitConfig
from recgym.ope.targets import ColumnTarget, FunctionTarget, PolicyTarget, TableTarget, Target
from recgym.types import DoubleArray, IntArray
from tests.ope.worlds import TARGET, log

LOG = log(400, seed=3)
STATE = LOG.state.argmax(1).astype(np.int64) if LOG.state is not None else np.empty(0, np.int64)
ITEM = LOG.action[:, 0]
TABLE = np.array(TARGET.table)


def known(kind: str) -> Target:
    def asked(rows: IntArray) -> DoubleArray:
        found: DoubleArray = TABLE[STATE[rows]]
        return found

    every: dict[str, Target] = {
        "policy": PolicyTarget(policy=TARGET, logged=LOG),
        "column": ColumnTarget(name="column", probability=TABLE[STATE, ITEM - 1]),
        "table": TableTarget(name="table", table=TABLE, kind=STATE, item=ITEM),
        "function": FunctionTarget(name="function", probabilities=asked, item=ITEM, num_items=3),
    }
    return every[kind]


@pytest.mark.parametrize("kind", ["policy", "column", "table", "function"])
def test_every_way_says_the_same(kind: str) -> None:
    target = known(kind)
    np.testing.assert_allclose(target.chosen(), TABLE[STATE, ITEM - 1], rtol=1e-6)
    rows = np.array([5, 2, 300])
    if target.knows_all:
        np.testing.assert_allclose(target.distribution(rows).numpy(), TABLE[STATE[rows]], rtol=1e-6)
    else:
        with pytest.raises(ValueError, match="'column' is a column"):
            target.distribution(rows)


def test_what_is_no_probability_is_named() -> None:
    with pytest.raises(ValueError, match=r"'new' must be in \[0, 1\], got 1.5 in row 2"):
        ColumnTarget(name="new", probability=np.array([0.1, 0.2, 1.5]))
    with pytest.raises(ValueError, match=r"'new' must be finite, got nan in row 1"):
        ColumnTarget(name="new", probability=np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match=r"sum of table of policy 'new' must be 1, got 1.1 in row 1"):
        TableTarget(name="new", table=np.array([[0.5, 0.5], [0.5, 0.6]]), kind=np.array([0]), item=np.array([1]))
    with pytest.raises(ValueError, match=r"item must be an id in 1..2, got 3 in row 1"):
        TableTarget(name="new", table=np.array([[0.5, 0.5]]), kind=np.array([0, 0]), item=np.array([1, 3]))
    with pytest.raises(ValueError, match=r"kind must be in 0..0, got 4 in row 0"):
        TableTarget(name="new", table=np.array([[0.5, 0.5]]), kind=np.array([4]), item=np.array([1]))


def test_a_function_is_held_to_its_rows() -> None:
    def of(answer: DoubleArray) -> FunctionTarget:
        return FunctionTarget(
            name="mine", probabilities=lambda rows: answer[rows], item=np.array([1, 2, 1]), num_items=2
        )

    good = np.full((3, 2), 0.5)
    assert of(good).chosen().tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match=r"'mine' .* sum 1.2 .* in row 2"):
        of(np.array([[0.5, 0.5], [1.0, 0.0], [0.7, 0.5]])).chosen()
    with pytest.raises(ValueError, match=r"minimum -0.1 in row 1"):
        of(np.array([[0.5, 0.5], [1.1, -0.1], [0.5, 0.5]])).chosen()
    with pytest.raises(ValueError, match=r"must give \(3, 2\) probabilities for 3 rows from 0 on.*got \(3, 3\)"):
        of(np.full((3, 3), 1 / 3)).chosen()


def test_a_fitted_q_is_the_same_for_a_policy_and_for_a_function_that_says_the_same() -> None:
    tiny = FitConfig(width=8, rank=2, rounds=3, updates=5, batch_size=64)
    by_policy, words = cross_fit_values(LOG, known("policy"), tiny, discount=0.9, seed=1)
    by_function, _ = cross_fit_values(LOG, known("function"), tiny, discount=0.9, seed=1)
    assert not words
    for first, second in zip(by_policy, by_function, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
    with pytest.raises(ValueError, match="needs all that policy 'column' would show"):
        cross_fit_values(LOG, known("column"), tiny, discount=0.9)
