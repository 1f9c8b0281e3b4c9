"""RecLifetime-v0: checkers, a calendar by hand, churn and horizon apart, and metrics that count what happened."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import recgym  # noqa: F401 (registers RecLifetime-v0)
from recgym.env.lifetime import LifetimeConfig, Lifetimes
from recgym.random import fold, session_keys
from recgym.retention import life_outcomes
from recgym.rollout import collect
from recgym.users.learned import LearnedUsers
from recgym.users.returning import Returning, ReturnShape
from simulators import make_world
from tests.users.small import small_users


def returning_users(chance: float = 0.5, edges: tuple[float, ...] = (0.0, 1.0, 3.0)) -> LearnedUsers:
    """Small users who come back in each span with the same chance, whatever happened."""
    model = Returning(ReturnShape(state_width=8, num_kinds=3, length=6, edges=edges))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.out.bias.fill_(float(torch.logit(torch.tensor(chance))))
    users = small_users()
    users.returning = model.requires_grad_(False)
    return users


@pytest.mark.parametrize("users", ["learned", "storefront"])
@pytest.mark.parametrize("observation", ["state", "history"])
def test_gymnasiums_checker_has_nothing_to_say(users: str, observation: str) -> None:
    model: Any = returning_users() if users == "learned" else make_world(users)
    env = gymnasium.make("RecLifetime-v0", users=model, observation=observation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_the_sample_users_come_back() -> None:
    env = gymnasium.make("recgym:RecLifetime-v0", horizon_days=20)
    observation, _ = env.reset(seed=0)
    rewards = []
    for step in range(1000):
        observation, reward, terminated, truncated, info = env.step(step % 500)
        assert observation in env.observation_space
        assert reward == pytest.approx(info["reward_click"] + info["reward_return"])
        rewards.append(info["reward_return"])
        if terminated or truncated:
            break
    assert terminated != truncated
    assert any(reward > 0 for reward in rewards)


def play(users: Any, config: LifetimeConfig, count: int = 400) -> Any:
    from agents.baselines import Random

    return collect(Lifetimes(users, config), Random(num_items=users.num_items), num_sessions=count, seed=0)


def test_lives_go_on_across_sessions_until_the_user_churns_or_the_calendar_ends() -> None:
    pytest.importorskip("stable_baselines3")
    config = LifetimeConfig(horizon_days=5.0, session_steps=4, return_reward=2.0, return_days=1.0)
    lives = play(returning_users(), config)
    assert lives.visit is not None and lives.day is not None
    assert (lives.terminated ^ lives.truncated)[np.append(np.diff(lives.episode) > 0, True)].all()
    same = np.diff(lives.episode) == 0
    moved = np.diff(lives.visit)[same]
    assert set(moved.tolist()) == {0, 1}
    days = np.diff(lives.day)[same]
    assert (days[moved == 0] == 0).all()
    assert (days[moved == 1] > 0).all()
    assert (days[moved == 1] <= 3).all()
    assert lives.day.max() < 5
    bonus = lives.reward - lives.feedback[:, 0, 0]
    np.testing.assert_allclose(bonus[:-1][same][moved == 1], 2 * np.exp(-days[moved == 1]), rtol=1e-4)
    np.testing.assert_allclose(bonus[:-1][same][moved == 0], 0, atol=1e-6)
    outcomes = life_outcomes(lives)
    first_churn = np.mean(outcomes.churned & (outcomes.sessions == 1))
    assert first_churn == pytest.approx(0.25, abs=4.5 * (0.25 * 0.75 / 400) ** 0.5)
    assert np.mean(outcomes.returned_within(1.0)) == pytest.approx(0.5, abs=4.5 * 0.5 / 20)
    assert outcomes.value.sum() == pytest.approx(float(lives.reward.sum()), rel=1e-5)
    assert (outcomes.sessions == np.bincount(outcomes.life)).all()
    day2 = [any(int(d) == 2 for d in lives.day[lives.episode == e]) for e in range(400)]
    assert outcomes.retained(2).tolist() == day2


def test_a_life_is_the_same_alone_and_in_a_batch() -> None:
    lifetimes = Lifetimes(returning_users(), LifetimeConfig(session_steps=3, horizon_days=9))
    keys = session_keys(1, 12)
    many, one = lifetimes.reset(keys.clone()), lifetimes.reset(keys[5:6].clone())
    for step in range(12):
        slate = torch.full((12, 1), step % 12 + 1)
        many, outcome = lifetimes.step(many, slate)
        one, alone = lifetimes.step(one, slate[:1])
        assert float(outcome.reward[5]) == pytest.approx(float(alone.reward[0]), abs=1e-5)
        assert bool(outcome.terminated[5]) == bool(alone.terminated[0])
        torch.testing.assert_close(lifetimes.features(many)[5], lifetimes.features(one)[0], atol=1e-5, rtol=1e-5)
        if bool(alone.terminated[0] | alone.truncated[0]):
            break


def test_users_carry_their_history_over_but_not_their_mood() -> None:
    users = returning_users()
    state = users.reset(session_keys(0, 5))
    state, _ = users.step(state, torch.full((5, 1), 3))
    before = [part.clone() for part in users.history(state)]
    effects = state.effects.clone()
    after = users.revisit(state, torch.full((5,), 2.0))
    for old, new in zip(before, users.history(after), strict=True):
        assert torch.equal(old, new)
    assert (after.visit == 1).all() and (after.depth == 0).all()
    assert not torch.equal(effects, after.effects)
    assert torch.equal(after.clock, state.clock + 2 * 86_400)


def test_users_who_do_not_say_when_they_return_are_refused() -> None:
    with pytest.raises(ValueError, match="do not say when they come back"):
        Lifetimes(small_users())
    with pytest.raises(ValueError, match="InterestEvolution does not come back"):
        Lifetimes(make_world("interest-evolution"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="horizon_days is 0"):
        LifetimeConfig(horizon_days=0)
    with pytest.raises(ValueError, match="collect them from Lifetimes"):
        from agents.baselines import Random
        from recgym.env.session import Sessions

        life_outcomes(collect(Sessions(small_users()), Random(num_items=12), num_sessions=3, seed=0))


def test_what_one_life_is_shown_does_not_hang_on_the_others() -> None:
    """The policy's own draws come from the keys given to `reset`, which a return must not overwrite."""
    config = LifetimeConfig(session_steps=2, horizon_days=20)
    model = returning_users(chance=0.9)
    from agents.baselines import Random

    found = [
        collect(Lifetimes(model, config), Random(num_items=12), num_sessions=20, seed=3, batch_size=size)
        for size in (20, 1)
    ]
    np.testing.assert_array_equal(found[0].action, found[1].action)
    np.testing.assert_array_equal(found[0].visit, found[1].visit)
    keys = session_keys(0, 6)
    kept = keys.clone()
    lives = Lifetimes(model, config)
    state = lives.reset(keys)
    for _ in range(4):
        state, _ = lives.step(state, torch.ones(6, 1, dtype=torch.int64))
    assert torch.equal(keys, kept)


