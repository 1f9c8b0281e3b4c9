"""SB3's view of the sessions: restarts in place, terminal observations, and nothing that crosses a reset."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.experiments


def test_ended_sessions_restart_and_keep_their_last_observation() -> None:
    from agents.bridge import SessionsVecEnv
    from recgym.env.session import SessionConfig, Sessions
    from tests.users.small import small_users

    env = SessionsVecEnv(Sessions(small_users(), SessionConfig(max_steps=5)), 30, seed=3)
    observation = env.reset()
    assert observation.shape == (30, 9)
    lengths = np.zeros(30, np.int64)
    returns = np.zeros(30)
    ended = cut = 0
    for step in range(40):
        env.step_async(np.full(30, step % 12))
        after, reward, done, infos = env.step_wait()
        lengths += 1
        returns += reward
        for row in range(30):
            if done[row]:
                info = infos[row]
                assert info["terminal_observation"][-1] == pytest.approx(lengths[row] / 100)
                assert after[row, -1] == 0
                assert lengths[row] == 5 or not info["TimeLimit.truncated"]
                cut += info["TimeLimit.truncated"]
                assert info["episode"]["l"] == lengths[row]
                assert info["episode"]["r"] == pytest.approx(returns[row], rel=1e-5)
                lengths[row], returns[row] = 0, 0
                ended += 1
            else:
                assert infos[row] == {}
                assert after[row, -1] == pytest.approx(lengths[row] / 100)
    rewards, depths = env.ended_sessions()
    assert len(rewards) == len(depths) == ended > 100
    assert 20 < cut < ended - 20  # users who were still there at the last step, and users who had left
    assert depths.max() <= 5
    assert len(env.ended_sessions()[0]) == 0


def test_rows_do_not_depend_on_each_other_and_a_state_can_be_gone_on_with() -> None:
    from agents.bridge import SessionsVecEnv
    from recgym.env.session import Sessions
    from tests.users.small import small_users

    sessions = Sessions(small_users())
    many, few, copy = (SessionsVecEnv(sessions, count, seed=3) for count in (12, 5, 12))
    np.testing.assert_allclose(np.asarray(many.reset())[:5], np.asarray(few.reset()), atol=1e-6)
    copy.reset()
    for step in range(25):
        if step == 10:
            copy.load_state_dict(many.state_dict())
        first, second = (env.step(np.full(env.num_envs, step % 12)) for env in (many, few))
        np.testing.assert_allclose(np.asarray(first[0])[:5], np.asarray(second[0]), atol=1e-5)
        np.testing.assert_array_equal(first[2][:5], second[2])
        if step >= 10:
            np.testing.assert_array_equal(copy.step(np.full(12, step % 12))[0], first[0])
