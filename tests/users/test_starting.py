"""New users: empty histories in the stated share, drawn by the session's key, with clock and profile kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recgym.checks import check_user_model
from recgym.logs.sequences import Starts
from recgym.random import session_keys
from recgym.users.config import UserConfig
from recgym.users.learned import LearnedUsers
from recgym.users.storage import load_users, save_users
from tests.users.small import small_users

KEYS = session_keys(11, 4000)


def sharing(share: float | None, model: str = "gru", *, empty: tuple[int, ...] = (0, 1, 2)) -> LearnedUsers:
    """Small users of nine starts, of which `empty` are first sessions, with clocks; reset brings a `share` of new."""
    users = small_users(model)
    items, feedback = users.starts.items.clone(), users.starts.feedback.clone()
    items[list(empty)], feedback[list(empty)] = 0, 0.0
    starts = Starts(users.starts.user, items, feedback, torch.arange(9) * 100_000, torch.eye(9))
    return LearnedUsers(
        backbone=users.backbone, heads=users.heads, topics=users.topics, kinds=users.kinds, exposures=True,
        repeats=True, ignored_hazard=1.0, starts=starts, new_user_share=share,
    )  # fmt: skip


def new_among(users: LearnedUsers, keys: torch.Tensor = KEYS) -> torch.Tensor:
    """Which sessions start with nothing in the history, (B,)."""
    return ~(users.history(users.reset(keys))[0] > 0).any(1)


def test_without_a_share_new_users_come_as_often_as_in_the_log() -> None:
    users = sharing(None)
    state = users.reset(KEYS)
    assert torch.equal(users.history(state)[0], users.starts.items[state.start])
    assert float(new_among(users).float().mean()) == pytest.approx(3 / 9, abs=0.03)


@pytest.mark.parametrize("model", ["gru", "sasrec"])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_stated_share_is_kept_and_the_others_had_begun(model: str, share: float) -> None:
    users = sharing(share, model)
    new = new_among(users)
    assert float(new.float().mean()) == pytest.approx(share, abs=0.025)
    state = users.reset(KEYS)
    assert torch.equal(users.history(state)[0][~new], users.starts.items[state.start[~new]])
    assert set(state.start[~new].tolist()) == (set(range(3, 9)) if share < 1 else set())
    if share > 0:
        assert set(state.start[new].tolist()) == set(range(9))  # clocks and profiles of all
        start = users.backbone.start_state().expand(int(new.sum()), -1)
        torch.testing.assert_close(users.visible(state).vector[new], start)
    check_user_model(users)


def test_who_is_new_does_not_depend_on_the_batch() -> None:
    users = sharing(0.5)
    assert torch.equal(new_among(users)[100:150], new_among(users, KEYS[100:150]))


@pytest.mark.parametrize("model", ["gru", "sasrec"])
def test_newcomers_are_reset_with_nothing_in_the_history(model: str) -> None:
    users = sharing(None, model)
    old, new = users.reset(KEYS), users.newcomers(KEYS)
    for name in ("keys", "depth", "start", "user", "clock", "effects"):
        assert torch.equal(getattr(old, name), getattr(new, name)), name
    items, feedback = users.history(new)
    assert not items.any() and not feedback.any()
    slates = torch.ones(len(KEYS), 1, dtype=torch.int64)
    first = ~(users.history(old)[0] > 0).any(1)  # those were new anyway
    torch.testing.assert_close(users.truth(new)["click"][first], users.truth(old)["click"][first])
    assert not torch.allclose(users.truth(new)["click"][~first], users.truth(old)["click"][~first])
    (later, _), (other, _) = users.step(old, slates), users.step(new, slates)
    torch.testing.assert_close(users.visible(other).vector[first], users.visible(later).vector[first])
    assert torch.equal(users.reset(KEYS).start, old.start)  # and the starts are as they were
    assert bool(users.starts.items[3:].any())


def test_a_share_needs_starts_with_a_history_and_is_a_share() -> None:
    with pytest.raises(ValueError, match="none of the 9 logged starts has a history"):
        sharing(0.5, empty=tuple(range(9)))
    assert bool(new_among(sharing(1.0, empty=tuple(range(9)))).all())
    with pytest.raises(ValueError, match="new_user_share is 1.5"):
        UserConfig(new_user_share=1.5)


def test_the_share_is_saved(tmp_path: Path) -> None:
    users = sharing(0.25)
    save_users(users, tmp_path / "users")
    again = load_users(tmp_path / "users")
    assert again.new_user_share == 0.25
    assert torch.equal(new_among(again), new_among(users))
    about = json.loads((tmp_path / "users" / "users.json").read_text())
    del about["new_user_share"]  # as folders were before there was one
    (tmp_path / "users" / "users.json").write_text(json.dumps(about))
    assert load_users(tmp_path / "users").new_user_share is None
