"""Stable-Baselines3's own checker has nothing to say about RecSession-v0."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import pytest

import recgym  # noqa: F401 (registers RecSession-v0)
from tests.env.test_gymnasium import VARIANTS
from tests.users.small import small_users

pytestmark = pytest.mark.experiments


@pytest.mark.parametrize("options", VARIANTS)
def test_sb3s_checker_has_nothing_to_say(options: dict[str, Any]) -> None:
    from stable_baselines3.common.env_checker import check_env

    env = gymnasium.make("RecSession-v0", users=small_users(), **options).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)


def test_sb3_learns_on_the_plain_environment() -> None:
    import stable_baselines3

    env = gymnasium.make("RecSession-v0", users=small_users())
    model = stable_baselines3.PPO("MlpPolicy", env, n_steps=32, batch_size=16, n_epochs=1, device="cpu", seed=0)
    model.learn(64)
    assert model.num_timesteps == 64
