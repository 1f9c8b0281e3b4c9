"""Every registered backbone in use: state of the simulated users, encoder of a platform, start of an agent."""

from __future__ import annotations

import warnings

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import recgym  # noqa: F401 (registers RecSession-v0)
from agents.task import Task
from recgym.backbones.backbone import BACKBONES
from recgym.checks import check_user_model
from recgym.env.session import SessionConfig, Sessions
from recgym.random import session_keys
from tests.users.small import small_users

MODELS = sorted(BACKBONES)


@pytest.mark.parametrize("model", MODELS)
def test_simulated_users_have_their_state_by_it(model: str) -> None:
    users = small_users(model)
    check_user_model(users, slate_size=2)
    env = gymnasium.make("RecSession-v0", users=users)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@pytest.mark.parametrize("model", MODELS)
def test_a_platform_reads_what_it_sees_by_it(model: str) -> None:
    users, encoder = small_users("gru"), small_users(model).backbone
    sessions = Sessions(users, SessionConfig(), encoder=encoder)
    state = sessions.reset(session_keys(1, 5))
    begin = users.history(state.users)
    with torch.no_grad():
        torch.testing.assert_close(sessions.observe(state).state, encoder.prefill(*begin).state)
    for step in range(3):
        state, _ = sessions.step(state, torch.full((5, 1), step + 1))
    now = users.history(state.users)
    with torch.no_grad():
        whole = encoder.states(
            *(torch.cat([before, after[:, -3:]], 1) for before, after in zip(begin, now, strict=True))
        )
    found = sessions.observe(state).state
    torch.testing.assert_close(found, whole[:, -1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", MODELS)
def test_an_agent_starts_as_its_ranking(model: str) -> None:
    users = small_users(model)
    sessions = Sessions(users, SessionConfig())
    scorer = Task(sessions=sessions, backbone=users.backbone).scorer()
    seen = sessions.observe(sessions.reset(session_keys(2, 6)))
    assert seen.state is not None
    with torch.no_grad():
        expected = users.backbone.scores(seen.state)
        found = scorer(seen)
    ranks = [scores.argsort(1) for scores in (found, expected)]
    assert torch.equal(*ranks)
