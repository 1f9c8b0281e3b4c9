"""Satiation: the contract, its formulas by hand and by frequency, switching, and Pigou's gap."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recgym.checks import check_user_model
from recgym.random import session_keys
from simulators.satiation import SETTINGS, Satiation, SatiationConfig
from tests.simulators.bands import earned

QUIET = SatiationConfig(num_items=40, num_topics=4, satiation_spread=0.0, rating_spread=0.0)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_contract_holds(name: str) -> None:
    check_user_model(Satiation(SETTINGS[name]), slate_size=1)
    check_user_model(Satiation(replace(SETTINGS[name], length=0)), slate_size=2)


def test_satiation_follows_its_recursion_and_costs_its_factor() -> None:
    world = Satiation(QUIET)
    state = world.reset(session_keys(0, 500))
    topic, like = int(world.topic[6]), state.preference[:, int(world.topic[6])].clone()
    level = torch.zeros(500)
    for _ in range(4):
        state, response = world.step(state, torch.full((500, 1), 7))
        torch.testing.assert_close(response.feedback[:, 0, 0], (like - 3 * level).clamp(1, 5))
        level = 0.5 * (level + 1)
        torch.testing.assert_close(state.satiation[:, topic], level)
    assert float(state.satiation.sum(1).max()) == pytest.approx(0.9375)
    assert float(world.reset(session_keys(0, 5000)).preference.mean()) == pytest.approx(3, abs=4 * 5 / 12**0.5 / 141)


def test_noise_has_the_published_spread() -> None:
    world = Satiation()
    state = world.reset(session_keys(1, 4000))
    like = state.preference[:, int(world.topic[0])].clone()
    state, response = world.step(state, torch.ones(4000, 1, dtype=torch.int64))
    inside = (like - 3).abs() < 0.2  # four standard deviations from being clipped
    residual = (response.feedback[:, 0, 0] - like)[inside]
    assert float(residual.std()) == pytest.approx(0.5, rel=4 / (2 * len(residual)) ** 0.5)
    others = torch.arange(19) != int(world.topic[0])
    assert float(state.satiation[:, others].std()) == pytest.approx(0.1, rel=0.02)
    assert float(state.satiation[:, ~others].mean()) == pytest.approx(0.5, abs=4 * 0.1 / 4000**0.5)


def test_moods_switch_as_often_as_the_chain_says_and_set_the_decay() -> None:
    world = Satiation(replace(SETTINGS["satiation-switching"], satiation_spread=0.0))
    state = world.reset(session_keys(2, 10_000))
    slates, topic = torch.ones(10_000, 1, dtype=torch.int64), int(world.topic[0])
    state, _ = world.step(state, slates)
    share = float(state.bored.to(torch.float32).mean())
    assert abs(share - 0.05) < 4 * (0.05 * 0.95 / 10_000) ** 0.5
    expected = torch.where(state.bored, 0.5, 0.1)
    torch.testing.assert_close(state.satiation[:, topic], expected)
    for _ in range(40):
        state, _ = world.step(state, slates)
    share = float(state.bored.to(torch.float32).mean())
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / 10_000) ** 0.5  # .05 / (.05 + .2)


def test_clicks_have_the_chance_that_the_rating_gives() -> None:
    world = Satiation(replace(QUIET, clicks=True))
    assert [kind.name for kind in world.kinds] == ["click"]
    state = world.reset(session_keys(3, 8000))
    chance = (state.preference[:, int(world.topic[0])].clamp(1, 5) - 1) / 4
    _, response = world.step(state, torch.ones(8000, 1, dtype=torch.int64))
    bound = 4 * float((chance * (1 - chance)).sum()) ** 0.5 / 8000
    assert abs(float(response.feedback.mean() - chance.mean())) < bound


def test_tireless_topics_do_not_tire() -> None:
    world = Satiation(SETTINGS["satiation-repaired"])
    state = world.reset(session_keys(4, 200))
    assert float(state.preference[:, 4:].max()) <= 2.0
    for item in range(1, 41):
        state, _ = world.step(state, torch.full((200, 1), item))
    assert float(state.satiation[:, 4:].abs().max()) == 0
    assert float(state.satiation[:, :4].max()) > 0.5


@pytest.mark.parametrize("name", SETTINGS)
def test_greed_is_right_as_published_and_loses_when_repaired(name: str) -> None:
    world = Satiation(SETTINGS[name])
    kind, sessions = world.kinds[0].name, 400 if "repaired" in name else 60
    mean = {
        policy: float(earned(world, scorer, kind=kind, slate_size=1, steps=100, sessions=sessions).mean())
        for policy, scorer in {"random": None, **world.bands()}.items()
    }
    assert mean["random"] < mean["rule"] < mean["best known"]
    if "repaired" in name:
        assert mean["best known"] > 1.11 * mean["myopic"]
    else:
        planned = earned(world, world._planned, kind=kind, slate_size=1, steps=100, sessions=sessions)
        assert float(planned.mean()) == pytest.approx(mean["myopic"], rel=0.01)


def test_wrong_worlds_are_refused() -> None:
    with pytest.raises(ValueError, match="num_topics is 0"):
        SatiationConfig(num_topics=0)
    with pytest.raises(ValueError, match="num_tireless is 20, expected at most num_topics"):
        SatiationConfig(num_tireless=20)
    with pytest.raises(ValueError, match="factor is -1"):
        SatiationConfig(factor=-1.0)
    with pytest.raises(ValueError, match=r"decay is \(0.5, 1.0\)"):
        SatiationConfig(decay=(0.5, 1.0))
    with pytest.raises(ValueError, match=r"switching is \(2.0, 0.0\)"):
        SatiationConfig(switching=(2.0, 0.0))
    with pytest.raises(ValueError, match="tireless_most is 9"):
        SatiationConfig(tireless_most=9.0)
