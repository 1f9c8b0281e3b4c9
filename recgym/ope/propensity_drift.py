"""Did the logging policy change while it logged? Its propensities and what it showed, fold by fold in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recgym.ope.behaviour import check_propensities
from recgym.ope.compare import step_down
from recgym.ope.intervals import check_level
from recgym.ope.over_time import OverTime, fold_influences, over_time
from recgym.ope.p_values import holm, unskewed
from recgym.ope.rows import check_distributions, check_items, check_weights
from recgym.types import DoubleArray, IntArray


@dataclass(frozen=True, kw_only=True)
class ItemShift:
    """What was shown in one fold against the fold before."""

    fold: int
    """The later of the two folds."""
    distance: float
    """Total variation, half the sum of |share after - share before| over items, in [0, 1]. Chance alone makes some."""
    expected: float
    """Its mean where users are dealt to the two folds at random."""
    p_value: float
    """Chance of so large a distance if nothing changed, corrected for all pairs of folds."""
    changed: bool
    items: tuple[tuple[int, float, float], ...]
    """(item, share before, share after) of the items that moved most."""


@dataclass(frozen=True, kw_only=True)
class PropensityDrift:
    """How the logging policy behaved over time."""

    log_propensity: OverTime
    """Mean log propensity of what was shown, nats: falls where the logger explores more or knows more items."""
    entropy: OverTime | None
    """Mean entropy of the logger's choice, nats; None without full distributions."""
    mean_weight: OverTime | None
    """Mean of pi / mu per impression, which must be 1 in every fold; None without weights."""
    wrong_folds: tuple[int, ...]
    """Folds whose mean weight is not 1, corrected for being many: there propensities or support are at fault."""
    shifts: tuple[ItemShift, ...]
    """Each fold against the one before."""
    words: tuple[str, ...]


def propensity_drift(
    propensity: DoubleArray,
    item: IntArray,
    users: IntArray,
    fold: IntArray,
    start: DoubleArray,
    *,
    num_items: int,
    seed: int,
    names: Sequence[str] | None = None,
    distribution: DoubleArray | None = None,
    weights: DoubleArray | None = None,
    level: float = 0.95,
    replicates: int = 1000,
    permutations: int = 199,
) -> PropensityDrift:
    """Compare the logging policy with itself over time; every row is one impression of one item.

    Args:
        propensity: (n,) logged probability of the item shown.
        item: (n,) what was shown, ids 1..N.
        users: (n,) who saw it.
        fold: (n,) fold of the row's session, 0..K - 1 (`session_folds(...)[episode]`).
        start: (n,) start of the row's session.
        num_items: N.
        seed: Of resampling and permutations.
        names: (N,) of the items, for the words; None: their ids.
        distribution: (n, N) the logger's chance of each item, where logged.
        weights: (n,) pi / mu of single impressions, of any target policy.
        level: Of intervals and, as 1 - level, of tests.
        replicates: Resamples for the intervals.
        permutations: Of users, in `item_shifts`.

    Raises:
        ValueError: A propensity is not in (0, 1], an item not in 1..N, and as `over_time`.
    """
    check_propensities(propensity=propensity)
    check_items(item, rows=len(propensity), num_items=num_items)
    ones = np.ones(len(propensity))

    def follow(values: DoubleArray, name: str) -> OverTime:
        return over_time(
            values, ones, users, fold, start, seed=seed, level=level, replicates=replicates, name=name, exact=True
        )

    log_propensity = follow(np.log(propensity), "the mean log propensity")
    entropy, mean_weight = None, None
    wrong: tuple[int, ...] = ()
    if distribution is not None:
        check_distributions(distribution=distribution)
        if distribution.shape != (len(propensity), num_items):
            raise ValueError(f"distribution must be {(len(propensity), num_items)}, got {distribution.shape}")
        logs = np.log(np.where(distribution > 0, distribution, 1.0))
        entropy = follow(-(distribution * logs).sum(axis=1), "the entropy of the logger's choice")
    if weights is not None:
        check_weights(weights, propensity=propensity)
        mean_weight = follow(weights, "the mean weight")
        means, psi = fold_influences(weights, ones, users, fold)
        said = step_down(unskewed(means - 1, psi), psi, level=level)
        wrong = tuple(number for number, each in enumerate(said) if each != "undecided")
    shifts = item_shifts(item, users, fold, num_items=num_items, seed=seed, level=level, permutations=permutations)
    return PropensityDrift(
        log_propensity=log_propensity,
        entropy=entropy,
        mean_weight=mean_weight,
        wrong_folds=wrong,
        shifts=shifts,
        words=_words(log_propensity, entropy, mean_weight, wrong, shifts, names),
    )


