"""Every registered world: the contract, Gymnasium's and SB3's checkers, its band, and the published figures."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from recgym.checks import check_user_model
from recgym.env.session import SessionConfig, Sessions
from recgym.random import session_keys
from recgym.types import Observation
from simulators import WORLDS, make_world

OPEN = [name for name, world in WORLDS.items() if not world.files]
"""Worlds that need no files."""


@pytest.mark.parametrize("name", OPEN)
def test_the_contract_holds(name: str) -> None:
    world = make_world(name)
    check_user_model(world, slate_size=min(WORLDS[name].slate_size, world.num_items), batch=12, steps=10)
    check_user_model(make_world(name), slate_size=1, batch=8)


@pytest.mark.parametrize("name", OPEN)
def test_gymnasiums_checker_has_nothing_to_say(name: str) -> None:
    env = gymnasium.make(f"simulators:{WORLDS[name].gym_id}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    observation, info = env.reset(seed=3)
    assert observation in env.observation_space
    assert info == {}


@pytest.mark.parametrize("name", OPEN)
def test_row_0_of_the_vector_environment_is_the_single_one(name: str) -> None:
    env_id = f"simulators:{WORLDS[name].gym_id}"
    one = gymnasium.make(env_id)
    many = gymnasium.make_vec(env_id, num_envs=5, vectorization_mode="vector_entry_point")
    many.action_space.seed(0)
    single, _ = one.reset(seed=4)
    batch, _ = many.reset(seed=4)
    for _ in range(8):
        np.testing.assert_allclose(single, batch[0], atol=1e-5)
        actions = many.action_space.sample()
        single, reward, terminated, truncated, info = one.step(actions[0])
        batch, rewards, *_ = many.step(actions)
        assert reward == pytest.approx(float(rewards[0]), abs=1e-4)
        hidden = {"feedback", "action_mask"}
        assert all(key in hidden or key.startswith("reward_") for key in info), (
            "info tells more than feedback and reward"
        )
        if terminated or truncated:
            break


@pytest.mark.parametrize("name", OPEN)
def test_a_fixed_horizon_is_truncation_and_what_users_do_is_termination(name: str) -> None:
    world = make_world(name)
    sessions = Sessions(world, SessionConfig(max_steps=3))
    state = sessions.reset(session_keys(0, 64))
    for step in range(1, 4):
        state, outcome = sessions.step(state, torch.ones(64, 1, dtype=torch.int64))
        assert torch.equal(outcome.terminated, outcome.response.leaves)
        assert not bool((outcome.terminated & outcome.truncated).any())
        assert bool(outcome.truncated.any()) <= (step == 3)


@pytest.mark.parametrize("name", OPEN)
def test_the_marks_of_the_band_score_every_item(name: str) -> None:
    world = make_world(name)
    state = world.reset(session_keys(0, 7))
    marks = world.bands()
    assert set(marks) >= {"myopic", "rule", "best known"}
    for scorer in marks.values():
        assert scorer(state).shape == (7, world.num_items)


def test_candidates_reach_policies_and_forbid_what_needs_lasting_items() -> None:
    world = make_world("interest-evolution")
    sessions = Sessions(world, SessionConfig(slate_size=3))
    state = sessions.reset(session_keys(0, 4))
    seen = sessions.observe(state)
    assert isinstance(seen, Observation)
    assert seen.candidates is not None
    assert seen.state is not None
    assert seen.candidates.shape == (4, 10, 20)
    torch.testing.assert_close(seen.state[:, 20:], seen.candidates.flatten(1))
    torch.testing.assert_close(sessions.features(state), torch.cat([seen.state, seen.context], 1))
    with pytest.raises(ValueError, match="new candidates each step"):
        Sessions(world, SessionConfig(repeats="mask"))
    with pytest.raises(ValueError, match="no visible history"):
        gymnasium.make("simulators:InterestEvolution-v0", observation="history")


def test_settings_change_fields_and_wrong_ones_are_named() -> None:
    env = gymnasium.make("simulators:InterestEvolution-v0", settings={"num_candidates": 7}, slate_size=2)
    assert list(env.action_space.nvec) == [7, 7]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="has no field 'candidates'; it has num_candidates"):
        make_world("interest-evolution", candidates=7)
    with pytest.raises(ValueError, match="num_candidates is 0"):
        make_world("interest-evolution", num_candidates=0)


FIGURES = [  # world, mark, published figure, relative tolerance: theirs are single runs
    ("interest-evolution", "random", 159.8, 0.02),
    ("interest-evolution", "myopic", 166.8, 0.02),
    ("interest-evolution", "rule", 264.7, 0.02),
    ("long-term-satisfaction", "random", 942, 0.04),
    ("long-term-satisfaction", "myopic", 1111, 0.04),
    ("long-term-satisfaction", "rule", 781, 0.04),
    ("long-term-satisfaction-repaired", "random", 957, 0.04),
    ("long-term-satisfaction-repaired", "myopic", 625, 0.04),
    ("long-term-satisfaction-repaired", "rule", 1280, 0.04),
]


def test_bands_meet_the_published_figures() -> None:
    pytest.importorskip("stable_baselines3")
    from experiments.worlds import band

    rows = {name: band(name, sessions=600, seed=0) for name in {row[0] for row in FIGURES}}
    for name, mark, figure, tolerance in FIGURES:
        assert rows[name][mark].value == pytest.approx(figure, rel=tolerance), (name, mark)


@pytest.mark.parametrize(
    "name", ["interest-evolution", "interest-exploration-repaired", "long-term-satisfaction-repaired"]
)
def test_repaired_worlds_have_something_to_plan(name: str) -> None:
    pytest.importorskip("stable_baselines3")
    from experiments.worlds import TEACHES, band, planning

    assert planning(band(name, sessions=200, seed=1)) > TEACHES


def test_published_defaults_without_a_trade_off_are_called_so() -> None:
    pytest.importorskip("stable_baselines3")
    from experiments.worlds import TEACHES, band, planning

    for name in ("interest-exploration", "long-term-satisfaction"):
        assert planning(band(name, sessions=200, seed=1)) < TEACHES


def test_where_nothing_can_be_earned_nothing_can_be_planned() -> None:
    pytest.importorskip("stable_baselines3")
    from experiments.worlds import planning
    from recgym.ope.intervals import t_interval

    nothing = t_interval(np.zeros(5), np.arange(5))
    assert planning({"myopic": nothing, "best known": nothing}) == 0
