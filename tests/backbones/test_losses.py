"""Each loss is the formula that its paper writes, with the gradient of that formula, whatever the size of scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from recgym.backbones.losses import (
    binary_cross_entropy,
    bpr,
    bpr_max,
    cross_entropy,
    gbce,
    in_batch,
    sampled_softmax,
    top1_max,
)

Loss = Callable[..., Tensor]


def scores(negatives: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of five chosen items and their negatives, and a clash in two rows."""
    draw = torch.Generator().manual_seed(1)
    positive, negative = (torch.randn(size, generator=draw).double() for size in ((5,), (5, negatives)))
    clash = torch.zeros(5, negatives, dtype=torch.bool)
    clash[1, 0] = clash[3, 1:3] = True
    return positive.requires_grad_(), negative.requires_grad_(), clash


def test_a_common_shift_of_scores_changes_no_softmax_and_no_difference() -> None:
    positive, negative, clash = scores()
    unregularised = partial(bpr_max, regularisation=0.0)
    corrected = partial(sampled_softmax, log_q_negative=torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    for loss in (sampled_softmax, corrected, bpr, unregularised):
        torch.testing.assert_close(loss(positive + 7, negative + 7, clash=clash), loss(positive, negative, clash=clash))
    square, items = torch.randn(4, 4).double(), torch.tensor([1, 2, 1, 3])
    torch.testing.assert_close(in_batch(square + 7, items), in_batch(square, items))


# Sampled softmax

CHANCE = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
SCORE = torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=torch.float64)


def draws(items: list[int], chosen: int = 2) -> float:
    """Corrected loss where `items` were drawn."""
    drawn = torch.tensor(items)
    found = sampled_softmax(
        SCORE[chosen, None], SCORE[drawn][None], log_q_negative=CHANCE[drawn].log(), clash=drawn[None] == chosen
    )
    return float(found)


def full(chosen: int = 2) -> float:
    return -float(SCORE.log_softmax(0)[chosen])


def test_the_sum_over_draws_is_right_on_average() -> None:
    # e^loss = 1 + sum_k e^(s_k - s+) / (K q_k), whose mean over all draws is the full softmax's, exactly.
    mean = sum(
        float(CHANCE[list(items)].prod()) * math.exp(draws(list(items)))
        for items in itertools.product(range(4), repeat=3)
    )
    assert mean == pytest.approx(math.exp(full()), rel=1e-12)


def test_draws_in_the_shares_of_q_give_the_full_softmax() -> None:
    for chosen in range(4):
        assert draws([0] * 1 + [1] * 2 + [2] * 3 + [3] * 4, chosen) == pytest.approx(full(chosen), rel=1e-12)


def test_all_items_as_uniform_draws_give_the_full_softmax() -> None:
    draw = torch.Generator().manual_seed(4)
    inputs = [torch.randn(size, generator=draw).double().requires_grad_() for size in ((7, 3), (11, 3), (11,))]
    states, vectors, bias = inputs
    targets, every = torch.tensor([3, 0, 10, 3, 3, 7, 1]), linear(states, vectors, bias)
    clash = targets[:, None] == torch.arange(11)
    log_q = torch.full((7, 11), -math.log(11), dtype=torch.float64)
    found = sampled_softmax(every.gather(1, targets[:, None])[:, 0], every, log_q_negative=log_q, clash=clash)
    expected = cross_entropy(states, targets, vectors, bias)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs))


def test_sampled_softmax_is_its_formula() -> None:
    positive, negative, clash = scores()
    draw = torch.Generator().manual_seed(3)
    own, others = torch.rand(5, generator=draw).double(), torch.rand(5, 4, generator=draw).double()
    chosen, drawn, total = positive.tolist(), negative.tolist(), 0.0
    for row in range(5):
        top = math.exp(chosen[row]) / (4 * own[row])
        below = sum(math.exp(drawn[row][k]) / (4 * others[row, k]) for k in range(4) if not clash[row, k])
        total += -math.log(top / (top + below)) / 5
    found = sampled_softmax(positive, negative, log_q_positive=own.log(), log_q_negative=others.log(), clash=clash)
    assert float(found.detach()) == pytest.approx(total, rel=1e-12)


