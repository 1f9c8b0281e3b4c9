"""Bandits: the arithmetic against numpy, the posterior's draws, and regret where the best arm is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from agents import Task, make_agent
from agents.gym_task import GymTask
from agents.layout import Layout
from agents.linear_reward import Features, Ridge, features_of
from agents.linear_ts import posterior_draws
from recgym.env.resolve import resolve_sessions
from recgym.env.session import SessionConfig, Sessions
from recgym.types import Observation
from simulators import make_world
from tests.users.small import small_users

pytestmark = pytest.mark.experiments
THETA = np.random.default_rng(7).normal(size=(4, 3)).astype(np.float32)
"""Mean reward of arm j in context x: THETA[j] . x."""


class Arms(gymnasium.Env[Any, Any]):
    """One step an episode: reward THETA[action] . x plus noise of deviation .1; the regret of each is noted."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(4)

    def __init__(self, regrets: list[float], *, flat: bool = False) -> None:
        self.regrets, self.flat = regrets, flat

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x = np.ones(3, np.float32) if self.flat else self.np_random.normal(size=3).astype(np.float32)
        return self.x, {}

    def step(self, action: int) -> Any:
        means = THETA @ self.x
        self.regrets.append(float(means.max() - means[action]))
        return self.x, float(means[action] + 0.1 * self.np_random.normal()), True, False, {}


def arms(regrets: list[float], *, flat: bool = False) -> Any:
    return GymTask(make=lambda: Arms(regrets, flat=flat))


@pytest.mark.parametrize("name", ["linucb", "linear-ts"])
def test_regret_grows_less_and_less(name: str, tmp_path: Path) -> None:
    agent = make_agent(name, total_steps=4000, num_envs=4, segments=8)
    regrets: list[float] = []
    policy = agent.train(arms(regrets), seed=0, folder=tmp_path)
    total = np.cumsum(regrets)
    assert len(total) == 4000
    assert total[3999] < 1.6 * total[999] < 1.6 * 1.6 * total[249]  # linear regret would grow fourfold each time
    assert np.mean(regrets[2000:]) < 0.005
    x = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
    seen = Observation(torch.zeros(500, 1), state=torch.from_numpy(x))
    right = (policy.scores(seen).argmax(1).numpy() == (x @ THETA.T).argmax(1)).mean()
    assert right > 0.97


def test_epsilon_greedy_finds_the_best_arm_and_pays_for_epsilon(tmp_path: Path) -> None:
    agent = make_agent("epsilon-greedy", total_steps=3000, num_envs=4, segments=6)
    regrets: list[float] = []
    policy = agent.train(arms(regrets, flat=True), seed=0, folder=tmp_path)
    means = THETA.sum(1)
    assert int(policy.scores(Observation(torch.zeros(1, 1))).argmax()) == int(means.argmax())
    cost = 0.1 * (means.max() - means.mean())  # of a uniform arm in a tenth of the steps
    assert np.mean(regrets[1000:]) == pytest.approx(cost, rel=0.25)


def test_the_ridge_solution_is_numpys() -> None:
    generator = np.random.default_rng(0)
    phi, reward, model = generator.normal(size=(300, 5)), generator.normal(size=300), generator.integers(0, 3, 300)
    ridge = Ridge(4, 5, 2.0)
    for rows in np.array_split(np.arange(300), 17):
        ridge.add(*(torch.from_numpy(part[rows]) for part in (model, phi, reward)))
    left = 0.0
    for one in range(4):
        x, y = phi[model == one], reward[model == one]
        moments = x.T @ x + 2 * np.eye(5)
        expected = np.linalg.solve(moments, x.T @ y)
        np.testing.assert_allclose(ridge.theta[one], expected, atol=1e-10)
        np.testing.assert_allclose(ridge.inverse[one], np.linalg.inv(moments), atol=1e-10)
        left += ((y - x @ expected) ** 2).sum() + 2 * (expected**2).sum()
    assert ridge.noise == pytest.approx((left / 300) ** 0.5)


