"""Returns and advantages: closed forms, one example by hand, and Stable-Baselines3's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.returns import following, generalised_advantages, lambda_returns, n_step_returns, returns_to_go

pytestmark = pytest.mark.experiments
NEVER = torch.zeros(9, 2, dtype=torch.bool)


def test_a_constant_reward_has_the_geometric_series() -> None:
    reward, worth = torch.ones(9, 2), torch.full((9, 2), 1 / (1 - 0.9))
    endless = {"reward": reward, "next_values": worth, "terminated": NEVER, "truncated": NEVER}
    for decay in (0.0, 0.4, 1.0):
        torch.testing.assert_close(lambda_returns(**endless, discount=0.9, decay=decay), worth)
    for steps in (1, 3, 20):
        torch.testing.assert_close(n_step_returns(**endless, discount=0.9, steps=steps), worth)
    last = NEVER.clone()
    last[-1] = True
    ending = returns_to_go(reward, worth, last, NEVER, discount=0.9)
    left = torch.arange(9, 0, -1)
    torch.testing.assert_close(ending[:, 0], (1 - 0.9**left) / (1 - 0.9))


def test_an_example_by_hand() -> None:
    """Steps of rewards 1, 2, 4, 8: cut after the second (worth 10), left after the third, a stretch's end (worth 6)."""
    reward = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    cut, left = (torch.tensor(flags).view(4, 1) for flags in ([False, True, False, False], [False, False, True, False]))
    values = torch.tensor([[3.0], [5.0], [7.0], [9.0], [6.0]])
    after = following(values, cut, torch.tensor([10.0]))
    assert after[:, 0].tolist() == [5, 10, 9, 6]
    found = returns_to_go(reward, after, left, cut, discount=0.5)
    assert found[:, 0].tolist() == [1 + 0.5 * (2 + 0.5 * 10), 2 + 0.5 * 10, 4, 8 + 0.5 * 6]
    assert n_step_returns(reward, after, left, cut, discount=0.5, steps=1)[:, 0].tolist() == [3.5, 7, 4, 11]
    assert torch.equal(n_step_returns(reward, after, left, cut, discount=0.5, steps=2), found)
    half = lambda_returns(reward, after, left, cut, discount=0.5, decay=0.5)
    assert half[0, 0] == 1 + 0.5 * (0.5 * 5 + 0.5 * 7)
    advantage = generalised_advantages(reward, values[:-1], after, left, cut, discount=0.5, decay=0.5)
    assert advantage[:, 0].tolist() == [3.5 - 3 + 0.25 * 2, 7 - 5, 4 - 7, 11 - 9]


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rewards, values, values of what followed, and flags of 12 steps of 5 sessions."""
    generator = torch.Generator().manual_seed(0)
    reward, values = torch.randn(12, 5, generator=generator), torch.randn(13, 5, generator=generator)
    ends = torch.rand(12, 5, generator=generator)
    left, cut = ends < 0.15, ends > 0.85
    after = following(values, cut, torch.randn(int(cut.sum()), generator=generator))
    return reward, values, after, left, cut


def test_one_is_the_other(drawn: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> None:
    reward, values, after, left, cut = drawn
    whole = returns_to_go(reward, after, left, cut, discount=0.9)
    torch.testing.assert_close(n_step_returns(reward, after, left, cut, discount=0.9, steps=12), whole)
    for decay in (0.0, 0.7, 1.0):
        advantage = generalised_advantages(reward, values[:-1], after, left, cut, discount=0.9, decay=decay)
        expected = lambda_returns(reward, after, left, cut, discount=0.9, decay=decay)
        torch.testing.assert_close(advantage + values[:-1], expected)
    one = n_step_returns(reward, after, left, cut, discount=0.9, steps=1)
    torch.testing.assert_close(one, lambda_returns(reward, after, left, cut, discount=0.9, decay=0.0))


def test_the_lambda_return_is_the_mixture_of_n_step_returns() -> None:
    """(1 - lambda) sum over n of lambda^(n-1) G^(n), the rest of the weight on the last: equation 12.3."""
    generator = torch.Generator().manual_seed(1)
    reward, after = torch.randn(9, 2, generator=generator), torch.randn(9, 2, generator=generator)
    parts = [n_step_returns(reward, after, NEVER, NEVER, discount=0.9, steps=n)[0] for n in range(1, 10)]
    mixed = sum(0.3 * 0.7**n * part for n, part in enumerate(parts[:-1])) + 0.7**8 * parts[-1]
    torch.testing.assert_close(mixed, lambda_returns(reward, after, NEVER, NEVER, discount=0.9, decay=0.7)[0])


def test_stable_baselines3_finds_the_same(drawn: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> None:
    import gymnasium
    from stable_baselines3.common.buffers import RolloutBuffer

    reward, values, after, left, cut = drawn
    box, discrete = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2)
    buffer = RolloutBuffer(12, box, discrete, "cpu", gae_lambda=0.8, gamma=0.9, n_envs=5)
    over = (left | cut).numpy()
    seen = (reward + 0.9 * after * cut).numpy()  # as collect_rollouts does where the record was cut
    start = np.ones(5, np.bool_)
    for step in range(12):
        buffer.add(np.zeros((5, 1)), np.zeros((5, 1)), seen[step], start, values[step], torch.zeros(5))
        start = over[step]
    buffer.compute_returns_and_advantage(last_values=values[-1], dones=over[-1])
    advantage = generalised_advantages(reward, values[:-1], after, left, cut, discount=0.9, decay=0.8)
    np.testing.assert_allclose(buffer.advantages, advantage.numpy(), atol=1e-5)
    expected = lambda_returns(reward, after, left, cut, discount=0.9, decay=0.8)
    np.testing.assert_allclose(buffer.returns, expected.numpy(), atol=1e-5)
