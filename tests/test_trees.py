"""Rows of nested states are taken and put back."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from recgym.trees import leaves, put, take


class Inner(NamedTuple):
    a: Tensor
    nothing: None = None


class Outer(NamedTuple):
    inner: Inner
    b: Tensor


def _state(batch: int) -> Outer:
    return Outer(Inner(torch.arange(batch)), torch.arange(batch * 2.0).reshape(batch, 2))


def test_take_selects_rows_of_every_leaf() -> None:
    rows = take(_state(5), torch.tensor([3, 1]))
    assert isinstance(rows, Outer)
    assert rows.inner.a.tolist() == [3, 1]
    assert rows.inner.nothing is None
    assert rows.b.tolist() == [[6.0, 7.0], [2.0, 3.0]]


def test_put_writes_only_the_named_rows() -> None:
    state = _state(4)
    put(state, torch.tensor([2]), Outer(Inner(torch.tensor([9])), torch.tensor([[8.0, 8.0]])))
    assert state.inner.a.tolist() == [0, 1, 9, 3]
    assert state.b[2].tolist() == [8.0, 8.0]
    assert state.b[3].tolist() == [6.0, 7.0]


def test_put_refuses_another_shape_of_tree() -> None:
    with pytest.raises(ValueError, match="zip"):
        put(_state(2), torch.tensor([0]), Inner(torch.tensor([1])))


def test_leaves_names_what_it_cannot_hold() -> None:
    with pytest.raises(TypeError, match="str"):
        leaves(Inner("text"))  # type: ignore[arg-type]
