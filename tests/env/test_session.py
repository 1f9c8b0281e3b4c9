"""The torch core: rewards, ends, masks and errors by hand; sessions that depend on their key alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recgym.env.session import SessionConfig, Sessions
from recgym.random import session_keys
from recgym.trees import take
from tests.users.small import small_users


def test_rewards_are_weighted_feedback_by_name() -> None:
    sessions = Sessions(small_users(), SessionConfig(slate_size=2, reward={"like": 2.0, "click": 0.5, "dwell": 0.01}))
    state = sessions.reset(session_keys(0, 200))
    _, outcome = sessions.step(state, torch.tensor([[1, 2]]).expand(200, 2))
    amounts = outcome.response.feedback.sum(1)
    torch.testing.assert_close(outcome.terms["like"], 2 * amounts[:, 2])
    torch.testing.assert_close(outcome.reward, 0.5 * amounts[:, 0] + 0.01 * amounts[:, 1] + 2 * amounts[:, 2])
    assert float(outcome.reward.max()) > 0


def test_sessions_end_by_leaving_or_by_length_never_both() -> None:
    sessions = Sessions(small_users(), SessionConfig(max_steps=3))
    state = sessions.reset(session_keys(0, 300))
    for step in range(1, 4):
        state, outcome = sessions.step(state, torch.full((300, 1), step))
        assert torch.equal(outcome.terminated, outcome.response.leaves)
        assert not (outcome.terminated & outcome.truncated).any()
        assert bool(outcome.truncated.any()) == (step == 3)
    assert (outcome.terminated | outcome.truncated).all()


@pytest.mark.parametrize("repeats", ["mask", "refuse"])
def test_a_session_is_cut_where_no_slate_is_left_to_show(repeats: Any) -> None:
    sessions = Sessions(small_users(), SessionConfig(slate_size=5, repeats=repeats))  # of 12 items
    state = sessions.reset(session_keys(0, 300))
    for step in range(2):
        state, outcome = sessions.step(state, torch.arange(5).expand(300, 5) + 1 + 5 * step)
        assert bool(outcome.truncated.any()) == (step == 1)
    assert (outcome.terminated ^ outcome.truncated).all()


def test_masks_forbid_what_was_shown_and_refusing_says_where() -> None:
    users = small_users()
    masked = Sessions(users, SessionConfig(repeats="mask"))
    state = masked.reset(session_keys(0, 4))
    mask = masked.observe(state).mask
    assert mask is not None and bool(mask.all())
    state, _ = masked.step(state, torch.tensor([[3], [1], [3], [12]]))
    mask = masked.observe(state).mask
    assert mask is not None
    assert [row.nonzero()[:, 0].tolist() for row in ~mask] == [[2], [0], [2], [11]]
    strict = Sessions(users, SessionConfig(repeats="refuse"))
    state = strict.reset(session_keys(0, 2))
    state, _ = strict.step(state, torch.tensor([[3], [1]]))
    with pytest.raises(ValueError, match="session 1 was shown item 1 before"):
        strict.step(state, torch.tensor([[4], [1]]))


def test_users_who_consume_once_are_not_shown_what_they_had() -> None:
    users = small_users(exposures=False, repeats=False)
    sessions = Sessions(users, SessionConfig(repeats="mask"))
    state = sessions.reset(session_keys(0, 50))
    items, feedback = users.history(state.users)
    mask = sessions.observe(state).mask
    assert mask is not None
    for row in range(50):
        had = set(items[row][feedback[row, :, 0] > 0].tolist())
        assert set((~mask[row]).nonzero()[:, 0].add(1).tolist()) == had


def test_the_platforms_own_encoder_reads_the_visible_history() -> None:
    users, other = small_users("gru"), small_users("sasrec").backbone
    sessions = Sessions(users, SessionConfig(), encoder=other)
    state = sessions.reset(session_keys(0, 7))
    for step in range(4):
        state, _ = sessions.step(state, torch.full((7, 1), step + 1))
    found = sessions.observe(state, "state").state
    assert found is not None
    torch.testing.assert_close(found, state.encoded.state)
    assert sessions.state_width == other.width
    fresh = sessions.reset(session_keys(1, 7))
    with torch.no_grad():
        expected = other.prefill(*users.history(fresh.users)).state
    torch.testing.assert_close(sessions.observe(fresh).state, expected)


def test_a_session_is_the_same_in_any_batch() -> None:
    sessions = Sessions(small_users("sasrec"), SessionConfig(slate_size=2, repeats="mask"))
    whole, row = sessions.reset(session_keys(3, 6)), sessions.reset(session_keys(3, 6)[4:5])
    for step in range(4):
        slates = torch.tensor([[2 * step + 1, 2 * step + 2]]).expand(6, 2)
        whole, all_of_them = sessions.step(whole, slates)
        row, alone = sessions.step(row, slates[:1])
        torch.testing.assert_close(alone.reward, all_of_them.reward[4:5])
        assert torch.equal(alone.terminated, all_of_them.terminated[4:5])
    torch.testing.assert_close(sessions.observe(row).state, sessions.observe(take(whole, torch.tensor([4]))).state)


def test_hidden_state_does_not_reach_the_observation() -> None:
    users = small_users()
    sessions = Sessions(users)
    state = sessions.reset(session_keys(0, 5))
    before = sessions.observe(state).state
    assert before is not None
    moody = state._replace(users=state.users._replace(effects=state.users.effects + 1))
    after = sessions.observe(moody).state
    assert after is not None and torch.equal(before, after)


def test_wrong_slates_and_settings_are_refused() -> None:
    users = small_users()
    sessions = Sessions(users)
    state = sessions.reset(session_keys(0, 2))
    with pytest.raises(ValueError, match=r"shape \(2, 2\), expected \(B, K\) = \(2, 1\)"):
        sessions.step(state, torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="item ids 0..1, expected 1..12"):
        sessions.step(state, torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="item ids 1..13, expected 1..12"):
        sessions.step(state, torch.tensor([[13], [1]]))
    with pytest.raises(ValueError, match="weight for 'buy', but the users' feedback is click, dwell, like"):
        Sessions(users, SessionConfig(reward={"buy": 1.0}))
    with pytest.raises(ValueError, match="slate_size is 13, but there are only 12"):
        Sessions(users, SessionConfig(slate_size=13))
    with pytest.raises(ValueError, match="the encoder reads 5 items"):
        Sessions(users, encoder=small_users(num_items=5).backbone)
    with pytest.raises(ValueError, match="repeats is 'never'"):
        SessionConfig(repeats="never")  # type: ignore[arg-type]
