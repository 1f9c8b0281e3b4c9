"""The investor: the contract, chances and regimes by frequency, trust by hand, and the price of risk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recgym.checks import check_user_model
from recgym.random import session_keys
from simulators.investor import AMOUNT, CLICK, INVEST, REGIMES, SETTINGS, Investor, InvestorConfig
from tests.simulators.bands import earned

STRESSED = REGIMES.index("stressed")


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("slate_size", [1, 3])
def test_the_contract_holds(name: str, slate_size: int) -> None:
    check_user_model(Investor(SETTINGS[name]), slate_size=slate_size, steps=30)
    check_user_model(Investor(replace(SETTINGS[name], length=0)), slate_size=slate_size)


def test_clicks_and_investments_happen_as_often_as_the_truth_says() -> None:
    world = Investor()
    state = world.reset(session_keys(0, 20_000))
    truth = world.truth(state)
    click, sale = truth["click"][:, 7], truth["click"][:, 7] * truth["invest"][:, 7]
    _, response = world.step(state, torch.full((20_000, 1), 8))
    for column, chance in ((CLICK, click), (INVEST, sale)):
        bound = 4 * float((chance * (1 - chance)).sum()) ** 0.5 / 20_000
        assert abs(float(response.feedback[:, 0, column].mean() - chance.mean())) < bound


def test_at_most_one_investment_a_slate_and_amounts_only_with_one() -> None:
    world = Investor()
    state = world.reset(session_keys(1, 4000))
    _, response = world.step(state, torch.tensor([[1, 2, 3]]).expand(4000, -1))
    invested = response.feedback[:, :, INVEST]
    assert float(invested.sum(1).max()) == 1
    assert torch.equal(response.feedback[:, :, AMOUNT] > 0, invested > 0)
    logs = response.feedback[:, :, AMOUNT][invested > 0].log()
    assert abs(float(logs.mean())) < 4 * (0.34 / len(logs)) ** 0.5  # variance .5^2 + .3^2


def test_regimes_turn_as_often_as_the_chain_says() -> None:
    world = Investor()
    torch.testing.assert_close(world.transition.sum(1), torch.ones(3))
    torch.testing.assert_close(world.stationary @ world.transition, world.stationary)
    state = world.reset(session_keys(2, 30_000))
    slates = torch.ones(30_000, 1, dtype=torch.int64)
    for _ in range(3):
        before = state.regime.clone()
        state, _ = world.step(state, slates)
        for one in range(3):
            after = torch.bincount(state.regime[before == one], minlength=3) / (before == one).sum()
            bound = 4 * (world.transition[one] * (1 - world.transition[one]) / (before == one).sum()).sqrt()
            assert ((after - world.transition[one]).abs() < bound).all()
        share = torch.bincount(state.regime, minlength=3) / 30_000
        assert ((share - world.stationary).abs() < 4 * (world.stationary / 30_000).sqrt()).all()


def test_losses_weigh_more_than_gains_and_move_trust() -> None:
    world = Investor()
    state = world.reset(session_keys(3, 3000))
    state = state._replace(exposure=torch.full((3000,), 2.0))
    state, response = world.step(state, torch.ones(3000, 1, dtype=torch.int64))
    market = state.last[:, 3]
    held = 1.8 + response.feedback[:, 0, INVEST] * world.risk[0]
    torch.testing.assert_close(state.exposure, held)
    outcome = held * market / 2
    felt = torch.where(outcome < 0, 2.25 * outcome, outcome)
    torch.testing.assert_close(state.trust, (0.15 * felt).clamp(-3, 0.5))
    assert float(state.trust[state.regime == STRESSED].mean()) < -0.4
    assert float(state.trust[state.regime != STRESSED].mean()) > 0


def test_clients_leave_as_often_as_their_trust_says() -> None:
    world = Investor()
    state = world.reset(session_keys(4, 40_000))
    state = state._replace(trust=torch.full((40_000,), -1.5))
    state, response = world.step(state, torch.ones(40_000, 1, dtype=torch.int64))
    chance = torch.sigmoid(-6 - 2 * state.trust)
    bound = 4 * float((chance * (1 - chance)).sum()) ** 0.5 / 40_000
    assert abs(float(response.leaves.to(torch.float32).mean() - chance.mean())) < bound


def test_the_platform_sees_the_market_but_no_mood() -> None:
    world = Investor()
    state = world.reset(session_keys(5, 20))
    state, _ = world.step(state, torch.ones(20, 1, dtype=torch.int64))
    seen = world.visible(state).vector.clone()
    hidden = state._replace(regime=(state.regime + 1) % 3, trust=state.trust - 1, appetite=state.appetite / 2)
    assert torch.equal(seen, world.visible(hidden).vector)
    assert len(world.item_titles) == len(world.item_categories) == world.num_items
    assert world.item_titles[0].startswith(world.item_categories[0])


def test_greed_sells_more_at_first_and_loses_the_client() -> None:
    world, mean = Investor(), {}
    for policy, scorer in {"random": None, **world.bands()}.items():
        for steps in (1, 200):
            sold = earned(world, scorer, kind="amount", slate_size=3, steps=steps, sessions=1500)
            mean[policy, steps] = float(sold.mean())
    assert mean["myopic", 1] > mean["best known", 1]
    assert mean["best known", 200] > 1.11 * mean["myopic", 200]
    assert mean["best known", 200] > mean["rule", 200] > mean["random", 200]


def test_greed_is_right_where_trust_does_not_move() -> None:
    world = Investor(SETTINGS["investor-indifferent"])
    state = world.reset(session_keys(6, 10))
    bands = world.bands()
    assert torch.equal(bands["best known"](state), bands["myopic"](state))


def test_wrong_worlds_are_refused() -> None:
    with pytest.raises(ValueError, match="num_items is 0"):
        InvestorConfig(num_items=0)
    with pytest.raises(ValueError, match="loss_aversion is -1"):
        InvestorConfig(loss_aversion=-1.0)
    with pytest.raises(ValueError, match=r"persistence is \(1.0, 0.9, 0.9\)"):
        InvestorConfig(persistence=(1.0, 0.9, 0.9))
    with pytest.raises(ValueError, match="trust_decay is 1.0"):
        InvestorConfig(trust_decay=1.0)
