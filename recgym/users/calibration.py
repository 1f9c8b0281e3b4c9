"""Calibrate the heads on held-out sessions: slope and intercept of each log-odds, and how much sessions differ.

What is left of a user's taste and mood after the state is a normal intercept per session, common to all of its steps.
Its standard deviation is set by the marginal likelihood (Gauss-Hermite quadrature), and is 0 unless
that is clearly better.

Source: Platt (1999) for the slope and intercept; Pinheiro and Bates (1995) for the quadrature.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recgym.users.slates import Slates

_NODES = 9
_SLOPE_PRIOR, _INTERCEPT_PRIOR = 0.25, 0.5
"""Standard deviations of normal priors around 1 and 0: nothing against a hundred sessions, sobering against ten."""
_CLEARLY = 1.92
"""Nats by which the likelihood must rise for one more parameter: half the 95% point of a chi-square."""


class Scores(NamedTuple):
    """Log-odds of one kind at Q questions, with what happened."""

    logit: Tensor  # (Q,) before calibration
    happened: Tensor  # (Q,) float32, 0 or 1
    weight: Tensor  # (Q,)
    session: Tensor  # (Q,) int64


class Fit(NamedTuple):
    """Calibrated log-odds = slope * logit + intercept + effect_scale * (a standard normal of the session)."""

    slope: float
    intercept: float
    effect_scale: float


def fit_binary(scores: Scores, *, random_effects: bool) -> Fit:
    """Maximum likelihood; the identity where everything or nothing happened."""
    positive = scores.happened[scores.weight > 0]
    if not len(positive) or float(positive.min()) == float(positive.max()):
        return Fit(1.0, 0.0, 0.0)
    slope, intercept, _, plain = _maximise(scores, effects=False)
    if random_effects:
        richer = _maximise(scores, effects=True)
        if plain - richer[3] > _CLEARLY:
            return Fit(*richer[:3])
    return Fit(slope, intercept, 0.0)


def fit_amount(predicted: Tensor, observed: Tensor, weight: Tensor | None = None) -> tuple[Fit, float]:
    """Least squares of standardised log amounts (Q,), and the standard deviation of what is left.

    `weight` (Q,): how much each counts; None: all the same.
    """
    share = torch.ones_like(predicted) if weight is None or not len(weight) else weight / weight.mean()
    middle, level = (share * predicted).mean(), (share * observed).mean()
    if len(predicted) < 3 or float(predicted.std()) < 1e-6:
        spread = float((observed - predicted).std()) if len(predicted) > 1 else 1.0
        return Fit(1.0, float(level - middle) if len(predicted) else 0.0, 0.0), spread
    centred = share * (predicted - middle)
    slope = float((centred * (observed - level)).sum() / (centred * (predicted - middle)).sum())
    intercept = float(level - slope * middle)
    rest = observed - slope * predicted - intercept  # its weighted mean is 0
    return Fit(slope, intercept, 0.0), float(((share * rest**2).sum() / (len(rest) - 1)).sqrt())


def marginal_probability(logit: Tensor, effect_scale: float) -> Tensor:
    """E[sigmoid(logit + effect_scale * z)], z standard normal, same shape: the chance before the session is known."""
    if effect_scale == 0:
        return torch.sigmoid(logit)
    node, weight = _quadrature()
    return (torch.sigmoid(logit.unsqueeze(-1) + effect_scale * node.float()) * weight.float()).sum(-1)


def _maximise(scores: Scores, *, effects: bool) -> tuple[float, float, float, float]:
    """Slope, intercept, effect scale and the negative log-likelihood there."""
    logit, happened, weight = (part.double() for part in scores[:3])
    session = torch.unique(scores.session, return_inverse=True)[1]
    count = int(session.max()) + 1
    node, mass = _quadrature() if effects else (torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    free = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        shifted = (free[0] * logit + free[1]).unsqueeze(1) + free[2].exp() * node  # (Q, nodes)
        log_likelihood = weight.unsqueeze(1) * (happened.unsqueeze(1) * shifted - torch.nn.functional.softplus(shifted))
        sessions = torch.zeros(count, len(node), dtype=torch.float64).index_add(0, session, log_likelihood)
        prior = 0.5 * (((free[0] - 1) / _SLOPE_PRIOR) ** 2 + (free[1] / _INTERCEPT_PRIOR) ** 2)
        return -torch.logsumexp(sessions + mass.log(), 1).sum() + prior + 0.01 * (free[2] + 1) ** 2

    optimiser = torch.optim.LBFGS([free], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)
    with torch.no_grad():
        slope, intercept, log_scale = free.tolist()
        return slope, intercept, float(np.exp(log_scale)) if effects else 0.0, float(loss())


def _quadrature() -> tuple[Tensor, Tensor]:
    """Nodes and weights for expectations under a standard normal, (nodes,) each, float64."""
    node, weight = np.polynomial.hermite_e.hermegauss(_NODES)
    return torch.from_numpy(node), torch.from_numpy(weight / weight.sum())


def leaving_scores(leave: Tensor, slates: Slates) -> Scores:
    """The log-odds of leaving (M',) as `Scores`; steps whose outcome is unknown have weight 0."""
    return Scores(leave, slates.leaves, slates.known.float(), slates.session)
