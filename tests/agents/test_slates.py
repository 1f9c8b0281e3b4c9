"""Plackett-Luce slates against the enumeration of all of them, and what TRPO asks of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from stable_baselines3.common.distributions import kl_divergence
from torch import Tensor

from agents.actor_critic import Slates

pytestmark = pytest.mark.experiments
LOGITS = torch.tensor([0.3, -1.0, 1.2, 0.0])
OTHER = torch.tensor([-0.5, 0.4, 0.9, 0.1])
ALL = torch.tensor(list(itertools.permutations(range(4), 3)))  # (24, 3)


def chance(logits: Tensor, slate: list[int]) -> float:
    """By the definition, slot by slot."""
    weight, found = logits.exp(), 1.0
    for slot, item in enumerate(slate):
        left = [other for other in range(len(logits)) if other not in slate[:slot]]
        found *= float(weight[item] / weight[left].sum())
    return found


def of(logits: Tensor, rows: int, slate_size: int = 3) -> Slates:
    return Slates(slate_size).proba_distribution(logits.expand(rows, -1))


def test_log_prob_is_the_definition_and_adds_up() -> None:
    found = of(LOGITS, 24).log_prob(ALL).exp()
    expected = torch.tensor([chance(LOGITS, slate) for slate in ALL.tolist()])
    torch.testing.assert_close(found, expected)
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    one = of(LOGITS, 4, 1).log_prob(torch.arange(4)).exp()
    torch.testing.assert_close(one, torch.softmax(LOGITS, 0))


def test_samples_follow_it() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = of(LOGITS, 60_000).sample()
    number = (drawn * torch.tensor([16, 4, 1])).sum(1)
    share = torch.bincount(number, minlength=64)[(ALL * torch.tensor([16, 4, 1])).sum(1)] / 60_000
    torch.testing.assert_close(share, of(LOGITS, 24).log_prob(ALL).exp(), atol=0.006, rtol=0)
    assert of(LOGITS, 1).mode().tolist() == [[2, 0, 3]]


def test_forbidden_items_have_no_chance_and_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    masked = logits.masked_fill(torch.tensor([False, True, False, False]), -torch.inf)
    distribution = of(masked, 50)
    assert (distribution.sample() != 1).all()
    slate = torch.tensor([[0, 2, 3]]).expand(50, -1)
    loss = distribution.log_prob(slate).sum() + distribution.entropy().sum()
    loss = loss + kl_divergence(distribution, of(OTHER, 50)).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert gradient[1] == 0


def test_the_divergence_of_slates_is_the_enumerated_one_on_average() -> None:
    one, other = of(LOGITS, 24), of(OTHER, 24)
    left, right = one.log_prob(ALL), other.log_prob(ALL)
    exact = (left.exp() * (left - right)).sum()
    torch.testing.assert_close((left.exp() * kl_divergence(one, other)).sum(), exact)
    single = kl_divergence(of(LOGITS, 1, 1), of(OTHER, 1, 1))
    categorical = torch.distributions.Categorical
    expected = torch.distributions.kl_divergence(categorical(logits=LOGITS), categorical(logits=OTHER))
    torch.testing.assert_close(single[0], expected)
    with pytest.raises(ValueError, match="ask for their log_prob first"):
        kl_divergence(of(LOGITS, 24), other)


def test_its_second_derivative_is_fishers_matrix() -> None:
    weight = of(LOGITS, 24).log_prob(ALL).exp()

    def divergence(logits: Tensor) -> Tensor:
        moved = of(logits, 24)
        moved.log_prob(ALL)
        mean: Tensor = (weight * kl_divergence(moved, of(LOGITS, 24))).sum()
        return mean

    found = torch.autograd.functional.hessian(divergence, LOGITS)
    score = torch.autograd.functional.jacobian(lambda logits: of(logits, 24).log_prob(ALL), LOGITS)  # (24, 4)
    torch.testing.assert_close(found, (weight.view(-1, 1, 1) * score.unsqueeze(2) * score.unsqueeze(1)).sum(0))
