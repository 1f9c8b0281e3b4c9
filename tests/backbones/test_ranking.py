"""Ranks against a count by hand; seen items left out; sampled negatives by their definition."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from recgym.backbones.hstu import HSTU, HSTUConfig
from recgym.backbones.ranking import Ranker, draw_negatives, rank_targets, ranker_of, spread_steps
from recgym.logs.sequences import Sequences, windows
from recgym.random import fold, session_keys, uniform
from recgym.types import FeedbackKind, IntArray


def sequences(lists: list[list[int]], num_items: int) -> Sequences:
    """Users that consumed these items, one session each."""
    flat = [item for items in lists for item in items]
    size = [len(items) for items in lists]
    return Sequences(
        offsets=np.cumsum([0, *size]), item=np.array(flat, np.int32), feedback=np.ones((len(flat), 1), np.float32),
        time=np.arange(len(flat)), session=np.repeat(np.arange(len(lists)), size),
        propensity=np.full(len(flat), np.nan), position=np.full(len(flat), -1, np.int16),
        kinds=(FeedbackKind(name="consume"),), exposures=False, users=[str(u) for u in range(len(lists))],
        items=pl.DataFrame({"item": [str(j) for j in range(num_items)]}),
    )  # fmt: skip


def fixed(scores: list[float]) -> Ranker:
    """A ranker with the same scores for everybody."""

    def ranker(items: Tensor, feedback: Tensor, steps: IntArray) -> Tensor:
        return torch.tensor(scores).expand(len(items), -1)

    return ranker


LOG = sequences([[1, 2, 3], [4, 4, 1, 5]], 5)
SCORES = [0.5, 0.9, 0.1, 0.5, 0.7]


def test_ranks_count_what_is_better() -> None:
    ranks = rank_targets(fixed(SCORES), LOG, np.arange(7), length=3)
    tied = ranks[[0, 3, 4, 5]]  # items 1 and 4 share places 3 and 4
    assert set(tied) <= {3, 4}
    np.testing.assert_allclose(np.delete(ranks, [0, 3, 4, 5]), [1, 5, 2])


def test_a_ranker_without_an_opinion_has_the_hit_rate_of_chance() -> None:
    many = sequences([[3] * 4000], 20)
    ranks = rank_targets(fixed([0.0] * 20), many, np.arange(4000), length=3)
    assert ranks.min() == 1
    assert ranks.max() == 20
    np.testing.assert_allclose(np.bincount(ranks.astype(int))[1:] / 4000, 0.05, atol=4 * 0.0035)


def test_seen_items_are_left_out_except_the_target() -> None:
    ranks = rank_targets(fixed(SCORES), LOG, np.arange(7), length=3, mask_seen=True)
    np.testing.assert_allclose(ranks[[1, 2, 5, 6]], [1, 3, 3, 2])
    assert set(ranks[[0, 3, 4]]) <= {3, 4}


def test_negatives_are_drawn_without_the_target_and_fall_back_on_all() -> None:
    all_of_them = rank_targets(fixed(SCORES), LOG, np.arange(7), length=3, negatives=4)
    np.testing.assert_allclose(all_of_them, rank_targets(fixed(SCORES), LOG, np.arange(7), length=3))
    many = sequences([[3] * 400], 5)
    ranks = rank_targets(fixed(SCORES), many, np.arange(400), length=3, negatives=2)
    np.testing.assert_allclose(ranks, 3)  # item 3 is the worst: both negatives are above it, whichever they are
    best = rank_targets(fixed([0, 9, 0.5, 0, 0]), many, np.arange(400), length=3, negatives=2)
    assert abs((best == 2).mean() - 0.5) < 4 * 0.025  # the one better item is among 2 of 4 half of the time


@pytest.mark.parametrize("mask_seen", [False, True])
@pytest.mark.parametrize("negatives", [None, 5])
def test_ranks_are_those_of_a_plain_loop(mask_seen: bool, negatives: int | None) -> None:
    rng = np.random.default_rng(3)
    log = sequences([rng.integers(1, 31, size).tolist() for size in rng.integers(1, 40, 25)], 30)
    table = torch.from_numpy(rng.integers(0, 12, (log.num_steps, 30)) / 4).float()  # many ties
    steps = rng.permutation(log.num_steps)[:300]
    found = rank_targets(
        lambda items, feedback, asked: table[asked],
        log,
        steps,
        length=4,
        mask_seen=mask_seen,
        negatives=negatives,
        seed=7,
    )
    for step, rank in zip(steps, found, strict=True):
        first = log.offsets[log.user_of_step[step]]
        target = log.item[step] - 1
        met = set(log.item[first:step] - 1) if mask_seen else set()
        others = [item for item in range(30) if item != target and item not in met]
        key = fold(session_keys(7, 1), torch.tensor([step]))
        if negatives is not None:
            draws = uniform(key, 30)[0]
            others = sorted(others, key=lambda item: draws[item].item())[:negatives]
        above = sum(bool(table[step, item] > table[step, target]) for item in others)
        equal = sum(bool(table[step, item] == table[step, target]) for item in others)
        assert rank == 1 + above + int(uniform(fold(key, 1), 1) * (equal + 1))


def test_negatives_by_popularity_come_as_often_as_their_weight_says() -> None:
    """Two of items 1..3 with weights 1, 2, 3, one after the other: {1, 2} is P(1) P(2 | not 1) + P(2) P(1 | not 2)."""
    log = sequences([[5] * 4000], 5)
    weights = np.array([1, 2, 3, 0, 9])
    drawn = draw_negatives(log, np.arange(4000), 2, weights=weights, seed=2)
    share = np.bincount(drawn.ravel(), minlength=6)[1:] / 4000
    pairs = {(1, 2): 1 / 6 * 2 / 5 + 2 / 6 * 1 / 4, (1, 3): 1 / 6 * 3 / 5 + 3 / 6 * 1 / 3}
    missing = {3: pairs[1, 2], 2: pairs[1, 3], 1: 1 - sum(pairs.values())}
    np.testing.assert_allclose(share, [1 - missing[1], 1 - missing[2], 1 - missing[3], 0, 0], atol=4 * 0.008)
    np.testing.assert_array_equal(drawn[7:9], draw_negatives(log, np.array([7, 8]), 2, weights=weights, seed=2))
    few = draw_negatives(log, np.arange(3), 7, weights=np.array([0, 1, 1, 0, 1]))
    assert np.sort(few, axis=1).tolist() == [[0, 0, 0, 0, 0, 2, 3]] * 3
    np.testing.assert_array_equal(rank_targets(fixed(SCORES), log, np.arange(3), length=3, negatives=few), 2)
    with pytest.raises(ValueError, match=r"weights must be \(5,\) numbers of at least 0, got shape \(4,\)"):
        draw_negatives(log, np.arange(3), 2, weights=np.ones(4))


def test_a_target_scored_as_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="scores the target of step 2 as nan"):
        rank_targets(fixed([0, 0, np.nan, 0, 0]), LOG, np.arange(7), length=3)


def test_a_ranker_that_reads_the_history_gets_what_came_before() -> None:
    seen: list[Tensor] = []

    def ranker(items: Tensor, feedback: Tensor, steps: IntArray) -> Tensor:
        seen.append(items)
        return torch.zeros(len(items), 5)

    rank_targets(ranker, LOG, np.array([2, 3, 6]), length=2)
    assert torch.equal(torch.cat(seen), torch.tensor([[1, 2], [0, 0], [4, 1]]))


@torch.no_grad()
def test_a_backbone_that_reads_time_is_told_when_the_steps_of_the_history_were() -> None:
    backbone = HSTU(HSTUConfig(width=8, length=3, time_bias=True), 5, np.ones(1, np.float32)).eval()
    for parameter in backbone.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    asked = np.array([2, 4, 6])
    items, feedback = (torch.from_numpy(part) for part in windows(LOG, asked, 3))
    time = torch.tensor([[0, 0, 1], [0, 0, 3], [3, 4, 5]], dtype=torch.float64)  # the log's, where there is a step
    expected = backbone.scores(backbone.prefill(items, feedback, time).state)
    found = ranker_of(backbone, LOG)(items, feedback, asked)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, backbone.scores(backbone.prefill(items, feedback).state), atol=1e-2)


def test_spread_steps_keep_both_ends() -> None:
    steps = np.arange(0, 1000, 3)
    kept = spread_steps(steps, 10)
    assert len(kept) == 10
    assert kept[0] == 0
    assert kept[-1] == steps[-1]
    assert spread_steps(steps, 1000) is steps
