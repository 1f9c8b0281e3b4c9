"""Policy gradients: critics with a known answer, an identity environment, masks, the top-K correction enumerated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from torch import Tensor

from agents import make_agent
from agents.actor_critic import ItemActorCritic, networks
from agents.bridge import SessionsVecEnv
from agents.gym_task import GymTask
from agents.learning import isolated_randomness, seed_segment
from agents.reinforce import REINFORCE
from agents.reinforce import _Learner as Reinforcement
from agents.topk_reinforce import multiplier, top_k_loss
from recgym.env.session import SessionConfig, Sessions
from recgym.types import Transitions
from tests.users.small import small_users

pytestmark = [
    pytest.mark.experiments,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
STEPS = 20


class Identity(gymnasium.Env[Any, Any]):
    """Shows one of four signs and pays for the action of its number; `masked` forbids the one after it."""

    observation_space = gymnasium.spaces.Box(0, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return self._next(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.sign)
        return self._next(), reward, False, False, {}

    def _next(self) -> Any:
        self.sign = int(self.np_random.integers(4))
        return np.eye(4, dtype=np.float32)[self.sign]


class Masked(Identity):
    """Forbids the action after the sign's, and ends the test where it is taken."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_masks()[action]
        return super().step(action)

    def action_masks(self) -> Any:
        return np.arange(4) != (self.sign + 1) % 4


