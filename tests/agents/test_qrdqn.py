"""QR-DQN: its loss is sb3-contrib's, risk and optimism by hand, quantiles that are those of the rewards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sb3_contrib.common.utils import quantile_huber_loss

from agents.distributional import Quantiles
from agents.qrdqn import QRDQN, _Learner, decay, quantile_huber, upper_variance
from recgym.types import Observation
from tests.agents import known

pytestmark = pytest.mark.experiments


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_the_loss_is_sb3_contrib_s(scale: float) -> None:
    torch.manual_seed(0)
    found = (torch.randn(64, 25) * scale).requires_grad_()
    target = torch.randn(64, 25) * scale
    target[0] = found[0].detach()  # equal on the diagonal
    ours = quantile_huber(found, target).mean()
    (our_gradient,) = torch.autograd.grad(ours, found)
    theirs = quantile_huber_loss(found, target, sum_over_quantiles=True)
    (their_gradient,) = torch.autograd.grad(theirs, found)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(our_gradient, their_gradient, atol=1e-6, rtol=0)


def test_risk_by_hand() -> None:
    outputs = torch.tensor([[3.0, -1.0, 1.0, 5.0], [2.0, 2.0, 2.0, 2.0]])  # in any order
    expected = {1.0: [2.0, 2.0], 0.5: [0.0, 2.0], 0.25: [-1.0, 2.0], 0.1: [-1.0, 2.0]}
    for level, values in expected.items():
        torch.testing.assert_close(Quantiles(num=4, level=level).value(outputs), torch.tensor(values))
    uneven = Quantiles(num=4, level=0.4).value(outputs)  # all of the lowest, .15 of the second
    torch.testing.assert_close(uneven[0], torch.tensor((0.25 * -1.0 + 0.15 * 1.0) / 0.4))
    with pytest.raises(ValueError, match="level is 0, expected a chance"):
        QRDQN(level=0)
    with pytest.raises(ValueError, match="risk is 'var', expected"):
        QRDQN(risk="var")  # type: ignore[arg-type]


def test_optimism_by_hand(tmp_path: Path) -> None:
    outputs = torch.tensor([[1.0, 0.0, 4.0, 2.0], [1.0, -9.0, 1.0, 1.0]])
    torch.testing.assert_close(upper_variance(outputs), torch.tensor([(4.0 - 2.0) ** 2 / 8, 0.0]))
    assert decay(1) == 0.0
    assert decay(100) == pytest.approx(math.sqrt(math.log(100) / 100))
    run: Any = _Learner(
        QRDQN(quantiles=4, optimism=10.0, num_envs=2), known.task(lambda: known.Bandit(3, 2)), 0, tmp_path
    )
    run.q = lambda observation: outputs[None]
    run.experience.steps = 100
    expected = torch.tensor([[1.75 + 10 * decay(100) * 0.5**0.5, -1.5]])
    torch.testing.assert_close(run._hopes(Observation(torch.zeros(1, 1))), expected)
    with pytest.raises(ValueError, match="optimism -1.0: expected at least 0"):
        QRDQN(optimism=-1.0)


@pytest.mark.parametrize("kappa", [0.0, 0.2, 1.0])
def test_the_loss_is_least_at_the_quantiles_and_kappa_pulls_them_together(kappa: float) -> None:
    """Of normal rewards: where the mean of |tau - 1{y < theta}| clip((y - theta) / kappa, -1, 1) is 0."""
    chance = (torch.arange(8) + 0.5) / 8
    exact = torch.special.ndtri(chance)
    rewards = torch.special.ndtri((torch.arange(2000) + 0.5) / 2000)
    found = torch.zeros(1, 8, requires_grad=True)
    optimiser = torch.optim.Adam([found], lr=0.05)
    for step in range(400):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 400)
        optimiser.zero_grad()
        quantile_huber(found, rewards[None], kappa).sum().backward()
        optimiser.step()
    low, high = torch.full((8,), -4.0), torch.full((8,), 4.0)
    for _ in range(30):
        middle = (low + high) / 2
        gap = rewards - middle.unsqueeze(1)  # (8, 2000)
        slope = gap.sign() if kappa == 0 else (gap / kappa).clamp(-1, 1)
        above = ((chance.unsqueeze(1) - (gap < 0).float()).abs() * slope).mean(1) > 0
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    torch.testing.assert_close(found[0].detach(), low, atol=0.02, rtol=0)
    if kappa == 0:
        torch.testing.assert_close(low, exact, atol=0.01, rtol=0)
    else:
        assert (low.abs() < exact.abs()).all()