@pytest.mark.parametrize(("exposures", "slots"), [(True, 1), (True, 2), (False, 2)])
def test_returns_count_items_as_the_log_did(exposures: bool, slots: int) -> None:
    """A log's step is one item that entered the history; `away` sees the session in the same unit."""
    users = small_users(exposures=exposures)
    seen: list[torch.Tensor] = []

    class Told(Returning):
        def log_odds(self, state: torch.Tensor, depth: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
            seen.append(depth)
            return super().log_odds(state, depth, sums)

    users.returning = Told(ReturnShape(state_width=8, num_kinds=3, length=6)).requires_grad_(False)
    state = users.reset(session_keys(0, 40))
    entered = torch.zeros(40)
    for step in range(3):
        slates = torch.stack([torch.full((40,), 1 + step + slot) for slot in range(slots)], 1)
        state, response = users.step(state, slates)
        entered += slots if exposures else (response.feedback[:, :, 0] > 0).sum(1)
    users.away(state)
    assert torch.equal(seen[-1], entered)


@pytest.mark.parametrize("autoreset", ["next_step", "same_step", "disabled"])
def test_lives_restart_in_every_autoreset_mode(autoreset: str) -> None:
    """Each mode shows the lives that `Lifetimes` gives for the same keys, and no step crosses a reset."""
    config: dict[str, Any] = {"session_steps": 2, "horizon_days": 4.0, "repeats": "mask"}
    users = returning_users(chance=0.8)
    env: Any = gymnasium.make_vec(
        "RecLifetime-v0",
        num_envs=6,
        vectorization_mode="vector_entry_point",
        users=users,
        autoreset=autoreset,
        **config,
    )
    reference = Lifetimes(users, LifetimeConfig(**config))
    roots, episode = session_keys(5, 6), [0] * 6
    states: list[Any] = [reference.reset(fold(roots[row : row + 1], 0)) for row in range(6)]
    observation, info = env.reset(seed=5)
    over = np.zeros(6, np.bool_)
    ended = 0
    for step in range(40):
        if autoreset == "disabled" and over.any():
            observation, info = env.reset(options={"reset_mask": over})
            for row in np.flatnonzero(over).tolist():
                episode[row] += 1
                states[row] = reference.reset(fold(roots[row : row + 1], episode[row]))
            over = np.zeros(6, np.bool_)
        actions = (info["action_mask"] * np.arange(1, 13)[::-1]).argmax(1)
        observation, reward, terminated, truncated, info = env.step(actions)
        assert observation in env.observation_space
        assert not (terminated & truncated).any()
        now = terminated | truncated
        for row in range(6):
            if autoreset == "next_step" and over[row]:
                episode[row] += 1
                states[row] = reference.reset(fold(roots[row : row + 1], episode[row]))
                assert reward[row] == 0 and not now[row]
                expected = reference.features(states[row])[0]
            else:
                slate = torch.tensor([[int(actions[row]) + 1]])
                states[row], outcome = reference.step(states[row], slate)
                assert float(outcome.reward) == pytest.approx(float(reward[row]), abs=1e-5)
                assert (bool(outcome.terminated), bool(outcome.truncated)) == (terminated[row], truncated[row])
                expected = reference.features(states[row])[0]
                if autoreset == "same_step" and now[row]:
                    np.testing.assert_allclose(info["final_obs"][row], expected, atol=1e-5)
                    episode[row] += 1
                    states[row] = reference.reset(fold(roots[row : row + 1], episode[row]))
                    expected = reference.features(states[row])[0]
            np.testing.assert_allclose(observation[row], expected, atol=1e-5, err_msg=f"step {step}, row {row}")
        over = now
        ended += int(now.sum())
    assert ended > 10


def test_stable_baselines_lives_on_across_sessions() -> None:
    """SB3's bridge makes `Lifetimes` again from their parts, and ends an episode only with a life."""
    pytest.importorskip("stable_baselines3")
    from agents.bridge import SessionsVecEnv

    lives = Lifetimes(returning_users(), LifetimeConfig(session_steps=3, horizon_days=6.0, repeats="mask"))
    env = SessionsVecEnv(lives, 8, seed=0)
    assert isinstance(env.sessions, Lifetimes)
    observation = env.reset()
    earned = np.zeros(8)
    for step in range(60):
        saved = env.state_dict()
        env.step_async(np.full(8, step % 12))
        observation, reward, done, infos = env.step_wait()
        earned += reward
        for row in np.flatnonzero(done):
            assert infos[row]["episode"]["r"] == pytest.approx(earned[row], abs=1e-4)
            assert infos[row]["terminal_observation"].shape == observation[row].shape
            earned[row] = 0
    assert len(env.ended_sessions()[0])
    env.load_state_dict(saved)
    env.step_async(np.full(8, 59 % 12))
    np.testing.assert_allclose(env.step_wait()[0], observation)
