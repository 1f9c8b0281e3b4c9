"""RecSession-v0 as Gymnasium sees it: checkers, spaces, autoreset in every mode, determinism, rendering."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import recgym  # noqa: F401 (registers RecSession-v0)
from recgym.env.resolve import resolve_users
from recgym.env.vector import RecSessionVectorEnv
from recgym.files import FormatError
from tests.users.small import small_users

VARIANTS: list[dict[str, Any]] = [
    {},
    {"observation": "history"},
    {"slate_size": 3},
    {"observation": "history", "slate_size": 2, "repeats": "mask"},
    {"reward": {"click": 1.0, "like": 2.0}, "max_steps": 5},
    {"candidates": 5, "explore": 0.4},
    {"candidates": 4, "observation": "history", "slate_size": 2, "repeats": "mask", "max_steps": 3},
]


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("model", ["gru", "sasrec"])
def test_gymnasiums_checker_has_nothing_to_say(options: dict[str, Any], model: str) -> None:
    env = gymnasium.make("RecSession-v0", users=small_users(model), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_it_can_be_made_by_its_module_and_runs_the_sample_users() -> None:
    env = gymnasium.make("recgym:RecSession-v0")
    observation, info = env.reset(seed=1)
    assert observation in env.observation_space
    assert info == {}
    observation, reward, terminated, truncated, info = env.step(0)
    assert observation in env.observation_space
    assert reward == info["reward_click"] == float(info["feedback"][0, 0])
    assert not truncated
    assert isinstance(terminated, bool)


@pytest.mark.parametrize("options", VARIANTS)
def test_many_random_sessions_stay_inside_the_spaces(options: dict[str, Any]) -> None:
    options = {**options, "repeats": "allow"}
    env = gymnasium.make_vec("RecSession-v0", num_envs=50, users=small_users(), **options)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    ended = 0
    while ended < 1000:
        assert observation in env.observation_space
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        ended += int((terminated | truncated).sum())
        assert np.isfinite(reward).all()


def test_the_single_environment_is_row_zero_of_the_batch() -> None:
    users = small_users()
    single = gymnasium.make("RecSession-v0", users=users).unwrapped
    batch = RecSessionVectorEnv(1, users=users, autoreset="same_step")
    one, _ = single.reset(seed=5)
    many, _ = batch.reset(seed=5)
    np.testing.assert_allclose(one, many[0], atol=1e-6)
    for step in range(60):
        one, reward, terminated, truncated, _ = single.step(step % 12)
        many, rewards, ended, cut, infos = batch.step(np.array([step % 12]))
        assert (reward, terminated, truncated) == (rewards[0], ended[0], cut[0])
        if terminated or truncated:
            np.testing.assert_allclose(one, infos["final_obs"][0], atol=1e-6)
            one, _ = single.reset()
        np.testing.assert_allclose(one, many[0], atol=1e-6)


def test_seeds_decide_everything_and_rows_do_not_meet() -> None:
    users = small_users()

    def play(num_envs: int, rows: slice) -> list[np.ndarray[Any, Any]]:
        env = RecSessionVectorEnv(num_envs, users=users)
        found = [env.reset(seed=[7 + row for row in range(num_envs)])[0][rows]]
        for step in range(30):
            observation, reward, *_ = env.step((np.arange(num_envs) + step) % 12)
            found += [observation[rows], reward[rows]]
        return found

    for whole, part in zip(play(6, slice(0, 3)), play(3, slice(0, 3)), strict=True):
        np.testing.assert_allclose(whole, part, atol=1e-5)
    for first, second in zip(play(3, slice(0, 3)), play(3, slice(0, 3)), strict=True):
        np.testing.assert_array_equal(first, second)


def test_next_step_autoreset_ignores_one_action() -> None:
    env = RecSessionVectorEnv(40, users=small_users(), repeats="mask", max_steps=4)
    env.reset(seed=0)
    over = np.zeros(40, np.bool_)
    met = 0
    for _ in range(40):
        mask = env._info({}, over)["action_mask"]
        actions = np.where(over, 3, mask.argmax(1))
        observation, reward, terminated, truncated, info = env.step(actions)
        assert (reward[over] == 0).all()
        assert not (terminated | truncated)[over].any()
        assert (info["_reward_click"] == ~over).all()
        np.testing.assert_allclose(observation[over, -1], 0)
        assert info["action_mask"][over].all()
        met += int(over.sum())
        over = terminated | truncated
    assert met > 50


def test_same_step_autoreset_keeps_the_last_observation() -> None:
    env = RecSessionVectorEnv(40, users=small_users(), autoreset="same_step", repeats="mask", max_steps=4)
    env.reset(seed=0)
    met = 0
    for _ in range(12):
        mask = env._info({}, np.zeros(40, np.bool_))["action_mask"]
        observation, _, terminated, truncated, info = env.step(mask.argmax(1))
        over = terminated | truncated
        assert (info.get("_final_obs", np.zeros(40, np.bool_)) == over).all()
        for row in np.flatnonzero(over):
            assert info["final_obs"][row][-1] > 0
            assert observation[row, -1] == 0
            assert not info["final_info"]["action_mask"][row].all()
            assert info["action_mask"][row].all()
            assert info["final_info"]["_reward_click"][row]
        met += int(over.sum())
    assert met > 40


def test_disabled_autoreset_waits_for_the_mask() -> None:
    env = RecSessionVectorEnv(8, users=small_users(), autoreset="disabled", max_steps=2)
    env.reset(seed=0)
    over = np.zeros(8, np.bool_)
    while not over.any():
        observation, _, terminated, truncated, _ = env.step(np.zeros(8, np.int64))
        over = terminated | truncated
    with pytest.raises(ValueError, match="has ended: reset it before the next step"):
        env.step(np.zeros(8, np.int64))
    fresh, _ = env.reset(options={"reset_mask": over})
    assert (fresh[over, -1] == 0).all()
    np.testing.assert_array_equal(fresh[~over], observation[~over])
    env.step(np.zeros(8, np.int64))


def test_a_session_that_was_shown_everything_starts_again_where_repeats_are_refused() -> None:
    """The action of the step that restarts is ignored, though nothing was left that it might have shown."""
    users = small_users()
    users.heads.leave_out.bias.fill_(-30.0)
    env = RecSessionVectorEnv(2, users=users, repeats="refuse", max_steps=12)
    env.reset(seed=0)
    for item in range(12):
        *_, terminated, truncated, _ = env.step(np.full(2, item))
    assert (terminated | truncated).all()
    observation, reward, *_ = env.step(np.zeros(2, np.int64))
    assert (reward == 0).all()
    assert (observation[:, -1] == 0).all()
    assert not env.step(np.zeros(2, np.int64))[3].any()


def test_the_metadata_names_the_mode_where_gymnasium_has_modes() -> None:
    env = RecSessionVectorEnv(2, users=small_users(), autoreset="same_step")
    modes = getattr(gymnasium.vector, "AutoresetMode", None)
    assert env.metadata.get("autoreset_mode") == (modes.SAME_STEP if modes else None)


@pytest.mark.parametrize(
    "actions", [np.array([12]), np.array([-1]), np.array([0.5]), np.array([0, 1]), np.array([[1, 2]])]
)
def test_wrong_actions_are_refused(actions: np.ndarray[Any, Any]) -> None:
    env = RecSessionVectorEnv(1, users=small_users())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions (have shape|reach from)"):
        env.step(actions)


def test_wrong_arguments_are_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="observation is 'pixels'"):
        RecSessionVectorEnv(1, users=small_users(), observation="pixels")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="autoreset is 'never'"):
        RecSessionVectorEnv(1, users=small_users(), autoreset="never")
    with pytest.raises(ValueError, match="render_mode is 'human'"):
        RecSessionVectorEnv(1, users=small_users(), render_mode="human")
    with pytest.raises(FormatError, match=r"users\.json: not found"):
        resolve_users(tmp_path)
    with pytest.raises(ValueError, match="no world is called 'nowhere'"):
        resolve_users("simulators:nowhere")


def test_a_known_world_can_stand_behind_the_environment() -> None:
    env = gymnasium.make("RecSession-v0", users="simulators:storefront")
    env.reset(seed=0)
    assert env.step(3)[0] in env.observation_space


def test_a_session_can_be_read_and_seen() -> None:
    env = gymnasium.make("RecSession-v0", users=small_users(), render_mode="ansi", slate_size=2)
    env.reset(seed=0)
    assert str(env.render()) == "(session starts)"
    env.step(np.array([3, 4]))
    text = str(env.render())
    assert "Item 3 [a]" in text
    assert "1.2" in text
    picture = gymnasium.make("RecSession-v0", users=small_users(), render_mode="rgb_array").unwrapped
    picture.reset(seed=0)
    blank = np.asarray(picture.render())
    picture.step(2)
    drawn = np.asarray(picture.render())
    assert blank.shape == drawn.shape
    assert drawn.dtype == np.uint8
    assert (blank == 255).all()
    assert (drawn != 255).any()


def test_the_batch_renders_each_session() -> None:
    env = RecSessionVectorEnv(3, users=small_users(), render_mode="ansi")
    env.reset(seed=0)
    env.step(np.array([0, 1, 2]))
    frames = env.render()
    assert frames is not None
    assert [f"Item {row}" in frame for row, frame in enumerate(frames)] == [True] * 3
