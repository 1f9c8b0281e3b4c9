"""How far a log covers what a target policy does, also by what was not drawn.

The weights of whole sessions are products of their steps' ratios. Their tail is so rare that most logs miss it, and a
log that missed it looks fine: its effective sample size is large and its interval too narrow. The moments of single
steps are known far better, and their products foretell the tail, drawn or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from recgym.ope.rows import check_weights
from recgym.ope.views import first_steps
from recgym.ope.weights import cumulative_weights
from recgym.types import DoubleArray, IntArray

_MOST = 1e50  # of a ratio, so that its third power times the next step's is a number


@dataclass(frozen=True, kw_only=True)
class Support:
    """How far the log covers what the target policy does. All weights are those of whole episodes."""

    effective_sample_size: float
    """(sum w)^2 / sum w^2, in episodes (Kong 1992), of the episodes that were drawn."""
    largest_share: float
    """Share of the total weight that the heaviest episode holds."""
    top_percent_share: float
    """Share of the total weight that the heaviest 1% of episodes hold."""
    largest_weight: float
    zero_share: float
    """Share of episodes with weight 0: the target policy would never have acted so."""
    mean_ratio: float
    """Mean of pi / mu over steps; 1 in expectation where the log supports the target and the propensities are right."""
    mean_ratio_error: float
    """Its standard error, users being the unit."""
    unsupported: float
    """Estimated share of the target policy's choices that the logger never makes, max(0, 1 - mean ratio): under the
    logger, E[pi / mu] is exactly the target's probability on what the logger can show."""
    num_episodes: int
    expected_sample_size: float
    """E (E[w])^2 / E[w^2] with the moments of `log_moment`; for episodes of one step the effective sample size."""
    unevenness: float
    """E[w^3] / (E[w^2]^(3/2) sqrt(E)), of `log_moment` or of the drawn weights, whichever is greater. Up to a factor it
    bounds how far the mean's distribution is from the normal one that an interval relies on."""
    tail_index: float
    """`tail_index` of the drawn weights."""


def support(ratios: DoubleArray, episode: IntArray, user: IntArray) -> Support:
    """Measure support from the step ratios pi / mu (T,), the episode of each step (T,) and the user of each (E,).

    Raises:
        ValueError: A ratio is negative or not finite, or episodes are not numbered 0, 1, 2, ... in order.

    Source: Kong (1992) for the effective sample size; Esseen (1942) for the third moment over the second.
    """
    check_weights(ratios, name="ratios")
    ratios = np.minimum(ratios, _MOST)
    weights = Weights(len(user))
    weights.add(ratios, episode)
    index = np.unique(user, return_inverse=True)[1][episode]  # (T,)
    sums: DoubleArray = np.bincount(index, weights=ratios).astype(np.float64)
    return weights.support(sums, np.bincount(index).astype(np.float64))