def test_in_batch_leaves_out_equal_targets() -> None:
    square, items = torch.randn(4, 4, generator=torch.Generator().manual_seed(2)).double(), [8, 5, 8, 2]
    share = {8: 0.5, 5: 0.2, 2: 0.3}
    total = plain = 0.0
    for row in range(4):
        others = [column for column in range(4) if items[column] != items[row]]
        above = sum(math.exp(square[row, c]) / (3 * share[items[c]]) for c in others)
        total += math.log1p(above / math.exp(square[row, row])) / 4
        plain += math.log1p(sum(math.exp(square[row, c] - square[row, row]) for c in others)) / 4
    log_q = torch.tensor([share[item] for item in items], dtype=torch.float64).log()
    assert float(in_batch(square, torch.tensor(items), log_q=log_q)) == pytest.approx(total, rel=1e-12)
    assert float(in_batch(square, torch.tensor(items))) == pytest.approx(plain, rel=1e-12)
    assert float(in_batch(square[:1, :1], torch.tensor([8]), log_q=log_q[:1])) == 0.0


# Pairs


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def shares(negative: list[float]) -> list[float]:
    return [math.exp(score) / sum(map(math.exp, negative)) for score in negative]


def plain_bpr(own: float, others: list[float]) -> float:
    return -sum(math.log(sigmoid(own - score)) for score in others) / len(others)


def plain_bpr_max(own: float, others: list[float]) -> float:
    weights = shares(others)
    gain = sum(weight * sigmoid(own - score) for weight, score in zip(weights, others, strict=True))
    size = sum(weight * score * score for weight, score in zip(weights, others, strict=True))
    return -math.log(gain) + 0.3 * size


def plain_top1_max(own: float, others: list[float]) -> float:
    return sum(
        weight * (sigmoid(score - own) + sigmoid(score * score))
        for weight, score in zip(shares(others), others, strict=True)
    )


def plain_binary(own: float, others: list[float], beta: float = 1.0) -> float:
    below = sum(math.log(1 - sigmoid(score)) for score in others)
    return -(math.log(sigmoid(own) ** beta) + below) / (len(others) + 1)


def plain_gbce(own: float, others: list[float]) -> float:
    alpha, t = 4 / 20, 0.75  # four negatives among 21 items
    return plain_binary(own, others, alpha * (t * (1 - 1 / alpha) + 1 / alpha))


