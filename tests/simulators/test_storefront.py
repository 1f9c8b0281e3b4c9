"""The storefront: the contract, its formulas by frequency, its trade-off, and the log that it made, bit for bit."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from recgym.checks import check_user_model
from recgym.env.session import SessionConfig, Sessions
from recgym.logs.readers.native import sample_log
from recgym.random import session_keys
from recgym.rollout import collect
from simulators import make_world
from simulators.catalogue import StorefrontConfig
from simulators.storefront import Storefront


@pytest.mark.parametrize("slate_size", [1, 4])
def test_the_contract_holds(slate_size: int) -> None:
    check_user_model(Storefront(), slate_size=slate_size, batch=12)


def test_clicks_happen_as_often_as_the_truth_says() -> None:
    world = Storefront()
    state = world.reset(session_keys(0, 6000))
    chance = world.truth(state)["click"][:, 6]
    _, response = world.step(state, torch.full((6000, 1), 7))
    error = float(response.feedback[:, 0, 0].mean() - chance.mean())
    assert abs(error) < 4 * float((chance * (1 - chance)).mean()) ** 0.5 / 6000**0.5


def test_showing_a_category_again_bores_and_repeats_are_punished() -> None:
    world = Storefront()
    state = world.reset(session_keys(1, 300))
    fresh = world.truth(state)["click"]
    state, response = world.step(state, torch.full((300, 1), 11))
    bored = world.truth(state)["click"]
    same = torch.arange(500) % 10 == 10 % 10
    assert (bored[:, same] < fresh[:, same]).all()
    torch.testing.assert_close(bored[:, ~same], fresh[:, ~same])
    clicked = response.feedback[:, 0, 0] > 0
    assert (bored[clicked, 10] < fresh[clicked, 10] * 0.2).all()


def test_clickbait_earns_a_click_and_shortens_the_session() -> None:
    world = Storefront()
    assert float(torch.corrcoef(torch.stack([world.catalogue.clickbait, world.catalogue.gain]))[0, 1]) < -0.7
    from experiments.seeing import Oracle, SeeingSessions

    config = SessionConfig()
    found = {
        foresight: collect(
            SeeingSessions(world, config, partial(world.oracle, foresight=foresight, restraint=0.0)),
            Oracle(num_items=500),
            num_sessions=400, seed=0,
        )
        for foresight in (0.0, 1.0)
    }  # fmt: skip
    first = {foresight: one.reward[one.step == 0].mean() for foresight, one in found.items()}
    whole = {foresight: one.reward.sum() / 400 for foresight, one in found.items()}
    assert first[0.0] > first[1.0]
    assert whole[1.0] > 1.2 * whole[0.0]


def test_the_sample_log_is_generated_bit_for_bit() -> None:
    pytest.importorskip("stable_baselines3")
    from experiments.sample import Sample, generate_log

    log = generate_log(days=Sample().days, seed=Sample().seed)
    assert log.events.equals(sample_log().events)
    shipped = sample_log().items
    assert log.items is not None and shipped is not None
    assert log.items.equals(shipped)


def test_wrong_worlds_and_starts_are_refused() -> None:
    with pytest.raises(ValueError, match="no world is called 'mars'; there are coat, "):
        make_world("mars")
    with pytest.raises(ValueError, match="num_categories is 2"):
        StorefrontConfig(num_categories=2)
    from tests.users.small import small_users

    with pytest.raises(ValueError, match=r"starts\.items reaches from"):
        Storefront(StorefrontConfig(num_items=10), starts=small_users(num_items=12).starts)


def test_the_world_is_reached_through_sessions_with_an_encoder() -> None:
    from recgym.users.storage import load_users

    users = load_users("sample")
    sessions = Sessions(Storefront(starts=users.starts), encoder=users.backbone)
    keys = session_keys(3, 20)
    learned, true = users.reset(keys), sessions.reset(keys)
    assert torch.equal(users.history(learned)[0], sessions.users.history(true.users)[0])
    torch.testing.assert_close(sessions.observe(true).state, users.visible(learned).vector)
