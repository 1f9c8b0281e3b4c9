"""Overlap of the target policy with the log: how heavy the weights are, how far into a session they reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from recgym.ope.diagnostics import Thresholds
from recgym.ope.importance import last_weights
from recgym.ope.rows import check_distributions, check_items, check_weights, require_finite
from recgym.ope.views import first_steps
from recgym.ope.weights import cumulative_weights
from recgym.types import DoubleArray, IntArray

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""Which quantiles of the weights are given."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How often a weight has which size, on a scale of powers of ten."""

    edges: tuple[float, ...]
    """(M + 1,) log10 of the weights at the bins' ends; bin m holds [edge m, edge m + 1), the last also its end."""
    counts: tuple[int, ...]
    """(M,) weights in each bin."""
    zeros: int
    """Weights of 0, which have no logarithm: the target would never have acted so."""
    quantiles: tuple[tuple[float, float], ...]
    """(share, weight) for the shares of `QUANTILES`, zeros counted."""


@dataclass(frozen=True, kw_only=True)
class StepSupport:
    """What the log is worth at one step of the session."""

    step: int
    """From 1."""
    sessions: int
    """Sessions n_t that have this step."""
    effective: float
    """ESS_t = (sum w_t)^2 / sum w_t^2 over them, w_t = rho_1 ... rho_t; 0 where no weight is left."""
    share: float
    """ESS_t / n_t, 1 where the target acts as the logger did."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The data of an overlap plot."""

    step_weights: Histogram
    session_weights: Histogram
    steps: tuple[StepSupport, ...]
    horizon: int
    """Steps from the first on in which the log supports the target: ESS_t of at least the thresholds' first."""
    reach: int
    """Steps from the first on in which it says anything at all: ESS_t of at least the thresholds' second."""
    words: str


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """The target's mass on items that the logger never showed."""

    mass: float
    """Mean over rows of the target's chance of an item that is shown in no row, in [0, 1]."""
    items: tuple[tuple[int, float], ...]
    """(item, mass) of those items with the most mass."""
    num_items: int
    """Items never shown to which the target gives any mass."""
    words: str


def overlap(ratios: DoubleArray, episode: IntArray, *, thresholds: Thresholds | None = None, bins: int = 40) -> Overlap:
    """Measure overlap from step ratios pi / mu (T,) and the episode of each step (T,).

    Both horizons end before the first step that falls short, also where a later step, of a few long sessions, would
    pass again.

    Raises:
        ValueError: A ratio is negative or not finite, episodes are not 0, 1, 2, ... in order, bins is below 1.
    """
    check_weights(ratios, name="ratios")
    if episode.shape != ratios.shape:
        raise ValueError(f"episode must have the shape of ratios, {ratios.shape}; got {episode.shape}")
    limits = thresholds or Thresholds()
    steps = step_support(ratios, episode)
    horizon, reach = (supported_steps(steps, least) for least in limits.effective_episodes)
    return Overlap(
        step_weights=histogram(ratios, bins=bins),
        session_weights=histogram(last_weights(ratios, episode), bins=bins),
        steps=steps,
        horizon=horizon,
        reach=reach,
        words=_words(steps, horizon, reach, limits),
    )


def histogram(weights: DoubleArray, *, bins: int = 40) -> Histogram:
    """Count log10 of the weights (n,) in equal bins from the least positive to the greatest.

    Raises:
        ValueError: A weight is negative or not finite, there is none, or bins is below 1.
    """
    check_weights(weights)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    logs = np.log10(weights[weights > 0])
    counts, edges = np.histogram(logs, bins=bins) if len(logs) else (np.zeros(0, np.int64), np.zeros(0))
    return Histogram(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        zeros=int((weights == 0).sum()),
        quantiles=tuple(zip(QUANTILES, np.quantile(weights, QUANTILES).tolist(), strict=True)),
    )


def step_support(ratios: DoubleArray, episode: IntArray) -> tuple[StepSupport, ...]:
    """ESS_t and n_t of each step of the session, from ratios (T,) and episodes (T,).

    Raises:
        ValueError: Episodes are not 0, 1, 2, ... in order, or a session's weight is too large for a float64.

    Source: Kong (1992), "A note on importance sampling using standardized weights", at each step.
    """
    place = np.arange(len(episode)) - first_steps(episode)[episode]  # (T,)
    weight = cumulative_weights(ratios, episode)  # (T,)
    require_finite("the product of ratios", weight)
    running = np.bincount(place)  # (H,)
    largest = np.zeros(len(running))
    np.maximum.at(largest, place, weight)
    scaled = weight / np.where(largest > 0, largest, 1.0)[place]  # squares of huge weights would overflow
    total, squares = np.bincount(place, weights=scaled), np.bincount(place, weights=scaled**2)
    effective = np.divide(total**2, squares, out=np.zeros(len(total)), where=squares > 0)
    return tuple(
        StepSupport(step=step + 1, sessions=int(n), effective=float(ess), share=float(ess / n))
        for step, (n, ess) in enumerate(zip(running, effective, strict=True))
    )


def supported_steps(steps: tuple[StepSupport, ...], least: float) -> int:
    """Steps from the first on whose effective sample size is at least `least`."""
    return next((one.step - 1 for one in steps if not one.effective >= least), len(steps))


def unseen(chunks: Iterable[DoubleArray], item: IntArray, *, num_items: int, most: int = 10) -> Unseen:
    """Where the target goes and the logger never went.

    Args:
        chunks: pi(a | x) of all items, (B, N) at a time, over all rows in turn.
        item: (n,) what was shown, ids 1..N.
        num_items: N.
        most: How many items to name.

    Raises:
        ValueError: Probabilities are none, an item is not in 1..N, or the chunks have not n rows of N.
    """
    check_items(item, rows=len(item), num_items=num_items)
    mass, rows = np.zeros(num_items), 0
    for probability in chunks:
        check_distributions(probability=probability)
        if probability.shape[1] != num_items:
            raise ValueError(f"probability must have {num_items} columns, one an item, got {probability.shape}")
        mass += probability.sum(axis=0)
        rows += len(probability)
    if rows != len(item) or not rows:
        raise ValueError(f"probabilities must be of all {len(item)} rows (at least one), got {rows}")
    mass[item - 1] = 0.0
    mass /= rows
    order = np.argsort(-mass, kind="stable")[:most]
    never = int((mass > 0).sum())
    words = "the logger has shown every item that the policy would show"
    if never:
        words = (
            f"{mass.sum():.1%} of what the policy would show are {never} items that the logger never showed: their "
            "worth is a guess; show them to some users, or test a policy without them"
        )
    return Unseen(
        mass=float(mass.sum()),
        items=tuple((int(place) + 1, float(mass[place])) for place in order if mass[place] > 0),
        num_items=never,
        words=words,
    )


def _words(steps: tuple[StepSupport, ...], horizon: int, reach: int, limits: Thresholds) -> str:
    enough, some = limits.effective_episodes
    if horizon == len(steps):
        return f"the log supports the policy over all {horizon} steps of its longest session"
    short = steps[horizon]
    start = f"the log supports the policy over the first {horizon} of {len(steps)} steps" if horizon else (
        "the log supports the policy not even at the first step"
    )  # fmt: skip
    why = f"at step {short.step} its {short.sessions} sessions are worth {short.effective:.1f} of the policy's own"
    rest = f"up to step {reach} it gives a weak answer" if reach > horizon else "beyond that it says nothing"
    advice = f"ask about shorter sessions, or log more (supported: {enough:g} sessions' worth, weak: {some:g})"
    return f"{start}: {why}; {rest}; {advice}"