def item_shifts(
    item: IntArray,
    users: IntArray,
    fold: IntArray,
    *,
    num_items: int,
    seed: int,
    level: float = 0.95,
    permutations: int = 199,
    most: int = 5,
) -> tuple[ItemShift, ...]:
    """Total variation between the items' shares in neighbouring folds, and whether chance makes as much.

    Under no change it does not matter when a user came: users of one of the two folds are dealt to the two anew, as
    many to each as before, and users of both swap their two parts or not. p = (1 + #{as far apart}) / (1 + R), then
    corrected over the K - 1 pairs by Holm. Rows of a user stay together: a few busy users do not look like a change.

    Args:
        item: (n,) what was shown, ids 1..N.
        users: (n,) who saw it.
        fold: (n,) 0..K - 1.
        num_items: N.
        seed: Of the permutations.
        level: 1 - level of the tests together.
        permutations: R; p cannot be below 1 / (1 + R).
        most: How many items to name in each pair.

    Raises:
        ValueError: An item is not in 1..N, folds are not 0..K - 1 with K > 1, or too few permutations to find anything.

    Source: Good (2005), "Permutation, parametric, and bootstrap tests of hypotheses", chapter 3.
    """
    check_level(level)
    check_items(item, rows=len(item), num_items=num_items)
    count = int(fold.max(initial=0)) + 1
    if fold.shape != item.shape or users.shape != item.shape:
        raise ValueError(f"users and fold must be one a row, {item.shape}; got {users.shape} and {fold.shape}")
    if count < 2 or not np.array_equal(np.unique(fold), np.arange(count)):
        raise ValueError(f"fold must hold all of 0..K - 1 with K > 1, got {np.unique(fold)}")
    if (count - 1) / (permutations + 1) > 1 - level:
        least = int(np.ceil((count - 1) / (1 - level) - 1e-9)) - 1
        raise ValueError(f"permutations must be at least {least} to find a change, got {permutations}")
    rng, found = np.random.default_rng(seed), []
    for number in range(1, count):
        here = (fold == number - 1) | (fold == number)
        later, who = (fold[here] == number).astype(np.int64), np.unique(users[here], return_inverse=True)[1]
        place = item[here] - 1
        shares = _shares(place, later, num_items)
        draws = np.array(
            [_distance(_shares(place, dealt, num_items)) for dealt in _deals(who, later, rng, permutations)]
        )
        found.append((shares, draws))
    chance = [(1 + int((draws >= _distance(shares) - 1e-12).sum())) / (1 + permutations) for shares, draws in found]
    return tuple(
        ItemShift(
            fold=number + 1,
            distance=_distance(shares),
            expected=float(draws.mean()),
            p_value=float(p_value),
            changed=bool(p_value <= 1 - level + 1e-12),
            items=tuple(
                (int(place) + 1, float(shares[0, place]), float(shares[1, place]))
                for place in np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:most]
            ),
        )
        for number, ((shares, draws), p_value) in enumerate(zip(found, holm(np.array(chance)), strict=True))
    )


def _shares(place: IntArray, later: IntArray, num_items: int) -> DoubleArray:
    """Shares of the items before and after, (2, N)."""
    counts = np.bincount(place + num_items * later, minlength=2 * num_items).reshape(2, num_items)
    shares: DoubleArray = counts / counts.sum(axis=1, keepdims=True)
    return shares


def _distance(shares: DoubleArray) -> float:
    return float(np.abs(shares[1] - shares[0]).sum() / 2)


def _deals(who: IntArray, later: IntArray, rng: np.random.Generator, count: int) -> Iterator[IntArray]:
    """Each row's side, 0 or 1, after users of one side are dealt anew and users of both swap by a coin."""
    size = np.bincount(who)
    after = np.bincount(who, weights=later)
    single = np.flatnonzero((after == 0) | (after == size))
    side = (after > 0).astype(np.int64)[single]
    for _ in range(count):
        flip = rng.integers(2, size=len(size))
        flip[single] = side ^ rng.permutation(side)
        yield later ^ flip[who]


def _words(
    log_propensity: OverTime,
    entropy: OverTime | None,
    mean_weight: OverTime | None,
    wrong: tuple[int, ...],
    shifts: tuple[ItemShift, ...],
    names: Sequence[str] | None,
) -> tuple[str, ...]:
    words = [each.words for each in (log_propensity, entropy) if each is not None]
    if mean_weight is not None and wrong:
        values = ", ".join(f"{mean_weight.folds[one].estimate.value:.3g} in fold {one}" for one in wrong)
        words.append(
            f"the mean weight must be 1 and is {values}: the propensities logged then are not those of the policy that "
            "served, or the target shows items that were not on offer; leave these folds out or repair the log"
        )
    elif mean_weight is not None:
        words.append("the mean weight is 1 in every fold, as it must be")
    moved = [each for each in shifts if each.changed]
    for each in moved:
        item, before, after = each.items[0]
        called = item if names is None else names[item - 1]
        words.append(
            f"what is shown changed between folds {each.fold - 1} and {each.fold}: {each.distance:.1%} of impressions "
            f"went to other items, chance alone makes {each.expected:.1%} (most of all item {called}, from "
            f"{before:.1%} to {after:.1%}); the policy, the catalogue or the visitors changed"
        )
    if not moved:
        words.append("the items' shares differ between folds no more than chance makes them")
    return tuple(words)
