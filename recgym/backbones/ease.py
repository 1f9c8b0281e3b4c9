"""EASE: a linear autoencoder of histories in closed form."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from recgym.backbones.baselines import of_history, repeats, training_choices
from recgym.backbones.knn import co_occurrences
from recgym.backbones.ranking import Ranker
from recgym.logs.sequences import Sequences
from recgym.logs.splits import Roles


def ease(sequences: Sequences, roles: Roles, *, regularisation: float = 250.0, most_items: int = 30_000) -> Ranker:
    """score_j = sum of B_ij over the items i of the history.

    B minimises |X - X B|^2 + regularisation |B|^2 with diag(B) = 0, where X (U, N) says which user chose which item. In
    closed form B_ij = -P_ij / P_jj off the diagonal, with P = (X' X + regularisation I)^-1. A history that says nothing
    of any item falls back on itself, the most recent first, then on popularity. Fitting takes N^3 multiplications and
    holds 2 N^2 floats.

    Args:
        sequences: the log.
        roles: (M,).
        regularisation: weight of the squared weights, in users.
        most_items: larger catalogues are refused: their matrix would not fit.

    Raises:
        ValueError: the regularisation is not positive, the catalogue is too large, or the log has no training target.

    Source: Steck (2019), "Embarrassingly shallow autoencoders for sparse data", equation 8.
    """
    if not regularisation > 0:
        raise ValueError(f"regularisation is {regularisation}, expected a positive number")
    num_items = sequences.num_items
    if num_items > most_items:
        raise ValueError(f"the catalogue has {num_items} items, expected at most most_items = {most_items}")
    choices = training_choices(sequences, roles)
    group, item = np.unique(np.stack([choices.user, choices.item]), axis=1)
    gram = torch.empty(num_items, num_items)
    for first, together in co_occurrences(group, item, num_items):
        gram[first : first + len(together)] = torch.from_numpy(together)
    gram.diagonal().add_(regularisation)
    weights = torch.cholesky_inverse(torch.linalg.cholesky(gram, out=gram))
    weights.div_(-weights.diagonal().clone()).fill_diagonal_(0)
    fallback = repeats(choices, num_items)

    def scores(history: Tensor) -> Tensor:
        items = history.numpy()
        user, place = np.nonzero(items)
        user, item = np.unique(np.stack([user, items[user, place]]), axis=1)
        begin = torch.from_numpy(np.searchsorted(user, np.arange(len(items))))
        total = nn.functional.embedding_bag(torch.from_numpy(item - 1), weights, begin, mode="sum")
        return torch.where((total != 0).any(1, keepdim=True), total, fallback(history))

    return of_history(scores)
