"""A small task that every agent can learn from in a second."""

from __future__ import annotations

import pytest

from agents import Task
from recgym.env.session import SessionConfig, Sessions
from recgym.rollout import collect
from tests.test_rollout import Drawn
from tests.users.small import small_users


@pytest.fixture(scope="session")
def task() -> Task:
    users = small_users()
    sessions = Sessions(users, SessionConfig(max_steps=8))
    logged = collect(sessions, Drawn(), num_sessions=60, seed=1, keep=("state", "history"))
    return Task(sessions=sessions, backbone=users.backbone, logged=logged)
