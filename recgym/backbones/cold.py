"""Vectors of items that no training step showed: predicted from what the catalogue says of them.

Training moves such an item only as a wrong answer of the softmax: its bias falls and its vector turns away from every
state, whatever the item is. Here both are replaced by what items of the same features have learned: ridge regression
from features to vectors and biases. Source: Gantner et al. (2010), "Learning attribute-to-feature mappings for
cold-start recommendations", with the penalty by leave-one-out in closed form (Allen 1974, PRESS).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone
from recgym.logs.profiles import Profile, encode
from recgym.logs.sequences import Sequences
from recgym.logs.splits import Roles, training_events
from recgym.types import DoubleArray

LEAST_EVENTS = 5
"""Training steps from which an item's own vector is taken to say something."""
_MOST_VALUES = 200
"""Text columns with more values than this identify items; of `category` this many values are kept, the commonest."""
_MOST_FITTED = 50_000
"""Items that the regression is fitted on at most: those met most often."""
_PENALTIES = (*np.logspace(-4, 4, 17).tolist(), np.inf)
"""Penalties that leave-one-out chooses from, in units of the features' mean squared singular value."""
_NAMES = ("item", "title")
"""Columns that name an item and do not describe it."""


class Filling(NamedTuple):
    """What `fill_unmet` did."""

    items: int = 0
    """Items never met in training, whose vectors were predicted."""
    fitted: int = 0
    """Items that the prediction was learned from."""
    features: int = 0
    """Features; 0: every prediction is the mean."""
    vector_penalty: float = np.inf
    """Ridge penalty of the vectors, by leave-one-out; inf: features say nothing."""
    bias_penalty: float = np.inf
    """Of the biases."""


class Ridge(NamedTuple):
    """y = mean_y + (x - mean_x) B."""

    mean_x: DoubleArray  # (P,)
    mean_y: DoubleArray  # (D,)
    coefficients: DoubleArray  # (P, D)
    penalty: float

    def predict(self, features: DoubleArray) -> DoubleArray:
        """(Q, P) -> (Q, D)."""
        predicted: DoubleArray = self.mean_y + (features - self.mean_x) @ self.coefficients
        return predicted


def item_features(items: pl.DataFrame) -> Profile:
    """What the columns of `Sequences.items` say of each item, (N, P), as `recgym.logs.profiles` encodes users."""
    most = max(2, min(_MOST_VALUES, len(items) // 2))
    rows = items.drop(name for name in _NAMES if name in items.columns)
    if "category" in rows.columns:
        count = rows["category"].drop_nulls().value_counts().sort("count", "category", descending=[True, False])
        common = pl.col("category").is_in(count["category"].head(most).to_list())
        rows = rows.with_columns(pl.when(common).then(pl.col("category")).alias("category"))
    return encode(rows, most_values=most, codes=("category",))


def fit_ridge(
    features: DoubleArray, values: DoubleArray, weight: DoubleArray, penalties: tuple[float, ...] = _PENALTIES
) -> Ridge:
    """min_B sum_i w_i |y_i - a - x_i B|^2 + penalty |B|^2, with the penalty that predicts left-out rows best.

    Leaving a row out changes its error e_i to e_i / (1 - h_i), where h_i is its leverage: one singular value
    decomposition serves every penalty. A penalty at which some row is fitted by itself alone (h_i = 1) is out unless
    it is the only one. Where features are collinear the shortest B is taken.

    Args:
        features: (Q, P).
        values: (Q, D).
        weight: (Q,) positive.
        penalties: to choose from, in units of the mean squared singular value (above 0) of the centred, weighted
            features.
    """
    root = np.sqrt(weight)[:, None]  # (Q, 1)
    mean_x, mean_y = weight @ features / weight.sum(), weight @ values / weight.sum()
    x, y = root * (features - mean_x), root * (values - mean_y)
    left, singular, right = np.linalg.svd(x, full_matrices=False)  # (Q, R), (R,), (R, P)
    kept = singular > 1e-9 * singular.max(initial=1.0)
    left, singular, right = left[:, kept], singular[kept], right[kept]
    unit = float(np.mean(singular**2)) if len(singular) else 1.0
    along = left.T @ y  # (R, D)
    best, least = float(penalties[0]) * unit, np.inf
    for penalty in (float(one) * unit for one in penalties):
        shrink = singular**2 / (singular**2 + penalty)  # (R,)
        free = 1 - weight / weight.sum() - left**2 @ shrink  # (Q,): 1 - leverage
        error = y - left @ (shrink[:, None] * along)
        press = float(((error / free[:, None]) ** 2).sum()) if float(free.min()) > 1e-9 else np.inf
        if press < least:
            best, least = penalty, press
    coefficients = right.T @ ((singular / (singular**2 + best))[:, None] * along)
    return Ridge(mean_x, mean_y, coefficients, best)


def fill_unmet(backbone: Backbone, sequences: Sequences, roles: Roles) -> Filling:
    """Predict vectors and bias of every item that training never showed, in place.

    The regression is fitted on items with at least `LEAST_EVENTS` training steps (on all that were met, if there are
    fewer than two of those). An item met n times counts n / (n + LEAST_EVENTS): its vector's error shrinks as 1 / n,
    while what features cannot tell of it does not, so that a hit does not outweigh the rest of its category.
    Without features every such item gets the mean.

    A backbone that scores items by vectors of its own (see `write_items`) reads those of its table: both are predicted.
    """
    events = training_events(sequences, roles)
    unmet = np.flatnonzero(events == 0)
    known = np.flatnonzero(events >= LEAST_EVENTS)
    known = known if len(known) > 1 else np.flatnonzero(events)
    if not len(unmet) or not len(known):
        return Filling()
    known = known[np.argsort(-events[known], kind="stable")[:_MOST_FITTED]]
    features = item_features(sequences.items).values.astype(np.float64)  # (N, P)
    weight = events[known] / (events[known] + LEAST_EVENTS)
    rows = torch.from_numpy(unmet)

    def predict(learned: Tensor) -> tuple[Tensor, float]:
        fit = fit_ridge(features[known], learned.detach().double().cpu().numpy()[known], weight)
        return torch.from_numpy(fit.predict(features[unmet])).to(learned), fit.penalty

    vectors, vector_penalty = predict(backbone.item_vectors())
    bias, bias_penalty = predict(backbone.item_bias().unsqueeze(1))
    inputs = backbone.table.inputs()
    if inputs.data_ptr() != backbone.item_vectors().data_ptr():
        inputs.detach()[rows] = predict(inputs)[0]
    write_items(backbone, rows, vectors, bias.squeeze(1))
    penalties = (vector_penalty, bias_penalty) if features.shape[1] else ()
    return Filling(len(unmet), len(known), features.shape[1], *penalties)


@torch.no_grad()
def write_items(backbone: Backbone, rows: Tensor, vectors: Tensor, bias: Tensor) -> None:
    """Let items `rows` (K,), from 0, be scored by `vectors` (K, D) and `bias` (K,).

    They are the table's, unless the backbone has vectors of its own and a method `fill(rows, vectors, bias)`.
    """
    fill = getattr(backbone, "fill", None)
    if fill is not None:
        fill(rows, vectors, bias)
    else:
        backbone.table.vectors()[rows], backbone.table.bias[rows] = vectors, bias
