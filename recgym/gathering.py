"""Rows of learned tables, gathered so that training gives the same weights each time."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import embedding


def rows_at(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`: (N,) or (N, D) at `index` (...,) int64 from 0 -> (...,) or (..., D).

    Its gradient is added up in the order of `index`; that of `table[index]`, on several threads, as they come.
    """
    if table.ndim == 1:
        return table.index_select(0, index.flatten()).view_as(index)
    return embedding(index, table)
