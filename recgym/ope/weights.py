"""Importance weights: what the target policy would have done, against what the logging policy did.

Everything is float64 over flat arrays of T steps, episode after episode. One chunk of (B, N) target probabilities is
in memory at a time.
"""

from __future__ import annotations

import numpy as np
import torch

from recgym.ope.views import chunks, first_steps, observe
from recgym.types import DoubleArray, IntArray, Observation, Policy, Transitions

HEAVIEST = 1e100
"""Nothing is estimated from greater weights: their squares would soon be no numbers."""


class SupportError(ValueError):
    """The log cannot give importance weights; the message says why and what would."""


def action_distribution(policy: Policy, observation: Observation) -> torch.Tensor:
    """pi(a | observation), (B, N) float32, checked.

    Raises:
        ValueError: A row has a negative or non-finite number or does not sum to 1.
    """
    with torch.no_grad():
        probability = policy.probabilities(observation).cpu()  # (B, N)
    total = probability.sum(dim=1, dtype=torch.float64)
    wrong = ~((total - 1).abs() < 1e-3) | (probability < 0).any(dim=1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"policy {policy.name!r}: probabilities must be non-negative and sum to 1 in each row, "
            f"got sum {float(total[row]):.6g} and minimum {float(probability[row].min()):.3g} in row {row}"
        )
    return probability


def target_probabilities(policy: Policy, logged: Transitions, *, chunk: int = 1024) -> DoubleArray:
    """pi(a_t | s_t): the chance that `policy` shows the item that was shown, (T,) float64.

    Raises:
        ValueError: The log holds slates (K > 1), an item that the policy does not know, or the policy's
            probabilities are no probabilities.
    """
    if logged.action.shape[1] != 1:
        raise ValueError(
            f"importance weights are for one item a step, got slates of {logged.action.shape[1]}; "
            "log (or read) every position as a step of its own"
        )
    found = np.empty(logged.num_steps)  # (T,)
    for rows in chunks(logged.num_steps, chunk):
        probability = action_distribution(policy, observe(logged, rows))  # (B, N)
        shown = logged.action[rows, 0]
        if shown.min() < 1 or shown.max() > probability.shape[1]:
            raise ValueError(
                f"the log shows items {shown.min()}..{shown.max()}, "
                f"policy {policy.name!r} knows 1..{probability.shape[1]}"
            )
        found[rows] = probability.gather(1, torch.from_numpy(shown)[:, None] - 1)[:, 0].double().numpy()
    return found


def step_ratios(target: DoubleArray, propensity: DoubleArray) -> DoubleArray:
    """rho_t = pi(a_t | s_t) / mu(a_t | s_t), (T,) from the target's and the logger's probability of what was shown.

    Raises:
        SupportError: A propensity is unknown (nan).
        ValueError: A propensity is not in (0, 1]: the logger cannot have shown what it shows with probability 0.
    """
    missing = np.isnan(propensity)
    if missing.any():
        raise SupportError(
            f"{missing.sum()} of {len(propensity)} steps ({missing.mean():.0%}) have no logged propensity, so what the "
            "logging policy would have shown instead is unknown; log the probability of every item shown, "
            "or give up importance weighting and read the fitted-Q estimate with its warning"
        )
    wrong = ~((propensity > 0) & (propensity <= 1))
    if wrong.any():
        step = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"propensity must lie in (0, 1], got {propensity[step]} at step {step}")
    return target / propensity


def cumulative_weights(ratios: DoubleArray, episode: IntArray) -> DoubleArray:
    """w_t = rho_0 ... rho_t within each episode: (T,), (T,) -> (T,).

    inf where that is too great for a float64, nan where it then falls to 0.
    """
    table = ratios.copy()
    start = first_steps(episode)  # (E,)
    length = np.diff(np.append(start, len(episode)))  # (E,)
    for place in range(1, int(length.max(initial=0))):
        here = start[length > place] + place
        with np.errstate(over="ignore", invalid="ignore"):
            table[here] *= table[here - 1]
    return table