PAIRS: dict[str, tuple[Loss, Callable[[float, list[float]], float]]] = {
    "bpr": (bpr, plain_bpr),
    "bpr-max": (partial(bpr_max, regularisation=0.3), plain_bpr_max),
    "top1-max": (top1_max, plain_top1_max),
    "bce": (binary_cross_entropy, plain_binary),
    "gbce": (partial(gbce, num_items=21), plain_gbce),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_loss_of_pairs_is_its_formula(name: str) -> None:
    loss, formula = PAIRS[name]
    positive, negative, clash = scores()
    for left_out in (None, clash):
        kept = [
            [score for score, skip in zip(row, out, strict=True) if left_out is None or not skip]
            for row, out in zip(negative.tolist(), clash.tolist(), strict=True)
        ]
        expected = sum(map(formula, positive.tolist(), kept)) / 5
        assert float(loss(positive, negative, clash=left_out).detach()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", [*PAIRS, "sampled-softmax"])
def test_a_loss_of_pairs_has_the_slope_of_its_finite_differences(name: str) -> None:
    loss = PAIRS[name][0] if name in PAIRS else sampled_softmax
    positive, negative, clash = scores()
    assert torch.autograd.gradcheck(partial(loss, clash=clash), (positive, negative))
    (slope,) = torch.autograd.grad(loss(positive, negative, clash=clash), negative)
    assert not slope[clash].any() and slope[~clash].all()


@pytest.mark.parametrize("name", [*PAIRS, "sampled-softmax"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_scores_of_ten_thousand_stay_finite(name: str, kind: torch.dtype) -> None:
    loss = PAIRS[name][0] if name in PAIRS else sampled_softmax
    positive = torch.tensor([1e4, -1e4, 1e4, 0.0], dtype=kind).requires_grad_()
    negative = torch.tensor([[1e4, -1e4], [1e4, 1e4], [-1e4, -1e4], [1e4, 0.0]], dtype=kind).requires_grad_()
    for clash in (None, torch.tensor([[True, False], [True, True], [False, False], [True, True]])):
        found = loss(positive, negative, clash=clash)
        assert found.dtype == torch.float32 and bool(found.isfinite())
        assert all(bool(slope.isfinite().all()) for slope in torch.autograd.grad(found, (positive, negative)))


@pytest.mark.parametrize("name", [*PAIRS, "sampled-softmax"])
def test_a_row_of_clashes_says_nothing_of_negatives(name: str) -> None:
    loss = PAIRS[name][0] if name in PAIRS else sampled_softmax
    positive, negative, clash = scores()
    clash[2] = True
    one = slice(2, 3)
    found = float(loss(positive[one], negative[one], clash=clash[one]).detach())
    own = math.log(1 + math.exp(-positive[2].item()))
    expected = {"bce": own, "gbce": own * (1 - 0.75 * 0.8)}.get(name, 0.0)
    assert found == pytest.approx(expected, rel=1e-12)
    for slope in torch.autograd.grad(loss(positive, negative, clash=clash), (positive, negative)):
        assert bool(slope.isfinite().all())


def test_gbce_without_calibration_is_binary_cross_entropy() -> None:
    positive, negative, clash = scores()
    for settings in ({"num_items": 100, "calibration": 0.0}, {"num_items": 5}, {"num_items": 2}):  # 4 of 4 items drawn
        torch.testing.assert_close(
            gbce(positive, negative, clash=clash, **settings), binary_cross_entropy(positive, negative, clash=clash)
        )


@pytest.mark.parametrize("calibration", [0.0, 1.0])
def test_gbce_is_least_at_the_true_probabilities_if_calibrated(calibration: float) -> None:
    score = CHANCE.logit().requires_grad_()  # sigmoid(score) is the chance of each of four items
    expected = torch.zeros((), dtype=torch.float64)
    for chosen, drawn in itertools.permutations(range(4), 2):
        loss = gbce(score[chosen, None], score[drawn, None, None], num_items=4, calibration=calibration)
        expected = expected + CHANCE[chosen] * loss / 3
    (slope,) = torch.autograd.grad(expected, score)
    assert bool((slope.abs() < 1e-12).all()) == (calibration == 1.0)


# What does not fit


BAD: list[tuple[Callable[[], Tensor], str]] = [
    (lambda: bpr(torch.zeros(0), torch.zeros(0, 2)), r"positive has shape \(0,\)"),
    (lambda: bpr(torch.zeros(2, 1), torch.zeros(2, 2)), r"positive has shape \(2, 1\)"),
    (lambda: top1_max(torch.zeros(2), torch.zeros(3, 2)), r"negative has shape \(3, 2\), expected \(2, K\)"),
    (lambda: binary_cross_entropy(torch.zeros(2), torch.zeros(2, 0)), r"negative has shape \(2, 0\)"),
    (lambda: gbce(torch.zeros(2), torch.zeros(2), num_items=9), r"negative has shape \(2,\)"),
    (lambda: bpr(torch.zeros(2), torch.zeros(2, 1), clash=torch.zeros(2).bool()), r"clash has shape \(2,\)"),
    (lambda: bpr(torch.zeros(2), torch.zeros(2, 1), clash=torch.zeros(2, 1)), r"clash is torch.float32"),
    (lambda: bpr_max(torch.zeros(2), torch.zeros(2, 1), regularisation=-1.0), r"regularisation is -1.0"),
    (lambda: bpr_max(torch.zeros(2), torch.zeros(2, 1), regularisation=math.nan), r"regularisation is nan"),
    (lambda: gbce(torch.zeros(2), torch.zeros(2, 1), num_items=9, calibration=1.1), r"calibration is 1.1"),
    (lambda: gbce(torch.zeros(2), torch.zeros(2, 1), num_items=1), r"num_items is 1"),
    (lambda: sampled_softmax(torch.zeros(2), torch.zeros(2, 3), log_q_negative=torch.zeros(2)), r"log_q_negative has"),
    (lambda: sampled_softmax(torch.zeros(2), torch.zeros(2, 3), log_q_positive=torch.zeros(2)), r"without log_q_neg"),
    (
        lambda: sampled_softmax(
            torch.zeros(2), torch.zeros(2, 3), log_q_negative=torch.zeros(3), log_q_positive=torch.zeros(3)
        ),
        r"log_q_positive has shape \(3,\), expected \(2,\)",
    ),
    (lambda: in_batch(torch.zeros(2, 3), torch.zeros(2)), r"scores has shape \(2, 3\)"),
    (lambda: in_batch(torch.zeros(2, 2), torch.zeros(3)), r"targets has shape \(3,\), expected \(2,\)"),
    (lambda: in_batch(torch.zeros(2, 2), torch.zeros(2), log_q=torch.zeros(1)), r"log_q has shape \(1,\)"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_a_loss_names_what_does_not_fit(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