class Constant(Identity):
    """Pays 1 whatever is done."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return (*super().step(action)[:1], 1.0, False, False, {})


def task_of(kind: Callable[[], gymnasium.Env[Any, Any]]) -> Any:
    return GymTask(make=lambda: gymnasium.wrappers.TimeLimit(kind(), STEPS))


def rows() -> Tensor:
    """Each sign at each step of an episode, (80, 5)."""
    signs, steps = torch.eye(4).repeat(STEPS, 1), torch.arange(STEPS).repeat_interleave(4) / 100
    return torch.cat([signs, steps.unsqueeze(1)], 1)


@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce", "a3c", "trpo", "maskable-ppo"])
def test_the_identity_environment_is_solved(name: str, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"total_steps": 12_000, "num_envs": 16, "segments": 2, "learning_rate": 5e-3}
    if name == "a3c":
        fields["workers"] = 2
    if name == "trpo":
        fields |= {"region": 0.05, "damping": 0.01}
    policy = make_agent(name, **fields, choice="greedy", discount=0.5).train(task_of(Identity), seed=0, folder=tmp_path)
    assert task_of(Identity).judge(policy, 16, seed=3) == STEPS


@pytest.mark.parametrize("name", ["ppo", "a2c", "trpo"])
def test_critics_find_the_value_of_a_constant_reward(name: str) -> None:
    import sb3_contrib

    task = task_of(Constant)
    kinds = {"ppo": stable_baselines3.PPO, "a2c": stable_baselines3.A2C, "trpo": sb3_contrib.TRPO}
    more: dict[str, Any] = {} if name == "a2c" else {"batch_size": 64}
    with isolated_randomness():
        seed_segment(0, 0)
        model: Any = kinds[name](
            ItemActorCritic, task.environment(16, 0), n_steps=20, gamma=0.75, learning_rate=5e-3, device="cpu",
            policy_kwargs=networks(task, hidden=16, temperature=1.0), **more,
        )  # fmt: skip
        model.learn(48_000 if name == "a2c" else 6_400)
    with torch.no_grad():
        values = model.policy.predict_values(rows())
    torch.testing.assert_close(values, torch.full((80, 1), 1 / (1 - 0.75)), rtol=0.05, atol=0)


def test_the_baseline_finds_the_value_of_a_constant_reward(tmp_path: Path) -> None:
    for rollout in (0, 10):
        config = REINFORCE(num_envs=8, rollout=rollout, discount=0.75, baseline_steps=10, total_steps=10_000)
        with isolated_randomness():
            seed_segment(0, 0)
            learner = Reinforcement(config, task_of(Constant), 0, tmp_path)
            learner.advance(8_000)
        with torch.no_grad():
            values = learner.baseline(learner.baseline.layout.unpack(rows()))
        torch.testing.assert_close(values, torch.full((80,), 1 / (1 - 0.75)), rtol=0.05, atol=0)


def test_whole_sessions_count_once_and_to_their_end(tmp_path: Path) -> None:
    from agents import Task

    users = small_users()
    task = Task(sessions=Sessions(users, SessionConfig(max_steps=8)), backbone=users.backbone)
    with isolated_randomness():
        seed_segment(0, 0)
        learner = Reinforcement(REINFORCE(num_envs=6, rollout=0), task, 0, tmp_path)
        batch = learner.rollouts.collect(learner.scorer, 0)
    over = batch.terminated | batch.truncated
    for one in range(6):
        length = int(batch.counts[:, one].sum())
        assert batch.counts[:length, one].all()
        assert over[:length, one].nonzero()[:, 0].tolist() == [length - 1]
    assert int(batch.counts.sum(0).max()) == len(batch.reward)


def test_maskable_ppo_gets_the_environments_masks(tmp_path: Path) -> None:
    policy = make_agent("maskable-ppo", total_steps=2_000, num_envs=8, segments=1).train(
        task_of(Masked), seed=0, folder=tmp_path
    )
    assert policy.name == "maskable-ppo"
    with pytest.raises(AssertionError):
        make_agent("ppo", total_steps=2_000, num_envs=8, segments=1).train(task_of(Masked), seed=0, folder=tmp_path)


@pytest.mark.parametrize("slate_size", [1, 2])
def test_the_bridges_masks_are_those_of_its_rows(slate_size: int) -> None:
    config = SessionConfig(max_steps=4, repeats="mask", slate_size=slate_size)
    env = SessionsVecEnv(Sessions(small_users(), config), 5, seed=0)
    seen = torch.from_numpy(np.asarray(env.reset()))
    for _ in range(9):
        masks = torch.from_numpy(np.stack(env.env_method("action_masks"))).view(5, slate_size, 12)
        mask = env.layout.unpack(seen).mask
        assert mask is not None
        assert torch.equal(masks, mask.unsqueeze(1).expand(-1, slate_size, -1))
        best = mask.float().topk(slate_size, 1).indices
        seen = torch.from_numpy(env.step(best.squeeze(1).numpy())[0])
    assert len(env.env_method("action_masks", indices=[1, 2])) == 2
    assert env.has_attr("action_masks")


LOGITS = torch.tensor([0.5, -0.2, 0.9, -1.0])
BEHAVIOUR = torch.tensor([0.1, 0.2, 0.3, 0.4])
REWARD = torch.tensor([1.0, 3.0, -2.0, 5.0])


@pytest.mark.parametrize("top", [1, 3])
def test_the_correction_climbs_the_chance_to_be_shown(top: int) -> None:
    """Its mean over what beta logs is the gradient of sum over a of (1 - (1 - pi(a))^K) r(a): with K = 1, of E[r]."""
    logits = LOGITS.clone().requires_grad_()
    chance = torch.log_softmax(logits, 0).unsqueeze(1)  # every action once, (4, 1)
    loss = top_k_loss(chance, BEHAVIOUR.log().unsqueeze(1), REWARD.unsqueeze(1), top=top, cap=1e9)
    (found,) = torch.autograd.grad((BEHAVIOUR.unsqueeze(1) * loss).sum(), logits)
    shown = 1 - (1 - torch.softmax(logits, 0)) ** top
    (expected,) = torch.autograd.grad((shown * REWARD).sum(), logits)
    torch.testing.assert_close(-found, expected)


def test_the_multiplier_and_the_cap() -> None:
    log_chance = torch.tensor([0.01, 0.4, 1.0]).log()
    torch.testing.assert_close(multiplier(log_chance, 1), torch.ones(3))
    torch.testing.assert_close(multiplier(log_chance, 4), 4 * torch.tensor([0.99, 0.6, 0.0]) ** 3)
    capped = top_k_loss(log_chance[:1], log_chance[:1] - 3, torch.ones(1), top=1, cap=2.0)
    torch.testing.assert_close(capped, -2 * log_chance[:1])


def logged(propensity: float, steps: int = 2_000) -> Transitions:
    """The identity environment under a policy that chooses uniformly."""
    random = np.random.default_rng(0)
    sign, action = random.integers(4, size=steps), random.integers(4, size=steps)
    none = np.zeros(steps, np.bool_)
    cut = np.arange(1, steps + 1) % STEPS == 0
    return Transitions(
        context=(np.arange(steps)[:, None] % STEPS / 100).astype(np.float32), state=np.eye(4, dtype=np.float32)[sign],
        items=None, history=None, mask=None, action=action[:, None] + 1, feedback=np.zeros((steps, 1, 1), np.float32),
        reward=(sign == action).astype(np.float32), terminated=none, truncated=cut,
        propensity=np.full(steps, propensity), episode=np.arange(steps) // STEPS, user=np.arange(steps // STEPS),
        final_context=np.ones((steps // STEPS, 1), np.float32),
        final_state=np.zeros((steps // STEPS, 4), np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("propensity", [0.25, np.nan])
def test_topk_reinforce_learns_from_logs(propensity: float, tmp_path: Path) -> None:
    task: Any = GymTask(make=lambda: gymnasium.wrappers.TimeLimit(Identity(), STEPS), logged=logged(propensity))
    fields = {"updates": 400, "discount": 0.0, "learning_rate": 1e-2, "choice": "greedy", "segments": 2}
    policy = make_agent("topk-reinforce", **fields).train(task, seed=0, folder=tmp_path)
    assert task.judge(policy, 16, seed=3) == STEPS
    if np.isnan(propensity):
        with pytest.raises(ValueError, match="say 'estimated'"):
            make_agent("topk-reinforce", behaviour="logged").train(task, seed=0, folder=tmp_path)
    with pytest.raises(ValueError, match="the task has none"):
        make_agent("topk-reinforce").train(task_of(Identity), seed=0, folder=tmp_path)
