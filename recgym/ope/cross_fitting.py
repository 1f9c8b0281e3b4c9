"""Estimated propensities that no row had a hand in: users in folds, each weighed by a model of the others, calibrated.

A model that has seen a row makes what it shows too likely, and so its weight too small. How sure a model is, one
number (the temperature), is set on users that it did not learn from and does not weigh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recgym.ope.behaviour import Choices, LoggerModel, distribution, log_propensities, masked_logits
from recgym.ope.views import user_parts
from recgym.types import DoubleArray, IntArray

Fitter = Callable[[Choices, IntArray, IntArray, int], LoggerModel]
"""(log, rows to learn from, rows of other users to stop by, seed) -> model."""
LIMIT = 50.0
"""Temperatures lie in [1 / LIMIT, LIMIT]."""
CLEARLY = 5.41
"""Nats by which a temperature must raise the held-out likelihood to be used: half the 99.9% point of a chi-square.
One that is noise moves every weight: on 1,000 rows, IPS by a right model varied twice as much without this bar."""
_LEAST = -700.0  # log of the least propensity that float64 keeps apart from 0


@dataclass(frozen=True, kw_only=True)
class Tempered:
    """A model whose scores are divided by a temperature: above 1 it is less sure, below 1 surer."""

    model: LoggerModel
    temperature: float

    def logits(self, seen: Choices) -> Tensor:
        """Scores over the temperature, (B, N)."""
        return self.model.logits(seen).double() / self.temperature


def fit_temperature(model: LoggerModel, choices: Choices, rows: IntArray) -> float:
    """The T that minimises -mean_i log softmax(z_i / T)[a_i] over the given rows, which the model must not have seen.

    The loss is convex in 1 / T, with slope mean_i (E_T[z_i] - z_i,a_i) and curvature mean_i Var_T[z_i]: Newton's method
    inside a bracket. Scores that do not differ leave T = 1.

    Raises:
        ValueError: There is no row, or an item was shown that the model takes to be impossible.

    Source: Guo, Pleiss, Sun and Weinberger (2017), "On calibration of modern neural networks", section 4.2.
    """
    if not len(rows):
        raise ValueError("a temperature needs at least one held-out row, got none")
    log_propensities(model, choices, rows)
    slope, curvature = _moments(model, choices, rows, 1.0)
    if slope == 0 and curvature == 0:
        return 1.0
    if _moments(model, choices, rows, LIMIT)[0] <= 0:
        return 1 / LIMIT
    if _moments(model, choices, rows, 1 / LIMIT)[0] >= 0:
        return LIMIT
    low, high, inverse = 1 / LIMIT, LIMIT, 1.0
    for _ in range(60):
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        newton = inverse - slope / curvature if curvature > 0 else np.inf
        following = newton if low < newton < high else (low * high) ** 0.5
        if abs(following - inverse) < 1e-10 * inverse:
            break
        inverse = following
        slope, curvature = _moments(model, choices, rows, inverse)
    return 1 / inverse


@dataclass(frozen=True, kw_only=True)
class CrossFitted:
    """Estimated propensities, with the models that they come from."""

    propensity: DoubleArray  # (n,) of the item shown, by a model that saw no row of the user
    fold: IntArray  # (n,) which model that is
    models: tuple[Tempered, ...]

    def distributions(self, choices: Choices) -> Iterator[tuple[slice, DoubleArray]]:
        """mu(a | x) of all items, chunk by chunk in the order of the log: rows, and (B, N)."""
        for part, seen in choices.parts(np.arange(len(self.fold))):
            found = np.empty((len(seen.item), choices.num_items))
            for number in np.unique(self.fold[part]):
                mine = np.flatnonzero(self.fold[part] == number)
                found[mine] = distribution(self.models[number], seen.take(mine))
            yield part, found


def cross_fit(
    choices: Choices, fit: Fitter, *, seed: int, folds: int = 5, held_out: int = 5, calibrate: bool = True
) -> CrossFitted:
    """Estimate the propensity of each row by a model that was fitted, stopped and calibrated on other users.

    Args:
        choices: the log.
        fit: how a model is learned, e.g. `lambda c, t, h, s: fit_scores(c, t, h, seed=s)`.
        seed: of folds and fits.
        folds: parts of the users; the model of each is learned from the others. Two leave each model half of the log.
        held_out: one of so many parts of those others sets the temperature and the early stop.
        calibrate: whether a temperature is fitted, and used where it is clearly better than 1.

    Raises:
        ValueError: There are too few users, or an item is shown that a model takes to be impossible.

    Source: Chernozhukov et al. (2018), "Double/debiased machine learning for treatment and structural parameters",
        for the cross-fit.
    """
    for name, value in (("folds", folds), ("held_out", held_out)):
        if value < 2:
            raise ValueError(f"{name} must be at least 2, got {value}")
    fold = user_parts(choices.user, folds, seed=seed)  # (n,)
    propensity, models = np.empty(len(fold)), []
    for number in range(folds):
        others, mine = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        judges = user_parts(choices.user[others], held_out, seed=seed + 1 + number) == 0
        model = fit(choices, others[~judges], others[judges], seed + number)
        models.append(
            _calibrated(model, choices, others[judges]) if calibrate else Tempered(model=model, temperature=1.0)
        )
        propensity[mine] = np.exp(np.maximum(log_propensities(models[-1], choices, mine), _LEAST))
    return CrossFitted(propensity=propensity, fold=fold, models=tuple(models))


def _calibrated(model: LoggerModel, choices: Choices, rows: IntArray) -> Tempered:
    """The model at its best temperature, or at 1 where the rows cannot clearly tell the two."""
    best = Tempered(model=model, temperature=fit_temperature(model, choices, rows))
    gain = (log_propensities(best, choices, rows) - log_propensities(model, choices, rows)).sum()
    return best if gain > CLEARLY else Tempered(model=model, temperature=1.0)


def _moments(model: LoggerModel, choices: Choices, rows: IntArray, inverse: float) -> tuple[float, float]:
    """Slope and curvature of the mean log loss in 1 / T."""
    slope = curvature = 0.0
    for _, seen in choices.parts(rows):
        scores = masked_logits(model, seen)
        scores = scores - scores.amax(dim=1, keepdim=True)
        chance = torch.softmax(inverse * scores, dim=1)
        weighted = chance * scores.clamp_(min=-1e150)  # 0 where the chance is 0
        mean = weighted.sum(dim=1)
        shown = scores[torch.arange(len(scores)), torch.from_numpy(seen.item) - 1]
        slope += float((mean - shown).sum())
        curvature += float(((weighted * scores).sum(dim=1) - mean**2).sum())
    return slope / len(rows), curvature / len(rows)
