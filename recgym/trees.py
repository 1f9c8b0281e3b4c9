"""Explicit state as nested NamedTuples of tensors with leading dimension B: take rows, put rows back."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

Tree = TypeVar("Tree")


def take(tree: Tree, rows: Tensor) -> Tree:
    """The given rows of every tensor of a nested NamedTuple; `rows` (R,) int64 -> leading dimension R."""
    rows_of: Tree = _map(lambda leaf: leaf[rows], tree)
    return rows_of


def put(tree: Tree, rows: Tensor, new: Tree) -> Tree:
    """Write `new` (leading dimension R) into `rows` (R,) of `tree`, in place; returns `tree`."""
    for old_leaf, new_leaf in zip(leaves(tree), leaves(new), strict=True):
        old_leaf[rows] = new_leaf
    return tree


def leaves(tree: object) -> list[Tensor]:
    """All tensors of a nested NamedTuple, in field order; None counts as no leaf."""
    if tree is None:
        return []
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, tuple):
        return [leaf for branch in tree for leaf in leaves(branch)]
    raise TypeError(f"a state holds tensors and NamedTuples of tensors, got {type(tree).__name__}")


def _map(function: Any, tree: Any) -> Any:
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return function(tree)
    return type(tree)(*(_map(function, branch) for branch in tree))