def test_posterior_draws_have_the_posteriors_mean_and_covariance() -> None:
    root = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariance = root @ root.transpose(1, 2)
    theta = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 0.0]], dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = posterior_draws(theta, covariance, 100_000)
    torch.testing.assert_close(draws.mean(0), theta, atol=0.03, rtol=0)
    for one in range(2):
        torch.testing.assert_close(draws[:, one].T.cov(), covariance[one], atol=0.05, rtol=0.02)


@pytest.mark.parametrize("candidates", [0, 4])
def test_crossed_features_give_the_same_by_both_ways(candidates: int) -> None:
    layout = Layout(num_items=candidates or 12, state_width=8, candidate_width=10 if candidates else 0)
    generator = torch.Generator().manual_seed(0)
    vectors = None if candidates else torch.randn(12, 9, generator=generator)
    features = Features(layout=layout, shared=True, vectors=vectors)
    seen = Observation(torch.rand(6, 1), state=torch.randn(6, 8, generator=generator))
    if candidates:
        seen = seen._replace(candidates=torch.randn(6, 4, 10, generator=generator))
    assert features.width == 2 + 8 + features.item_width + 8
    theta, root = torch.randn(1, features.width), torch.randn(1, features.width, features.width)
    covariance = root @ root.transpose(1, 2)
    means, variances = features.means(seen, theta), features.variances(seen, covariance)
    for item in range(layout.num_items):
        phi = features.chosen(seen, torch.full((6,), item))  # (6, P)
        torch.testing.assert_close(means[:, item], phi @ theta[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(variances[:, item], ((phi @ covariance[0]) * phi).sum(1), atol=1e-2, rtol=1e-3)
    assert seen.state is not None
    z = vectors[3] if vectors is not None else seen.candidates[0, 3]  # type: ignore[index]
    phi = features.chosen(seen, torch.full((6,), 3))[0]
    torch.testing.assert_close(
        phi, torch.cat([torch.ones(1), seen.context[0], seen.state[0], z, seen.state[0] * z[:8]])
    )


def test_many_items_share_a_model_and_without_vectors_say_so(task: Task) -> None:
    assert not features_of(task, "auto", 12 * 100).shared
    assert features_of(task, "auto", 12 * 100 - 1).shared
    with pytest.raises(ValueError, match="disjoint model of 12 items holds 1200 numbers, above limit 7"):
        features_of(task, "disjoint", 7)
    bare = Task(sessions=task.sessions)
    with pytest.raises(ValueError, match="the task has no backbone; a disjoint one of 12 items holds 1200"):
        features_of(bare, "auto", 7)
    fresh = Task(sessions=Sessions(make_world("interest-evolution"), SessionConfig()))
    assert features_of(fresh, "auto", 8_000_000).shared


@pytest.mark.parametrize("name", ["epsilon-greedy", "linucb", "linear-ts"])
@pytest.mark.parametrize("kind", ["candidates", "fresh", "masked", "shared"])
def test_they_train_where_items_change_and_where_some_are_forbidden(name: str, kind: str, tmp_path: Path) -> None:
    users, config = small_users(), SessionConfig(max_steps=5)
    fields: dict[str, Any] = {}
    if kind == "fresh":
        task = Task(sessions=Sessions(make_world("interest-evolution"), SessionConfig(slate_size=3)))
    elif kind == "candidates":
        task = Task(sessions=resolve_sessions(users, config, candidates=4, explore=0.5))
    else:
        masked = SessionConfig(max_steps=5, repeats="refuse" if kind == "masked" else "allow")
        task = Task(sessions=Sessions(users, masked), backbone=users.backbone)
        fields = {"model": "shared"} if kind == "shared" and name != "epsilon-greedy" else {}
    policy = make_agent(name, total_steps=128, num_envs=8, segments=2, **fields).train(task, seed=0, folder=tmp_path)
    assert np.isfinite(task.judge(policy, 20, 0))


def test_settings_out_of_range_are_named() -> None:
    for name, field, value in (
        ("epsilon-greedy", "prior", 0), ("epsilon-greedy", "epsilon", 2), ("linucb", "alpha", -1),
        ("linucb", "model", "hybrid"), ("linear-ts", "ridge", 0), ("linear-ts", "model", "hybrid"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{field}.* {value!r}"):
            make_agent(name, **{field: value})
