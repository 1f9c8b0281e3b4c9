"""What items are called in text: ids of a few tokens, such that items that belong together share their first ones.

An id is a path through a tree. Codes 0..K-1 are told apart by what came before them, and no id is the beginning of
another; so a generator that stays on paths of the tree always ends at an item, without an end-of-sequence token.
Source: Hua, Xu, Ge, Zhang (2023), "How to index item IDs for recommendation foundation models": sequential (SID) and
collaborative indexing (CID).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgym.logs.sequences import Sequences
from recgym.logs.splits import TRAIN, Roles
from recgym.types import DoubleArray, IntArray


def sequential_ids(sequences: Sequences, roles: Roles, *, tokens: int) -> IntArray:
    """Items numbered as training meets them, user after user, and the numbers written in base K: (N, E) codes.

    What one user met in a row shares its first code. Items that training never met come last.
    """
    met, first = np.unique(sequences.item[roles == TRAIN].astype(np.int64), return_index=True)
    order = np.append(met[np.argsort(first)], np.setdiff1d(np.arange(1, sequences.num_items + 1), met))
    number = np.empty(sequences.num_items, np.int64)
    number[order - 1] = np.arange(sequences.num_items)
    return digits(number, sequences.num_items, tokens)


def digits(numbers: IntArray, count: int, base: int) -> IntArray:
    """Numbers (Q,) of 0..count - 1 in a base, highest digit first: (Q, E) with the fewest E that tell all apart."""
    length = 1
    while base**length < count:
        length += 1
    return numbers[:, None] // base ** np.arange(length)[::-1] % base


def collaborative_ids(sequences: Sequences, roles: Roles, *, tokens: int, clusters: int, seed: int = 0) -> IntArray:
    """Ids by spectral clustering of which items training users have in common: (N, E) codes, -1 past the end of an id.

    The catalogue is split into clusters, and a cluster of more than K items again, breadth first; codes of clusters
    are dealt out in that order, round and round, and the last code is the item's place in its cluster.

    Args:
        sequences: the log.
        roles: (M,); training steps count.
        tokens: K, codes and the most items of a cluster that is not split further.
        clusters: parts of a split.
        seed: of the eigenvectors' starting point.
    """
    affinity = _common_users(sequences, roles)
    ids: dict[int, tuple[int, ...]] = {}
    queue: deque[tuple[IntArray, tuple[int, ...]]] = deque([(np.arange(sequences.num_items), ())])
    dealt = 0
    while queue:
        group, before = queue.popleft()
        if len(group) <= tokens:
            ids |= {int(item): (*before, place) for place, item in enumerate(group)}
            continue
        for part in _split(affinity[group][:, group], clusters, seed):
            queue.append((group[part], (*before, dealt % tokens)))
            dealt += 1
    codes = np.full((sequences.num_items, max(map(len, ids.values()))), -1, np.int64)
    for item, code in ids.items():
        codes[item, : len(code)] = code
    return codes


def prefixes(codes: IntArray) -> tuple[IntArray, IntArray]:
    """What comes before the last code of each id, each once: (P, E - 1), -1 past the end; and whose it is, (N,)."""
    last = (codes >= 0).sum(1) - 1
    before = codes.copy()
    before[np.arange(len(codes)), last] = -1
    paths, group = np.unique(before[:, :-1], axis=0, return_inverse=True)
    return paths, group.ravel()


def tree_of(codes: IntArray, tokens: int) -> Tensor:
    """Where each code leads from each node, (nodes, K): to a node > 0, to minus an item's id 1..N, or 0 for nowhere.

    Raises:
        ValueError: two items have the same id, or one's id is the beginning of another's.
    """
    rows = [np.zeros(tokens, np.int64)]
    for item, code in enumerate(codes, 1):
        node, path = 0, [int(one) for one in code if one >= 0]
        for one in path[:-1]:
            if not rows[node][one]:
                rows[node][one] = len(rows)
                rows.append(np.zeros(tokens, np.int64))
            node = int(rows[node][one])
            if node < 0:
                raise ValueError(f"id of item {item} is {path}, which goes on where item {-node}'s ends")
        if rows[node][path[-1]]:
            raise ValueError(f"id of item {item} is {path}, which is taken; expected ids of which none begins another")
        rows[node][path[-1]] = -item
    return torch.from_numpy(np.stack(rows))


def _common_users(sequences: Sequences, roles: Roles) -> Any:
    """How often two items are met by one user in training, sparse (N, N), 0 on the diagonal."""
    from scipy import sparse

    train = roles == TRAIN
    at = sequences.user_of_step[train], sequences.item[train].astype(np.int64) - 1
    met = sparse.csr_array((np.ones(len(at[0])), at), shape=(sequences.num_users, sequences.num_items))
    common = (met.T @ met).tolil()
    common.setdiag(0)
    common = common.tocsr()
    common.eliminate_zeros()
    return common


def _split(affinity: Any, clusters: int, seed: int) -> list[IntArray]:
    """Parts of n items, each smaller than n: spectral clusters, and those that share no user with the others."""
    linked = np.flatnonzero(affinity.sum(1) > 0)
    parts = [np.flatnonzero(affinity.sum(1) == 0)]
    if len(linked) > clusters:
        label = _spectral(affinity[linked][:, linked], clusters, seed)
        parts += [linked[label == one] for one in range(clusters)]
    else:
        parts.append(linked)
    parts = [part for part in parts if len(part)]
    return parts if len(parts) > 1 else np.array_split(parts[0], clusters)


def _spectral(affinity: Any, clusters: int, seed: int) -> IntArray:
    """Cluster of each of n linked items, (n,): leading eigenvectors of D^-1/2 A D^-1/2, read by pivoted QR.

    Source: Damle, Minden, Ying (2019), "Simple, direct and efficient multi-way spectral clustering", algorithm 1.
    """
    from scipy import linalg, sparse

    scale = sparse.diags_array(affinity.sum(1) ** -0.5)
    start = np.random.default_rng(seed).standard_normal(affinity.shape[0])
    vectors: DoubleArray = sparse.linalg.eigsh(scale @ affinity @ scale, k=clusters, which="LA", v0=start, tol=1e-6)[1]
    pivots = linalg.qr(vectors.T, mode="r", pivoting=True)[-1][:clusters]
    left, _, right = linalg.svd(vectors[pivots].T)
    cluster: IntArray = np.abs(vectors @ (left @ right)).argmax(1)
    return cluster
