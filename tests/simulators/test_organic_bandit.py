"""Organic sessions and bandit slots: the contract, the chain and the click rate by frequency, and the trade-off."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recgym.checks import check_user_model
from recgym.random import session_keys
from simulators.organic_bandit import CLICK, SETTINGS, VIEW, OrganicBandit, OrganicBanditConfig, click_rate
from tests.simulators.bands import earned


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("slate_size", [1, 2])
def test_the_contract_holds(name: str, slate_size: int) -> None:
    check_user_model(OrganicBandit(SETTINGS[name]), steps=40, slate_size=slate_size)


def test_the_contract_holds_with_a_short_history_and_without_one() -> None:
    for length in (0, 3):
        check_user_model(OrganicBandit(replace(SETTINGS["organic-bandit"], length=length)), steps=40)


def test_the_click_rate_has_the_published_values() -> None:
    assert click_rate(torch.tensor([-1e9, 0.0, 1e9])).tolist() == pytest.approx([0.00448, 0.00942, 0.02931], abs=1e-4)


def test_random_products_are_clicked_as_often_as_published() -> None:
    """The published notebook, 100 products: .01077, 95% interval .01007 to .01151."""
    rates = []
    for seed in range(10):
        world = OrganicBandit(OrganicBanditConfig(num_items=100, seed=seed))
        rates.append(float(world.truth(world.reset(session_keys(0, 300)))["click"].mean()))
    assert 0.01007 < sum(rates) / 10 < 0.01151


def test_the_first_visit_has_as_many_views_as_the_chain_says() -> None:
    state = OrganicBandit().reset(session_keys(0, 20_000))
    views = state.views.sum(1)
    stay = 0.74
    assert abs(float(views.mean()) - 1 / (1 - stay)) < 4 * stay**0.5 / (1 - stay) / 20_000**0.5
    share = float((views == 1).to(torch.float32).mean())
    assert abs(share - 0.26) < 4 * (0.26 * 0.74 / 20_000) ** 0.5


def test_views_follow_the_softmax_of_interests() -> None:
    world = OrganicBandit(OrganicBanditConfig(interest_step=0.0, popularity_spread=1.0))
    state = world.reset(session_keys(1, 20_000))
    chance = torch.softmax(world.truth(state)["wanted"], 1)  # interests do not move
    number = state.views.sum(1, keepdim=True)
    gap = (state.views - number * chance).sum(0) / number.sum()
    spread = ((number * chance * (1 - chance)).sum(0)).sqrt() / number.sum()
    assert (gap.abs() < 4 * spread).all()


def test_interests_walk_by_one_step_less_than_the_views_of_the_first_visit() -> None:
    world = OrganicBandit(OrganicBanditConfig(interest_spread=0.0, interest_step=0.1))
    state = world.reset(session_keys(2, 20_000))
    moves = state.views.sum(1) - 1
    assert float(state.interest[moves == 0].abs().max()) == 0
    variance = float(state.interest.square().mean(1).sum() / moves.sum())
    assert variance == pytest.approx(0.01, rel=0.05)


def test_clicks_and_leaving_happen_as_often_as_the_truth_says() -> None:
    for config in SETTINGS.values():
        world = OrganicBandit(config)
        state = world.reset(session_keys(3, 20_000))
        truth = world.truth(state)
        click, leave = truth["click"][:, 4].clone(), truth["leave"][:, 4].clone()
        _, response = world.step(state, torch.full((20_000, 1), 5))
        for found, chance in ((response.feedback[:, 0, CLICK], click), (response.leaves.to(torch.float32), leave)):
            bound = 4 * float((chance * (1 - chance)).sum()) ** 0.5 / 20_000
            assert abs(float(found.mean() - chance.mean())) < bound


def test_history_tells_views_from_products_shown() -> None:
    world = OrganicBandit(OrganicBanditConfig(length=200))
    state = world.reset(session_keys(4, 50))
    for _ in range(20):
        state, _ = world.step(state, torch.full((50, 1), 3))
    items, feedback = world.history(state)
    views = torch.zeros(50, 11).scatter_add(1, items, feedback[:, :, VIEW])
    assert torch.equal(views[:, 1:], state.views)
    shown = (items > 0) & (feedback[:, :, VIEW] == 0)
    assert (shown.sum(1) == 20).all()
    assert (items[shown] == 3).all()
    assert (feedback[:, :, CLICK] * feedback[:, :, VIEW] == 0).all()


def test_flips_swap_each_product_at_most_once() -> None:
    flipped = OrganicBandit(OrganicBanditConfig(num_flips=2))
    moved = (flipped.organic != flipped.bandit).any(1)
    assert int(moved.sum()) == 4
    assert torch.equal(flipped.appeal[moved].sort().values, flipped.popularity[moved].sort().values)
    assert torch.equal(OrganicBandit().organic, OrganicBandit().bandit)


def test_greed_is_optimal_as_published_and_loses_when_repaired() -> None:
    published = OrganicBandit()
    state, bands = published.reset(session_keys(5, 2000)), published.bands()
    assert torch.equal(bands["myopic"](state).argmax(1), bands["best known"](state).argmax(1))
    world = OrganicBandit(SETTINGS["organic-bandit-repaired"])
    mean = {
        policy: float(earned(world, scorer, kind="click", slate_size=1, steps=400, sessions=2500).mean())
        for policy, scorer in {"random": None, **world.bands()}.items()
    }
    assert mean["best known"] > 1.11 * mean["myopic"]
    assert mean["best known"] > mean["rule"] > mean["random"]


def test_wrong_worlds_are_refused() -> None:
    with pytest.raises(ValueError, match="num_items is 1"):
        OrganicBanditConfig(num_items=1)
    with pytest.raises(ValueError, match="num_flips is 6"):
        OrganicBanditConfig(num_flips=6)
    with pytest.raises(ValueError, match="regret is -1"):
        OrganicBanditConfig(regret=-1.0)
    with pytest.raises(ValueError, match="to_bandit and leave are 0.9 and 0.1"):
        OrganicBanditConfig(to_bandit=0.9, leave=0.1)
    with pytest.raises(ValueError, match="leave \\+ regret \\+ to_organic"):
        OrganicBanditConfig(regret=0.95)
