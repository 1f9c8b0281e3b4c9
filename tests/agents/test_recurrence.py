"""Memories of recurrent agents: carried or unrolled, alone or in a batch, padded, forgotten at a session's end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import Task, make_agent
from agents.gym_task import GymTask
from agents.layout import Layout
from agents.networks import ItemScorer
from agents.recurrence import Memory, RecurrentPolicy, RecurrentScorer, recurrent_scorer
from recgym.checks import check_policy
from recgym.env.session import SessionConfig, Sessions
from recgym.evaluation import rank_policy
from recgym.policy import recalled
from recgym.random import session_keys
from recgym.rollout import collect
from recgym.trees import take
from recgym.types import Observation, RemembersSessions
from tests.agents.cue import Cue
from tests.agents.tiny import TINY
from tests.backbones.test_ranking import sequences
from tests.users.small import small_users

pytestmark = [
    pytest.mark.experiments,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def scorer(slate_size: int = 1, history: int = 12) -> RecurrentScorer:
    """A network whose memory decides: every weight is drawn."""
    kinds = 2 if history else 0
    layout = Layout(num_items=9, state_width=3, history=history, num_feedback=kinds, slate_size=slate_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = RecurrentScorer(ItemScorer(layout, hidden=6, memory=5))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_()
    return network.requires_grad_(False)


def policy_of(task: Task, slate_size: int) -> RecurrentPolicy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = recurrent_scorer(task, width=5, hidden=6)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_()
    return RecurrentPolicy(scorer=network, name="drqn", slate_size=slate_size)


def seen(items: Tensor, feedback: Tensor) -> Observation:
    batch = len(items)
    return Observation(torch.zeros(batch, 1), state=torch.zeros(batch, 3), items=items, feedback=feedback)


@pytest.mark.parametrize(("slate_size", "learned"), [(1, 1), (3, 3), (3, 1)])
def test_a_carried_memory_is_the_unrolled_history_while_all_of_it_is_visible(slate_size: int, learned: int) -> None:
    policy = RecurrentPolicy(scorer=scorer(learned), name="drqn", slate_size=slate_size)
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(1, 10, (4, 12), generator=generator)
    feedback = torch.rand(4, 12, 2, generator=generator) * 5
    memory: Memory | None = None
    for met in range(0, 12 + slate_size, slate_size):
        shown = torch.cat([torch.zeros(4, 12 - met, dtype=torch.int64), items[:, :met]], 1)
        heard = torch.cat([torch.zeros(4, 12 - met, 2), feedback[:, :met]], 1)
        memory = policy.recall(seen(shown, heard), memory)
        torch.testing.assert_close(memory, policy.recall(seen(shown, heard), None))
        if met < 12:  # a log's prefix may be shorter, or longer than what is read
            longer = torch.nn.functional.pad(shown, (3, 0)), torch.nn.functional.pad(heard, (0, 0, 3, 0))
            torch.testing.assert_close(memory, policy.recall(seen(*longer), None))
            torch.testing.assert_close(memory, policy.recall(seen(items[:, :met], feedback[:, :met]), None))
    assert memory is not None
    assert memory.hidden.abs().max() > 0.1


def test_padding_leaves_the_memory_at_zero() -> None:
    memory = scorer().recall(seen(torch.zeros(2, 12, dtype=torch.int64), torch.zeros(2, 12, 2)), None)
    assert not memory.hidden.any()
    assert not memory.cell.any()


@pytest.mark.parametrize("history", [0, 12])
def test_sequences_are_steps_and_sessions_start_anew_in_them(history: int) -> None:
    network, generator = scorer(3, history), torch.Generator().manual_seed(1)
    steps, count = 5, 4
    shape = (steps * count, 12)
    observation = Observation(
        torch.rand(steps * count, 1, generator=generator), state=torch.rand(steps * count, 3, generator=generator),
        items=torch.randint(0, 10, shape, generator=generator), feedback=torch.rand(*shape, 2, generator=generator),
    )  # fmt: skip
    fresh = torch.rand(steps, count, generator=generator) < 0.3
    before = Memory(torch.rand(count, 5, generator=generator), torch.rand(count, 5, generator=generator))
    found = network.recurrence.sequence(observation, network.vectors, before, fresh)
    policy = RecurrentPolicy(scorer=network, name="drqn", slate_size=3)
    memory = before
    for step in range(steps):
        now = take(observation, torch.arange(step * count, (step + 1) * count))
        memory = recalled(policy, now, memory, fresh=fresh[step]).memory
        torch.testing.assert_close(found.hidden[step], memory.hidden)
        torch.testing.assert_close(found.cell[step], memory.cell)
        for row in fresh[step].nonzero()[:, 0].tolist():
            alone = network.recall(take(now, torch.tensor([row])), None)
            torch.testing.assert_close(alone.hidden[0], memory.hidden[row])
    assert 0 < int(fresh.sum()) < steps * count


@pytest.mark.parametrize(("history", "slate_size"), [(0, 1), (6, 1), (6, 2)])
def test_sessions_remember_alike_alone_and_in_a_batch(history: int, slate_size: int) -> None:
    users = small_users()
    sessions = Sessions(users, SessionConfig(max_steps=6, slate_size=slate_size))
    policy = policy_of(Task(sessions=sessions, backbone=users.backbone, history=history), slate_size)
    assert isinstance(policy, RemembersSessions)
    whole = collect(sessions, policy, num_sessions=40, seed=3, propensities=True)
    parts = collect(sessions, policy, num_sessions=40, seed=3, batch_size=7)
    one = collect(sessions, policy, num_sessions=3, seed=3, batch_size=1)
    assert (whole.action == parts.action).all()
    assert (whole.action[: one.num_steps] == one.action).all()
    assert (whole.propensity == 1).all()
    assert len(set(np.bincount(whole.episode).tolist())) > 1  # some left before others
    forgetful = type("Forgetful", (), {name: getattr(policy, name) for name in ("act", "name", "reads")})()
    other = collect(sessions, forgetful, num_sessions=40, seed=3)
    if not history:
        assert other.action.shape != whole.action.shape or (other.action != whole.action).any()


@pytest.mark.parametrize("name", ["drqn", "recurrent-ppo"])
def test_agents_learn_from_a_visible_history_with_slates_and_masks(name: str, tmp_path: Path) -> None:
    users = small_users()
    sessions = Sessions(users, SessionConfig(max_steps=4, slate_size=2, repeats="mask"))
    task = Task(sessions=sessions, backbone=users.backbone, history=6)
    policy: Any = make_agent(name, **TINY[name], stopping=_judged()).train(task, seed=0, folder=tmp_path)
    assert policy.reads == "all"
    check_policy(policy, sessions.observe(sessions.reset(session_keys(0, 5)), "all"))
    found = collect(sessions, policy, num_sessions=20, seed=1)
    for episode in range(20):
        items = found.action[found.episode == episode].ravel()
        assert len(set(items.tolist())) == len(items)
    lists = sequences([[1, 2, 3], [1, 2, 4], [5, 2], [1]], 12)
    log = replace(lists, kinds=users.kinds, feedback=np.ones((9, 3), np.float32))
    ranks = rank_policy(policy, users.backbone, log, np.arange(9))
    assert ((ranks >= 1) & (ranks <= 12)).all()


def test_a_history_that_leaves_out_what_was_not_chosen_is_refused() -> None:
    users = small_users(exposures=False)
    task = Task(sessions=Sessions(users), backbone=users.backbone, history=6)
    with pytest.raises(ValueError, match="history is 6, but these users' history leaves out what they did not choose"):
        recurrent_scorer(task, width=4)


def test_a_rollout_read_again_in_stretches_gives_the_same_chances_and_values(tmp_path: Path) -> None:
    """Before any update, what SB3 stored step by step is what it computes from padded sequences."""
    import sb3_contrib

    found = []

    class Watched(sb3_contrib.RecurrentPPO):
        def train(self) -> None:
            buffer: Any = self.rollout_buffer
            policy: Any = self.policy
            for data in buffer.get(40):
                mask = data.mask > 0
                actions = data.actions.long().flatten()
                values, chance, _ = policy.evaluate_actions(
                    data.observations, actions, data.lstm_states, data.episode_starts
                )
                torch.testing.assert_close(values[:, 0][mask], data.old_values[mask], atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(chance[mask], data.old_log_prob[mask], atol=1e-5, rtol=1e-5)
                found.append(int((~mask).sum()))

    users = small_users()
    tasks: list[Any] = [Task(sessions=Sessions(users, SessionConfig(max_steps=7)), backbone=users.backbone, history=6)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sb3_contrib, "RecurrentPPO", Watched)
        for place, task in enumerate([*tasks, GymTask(make=Cue)]):
            folder = tmp_path / str(place)
            make_agent("recurrent-ppo", **{**TINY["recurrent-ppo"], "rollout": 16}).train(task, seed=0, folder=folder)
    assert max(found) > 0  # there was padding


def test_episodes_in_a_gymnasium_task_are_judged_with_a_memory_of_their_own() -> None:
    class Echo:
        """Remembers the first sign of its episode and answers with it."""

        name, reads = "echo", "state"

        def recall(self, observation: Observation, memory: Any) -> Any:
            assert observation.state is not None
            return (
                Memory(observation.state[:, :2].clone(), observation.state[:, :2].clone()) if memory is None else memory
            )

        def scores(self, observation: Observation) -> Tensor:
            hidden: Tensor = observation.memory.hidden
            return hidden

        def probabilities(self, observation: Observation) -> Tensor:
            return self.scores(observation)

        def act(self, observation: Observation, keys: Tensor) -> Tensor:
            return self.scores(observation).argmax(1, keepdim=True) + 1

    assert GymTask(make=Cue).judge(Echo(), 50, 3) == 1.0  # type: ignore[arg-type]


def test_the_checker_finds_what_a_memory_must_not_do() -> None:
    task: Any = GymTask(make=Cue)
    policy = policy_of(task, 1)
    observation = Observation(torch.zeros(3, 1), state=torch.rand(3, 3, generator=torch.Generator().manual_seed(0)))
    check_policy(policy, observation)

    class Broken(RecurrentPolicy):
        def recall(self, observation: Observation, memory: Memory | None) -> Memory:
            found = super().recall(observation, memory)
            if memory is not None and self.name == "in place":
                memory.hidden.copy_(found.hidden)
            if self.name == "batch":
                return Memory(found.hidden[:1], found.cell)
            return Memory(torch.cat([found.hidden] * 2, 1), found.cell) if memory and self.name == "grows" else found

    for name, message in (("in place", "changes the memory"), ("batch", "leading dimension"), ("grows", "grows with")):
        with pytest.raises(AssertionError, match=message):
            check_policy(Broken(scorer=policy.scorer, name=name), observation)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="burn_in is -1"):
        make_agent("drqn", burn_in=-1)
    with pytest.raises(ValueError, match="buffer_size is 100, expected more than 1920"):
        make_agent("drqn", buffer_size=100)
    with pytest.raises(ValueError, match="leaves a batch of one"):
        make_agent("recurrent-ppo", num_envs=3, rollout=7, batch_size=10)


def _judged() -> Any:
    from agents.training import Stopping

    return Stopping(sessions=8, patience=3)
