"""RecLifetime-v0: the life of one simulated user, session after session, single and batched."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from recgym.backbones.backbone import Backbone
from recgym.env.lifetime import LifetimeConfig, Lifetimes
from recgym.env.resolve import resolve_encoder, resolve_users
from recgym.env.single import RecSessionEnv
from recgym.env.vector import RecSessionVectorEnv
from recgym.types import Reads
from recgym.users.model import UserModel


class RecLifetimeEnv(RecSessionEnv):
    """The life of a user on a platform.

    ## Description
    As `RecSession-v0`, but when the user leaves, days pass and the user may come back, with the history and the taste
    that the last session left. How soon, and whether at all, depends on that session. A policy earns by what users do
    and by their coming back.

    ## Action space
    As `RecSession-v0`.

    ## Observation space
    "state": `Box` (D + 4,) float32: the encoder's state; sessions so far in tens; days since the first session and days
    away before this one, in thirties; steps of this session in hundreds. "history": as `RecSession-v0`.

    ## Rewards
    As `RecSession-v0`, plus return_reward * exp(-days / return_days) in the step after which the user comes back.

    ## Starting state
    As `RecSession-v0`.

    ## Episode end
    Terminated when the user leaves for good; truncated when `horizon_days` are over, or after `max_steps` slates.

    ## Arguments
    As `RecSession-v0`, and session_steps, horizon_days, return_reward and return_days: see `LifetimeConfig`.

    ## Version history
    v0: the first.
    """

    def __init__(
        self,
        *,
        users: str | Path | UserModel[Any] = "sample",
        observation: Reads = "state",
        encoder: str | Path | Backbone | None = None,
        render_mode: str | None = None,
        device: str = "cpu",
        **config: Any,
    ) -> None:
        """See the class; fields of `LifetimeConfig` stand in `config`."""
        lives = _lives(users, LifetimeConfig(**config), encoder, device)
        super().__init__(sessions=lives, observation=observation, render_mode=render_mode)


class RecLifetimeVectorEnv(RecSessionVectorEnv):
    """`num_envs` lives in lockstep; see `RecLifetimeEnv`, and `RecSessionVectorEnv` for autoreset and seeds."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        users: str | Path | UserModel[Any] = "sample",
        observation: Reads = "state",
        encoder: str | Path | Backbone | None = None,
        render_mode: str | None = None,
        autoreset: str = "next_step",
        device: str = "cpu",
        **config: Any,
    ) -> None:
        """Fields of `LifetimeConfig` stand in `config`."""
        sessions = _lives(users, LifetimeConfig(**config), encoder, device)
        super().__init__(
            num_envs, sessions=sessions, observation=observation, render_mode=render_mode, autoreset=autoreset
        )


def _lives(
    users: str | Path | UserModel[Any], config: LifetimeConfig, encoder: str | Path | Backbone | None, device: str
) -> Lifetimes:
    return Lifetimes(cast("Any", resolve_users(users, device=device)), config, encoder=resolve_encoder(encoder))