class Weights:
    """Weights of episodes that go by, part by part of a log: their moments, drawn and foretold, and the heaviest."""

    def __init__(self, heaviest: int) -> None:
        """Keep so many of the heaviest: `enough` of them leave nothing out."""
        self.keep, self.heaviest = heaviest, np.empty(0)
        self.sums = np.zeros(3)  # of w, w^2 and w^3, in units of the largest so far, so that no power overflows
        self.largest, self.count, self.zeros = 0.0, 0, 0
        self.moments = StepMoments()

    @staticmethod
    def enough(num_rows: int) -> int:
        """How many of the heaviest of up to `num_rows` episodes `support` reads."""
        return max(num_rows // 100, int(3 * math.sqrt(num_rows)) + 1, 1)

    def add(self, ratios: DoubleArray, episode: IntArray) -> None:
        """Add whole episodes: ratios (T,), episode (T,)."""
        last = np.append(first_steps(episode)[1:], len(episode)) - 1
        weight = np.nan_to_num(cumulative_weights(ratios, episode)[last], nan=0.0, posinf=1e300)  # (E,)
        self.moments.add(ratios, episode)
        self.count, self.zeros = self.count + len(weight), self.zeros + int((weight == 0).sum())
        before, self.largest = self.largest, max(self.largest, float(weight.max()))
        if self.largest > 0:
            powers = np.arange(1, 4)
            share = weight / self.largest
            self.sums = self.sums * (before / self.largest) ** powers + [(share**power).sum() for power in powers]
        if len(self.heaviest) == self.keep:
            weight = weight[weight > self.heaviest.min()]
        every = np.concatenate([self.heaviest, weight])
        self.heaviest = np.partition(every, -self.keep)[-self.keep :] if len(every) > self.keep else every

    def support(self, ratios: DoubleArray, steps: DoubleArray) -> Support:
        """Support of all of them, from each user's sum of step ratios (U,) and number of steps (U,)."""
        ordered, known, count = np.sort(self.heaviest)[::-1], self.largest > 0, self.count
        total, squares, cubes = self.sums
        first, second, third = (self.moments.log(power) for power in (1, 2, 3))
        mean = float(ratios.sum() / steps.sum())
        foretold = math.exp(min(700.0, third - 1.5 * second)) / math.sqrt(count) if known else math.nan
        return Support(
            effective_sample_size=float(total**2 / squares) if known else 0.0,
            largest_share=1 / float(total) if known else math.nan,
            top_percent_share=float(ordered[: max(1, count // 100)].sum() / (total * self.largest))
            if known
            else math.nan,
            largest_weight=self.largest,
            zero_share=self.zeros / count,
            mean_ratio=mean,
            mean_ratio_error=float(np.sqrt(((ratios - mean * steps) ** 2).sum()) / steps.sum()),
            unsupported=max(0.0, 1.0 - mean),
            num_episodes=count,
            expected_sample_size=count * math.exp(min(0.0, 2 * first - second)) if known else 0.0,
            unevenness=max(float(cubes / squares**1.5), foretold) if known else math.nan,
            tail_index=tail_index(ordered, count),
        )


class StepMoments:
    """Sums over episodes of powers of single steps and of neighbours, by place, of which `log` is made."""

    def __init__(self) -> None:
        """Nothing seen."""
        self.count = 0
        self.sums = np.zeros((3, 3, 0))  # power, then rho_t^p, rho_t-1^p rho_t^p, and the last rho^p by length; place
        self.alive = np.zeros(0)  # episodes that have a step at this place

    def add(self, ratios: DoubleArray, episode: IntArray) -> None:
        """Add whole episodes: ratios (T,), episode (T,)."""
        start = first_steps(episode)
        length = np.diff(np.append(start, len(episode)))  # (E,)
        place = np.arange(len(episode)) - start[episode]  # (T,)
        steps = max(self.sums.shape[2], int(length.max()) + 1)
        later = np.flatnonzero(place > 0)
        found = np.zeros((3, 3, steps))
        for row, power in enumerate((1, 2, 3)):
            raised = ratios**power
            found[row, 0] = np.bincount(place, weights=raised, minlength=steps)
            found[row, 1] = np.bincount(place[later], weights=raised[later] * raised[later - 1], minlength=steps)
            found[row, 2] = np.bincount(length, weights=raised[start + length - 1], minlength=steps)
        alive = np.bincount(place, minlength=steps).astype(np.float64)
        found[:, :, : self.sums.shape[2]] += self.sums
        alive[: len(self.alive)] += self.alive
        self.sums, self.alive, self.count = found, alive, self.count + len(start)

    def log(self, power: int) -> float:
        """The logarithm of E[w^p] of whole episodes: of m_0 prod_t E[rho_t-1^p rho_t^p] / m_t-1, m_t = E[rho_t^p].

        Means over all E episodes; once it is over, one has ratio 1. Exact for independent steps; what a step shares
        with the next counts, what steps further apart share does not. For episodes of one step it is the plain moment.
        No rare episode in which many heavy steps meet has to be drawn. -inf where no episode has weight left.

        Args:
            power: p, 1 to 3.
        """
        raised, pairs, ended = self.sums[power - 1, :, :-1]  # (H,) each; an episode's last step has no next
        over = self.count - self.alive[:-1]  # (H,)
        single = raised + over
        joint = single.copy()
        joint[1:] = pairs[1:] + ended[1:] + over[:-1]
        if not (joint > 0).all():
            return -math.inf
        return float(np.log(joint).sum() - np.log(single[:-1]).sum() - math.log(self.count))


def log_moment(ratios: DoubleArray, episode: IntArray, power: int) -> float:
    """`StepMoments.log` of one log, ratios (T,) and the episode of each step (T,)."""
    moments = StepMoments()
    moments.add(ratios, episode)
    return moments.log(power)


def tail_index(weights: DoubleArray, count: int | None = None) -> float:
    """K of a generalised Pareto tail, fitted to the largest M = min(n / 5, 3 sqrt(n)) weights less the next.

    A tail of index k has moments below 1 / k only: the variance is infinite from 1/2, the mean from 1. With fewer than
    five different from the next, nan. The fit leans on 1/2 as if ten more values said so, (M k + 10 / 2) / (M + 10).

    Args:
        weights: (n,), or the largest of them, M + 1 at least.
        count: n, where `weights` are the largest alone.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), "Pareto smoothed importance sampling", section 3; Zhang and
        Stephens (2009), "A new and efficient estimation method for the generalized Pareto distribution".
    """
    number = len(weights) if count is None else count
    size = int(min(number / 5, 3 * math.sqrt(number)))
    ordered = np.sort(weights)
    above = ordered[len(ordered) - size :] - ordered[len(ordered) - size - 1]
    above = above[above > 1e-100 * ordered[-1]]
    if len(above) < 5:
        return math.nan
    above /= above[-1]
    count, grid = len(above), 30 + int(math.sqrt(len(above)))
    quarter = above[int(count / 4 + 0.5) - 1]
    theta = 1 + (1 - np.sqrt(grid / (np.arange(grid) + 0.5))) / (3 * quarter)  # (G,) candidates of -k / scale
    shape = np.log1p(-theta[:, None] * above).mean(axis=1)  # (G,) k of each
    scale = np.full(len(theta), float(above.mean()))  # of a tail without k, where theta is 0
    np.divide(shape, -theta, out=scale, where=np.abs(theta) > 1e-9)
    profile = -count * (np.log(scale) + shape + 1)
    likely = np.exp(profile - profile.max())
    best = float((theta * likely).sum() / likely.sum())
    index = float(np.log1p(-best * above).mean())
    return (count * index + 10 * 0.5) / (count + 10)
