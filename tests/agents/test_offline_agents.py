"""Agents that learn from logs find what is known to be right in small problems."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import Task, make_agent
from recgym.env.session import SessionConfig, Sessions
from recgym.random import session_keys, uniform
from recgym.rollout import collect
from recgym.types import FeedbackKind, Observation, Reads, Response, Visible
from recgym.users import history as ring
from recgym.users.history import History
from tests.agents.logs import bandit, corridor, everywhere

pytestmark = [pytest.mark.experiments, pytest.mark.filterwarnings("ignore::UserWarning")]
CHANCE = [[0.6, 0.3, 0.1, 0.0], [0.1, 0.1, 0.2, 0.6]]
REWARD = [[0.2, 0.8, 9.0, 9.0], [0.9, 0.1, 0.3, 0.2]]


def probabilities(name: str, task: Any, states: int, folder: Path, **settings: Any) -> Tensor:
    policy = make_agent(name, segments=2, **settings).train(task, seed=0, folder=folder)
    found: Tensor = policy.probabilities(everywhere(states))
    return found


def test_bc_is_the_behaviour_and_filtered_bc_the_best_of_it(tmp_path: Path) -> None:
    task: Any = bandit(CHANCE, REWARD, 4000)
    settings = {"updates": 600, "batch_size": 512, "learning_rate": 3e-3}
    found = probabilities("bc", task, 2, tmp_path / "all", **settings)
    assert float((found - torch.tensor(CHANCE)).abs().max()) < 0.06
    best = probabilities("bc", task, 2, tmp_path / "top", **settings, top_share=0.05)
    assert float(best[0, 2]) > 0.9


def test_bcq_never_leaves_the_support_where_q_learning_does(tmp_path: Path) -> None:
    task: Any = bandit(CHANCE, REWARD, 4000)
    settings = {"updates": 300, "learning_rate": 5e-3}
    found = probabilities("bcq", task, 2, tmp_path / "bcq", **settings)
    assert found.argmax(1).tolist() == [1, 2]  # likelier than .3 of the likeliest, and best among those
    assert (torch.tensor(CHANCE)[found > 0] > 0).all()
    free = probabilities("bcq", task, 2, tmp_path / "free", **settings, threshold=0.0)
    assert free[0].argmax() in (2, 3) and free[1].argmax() == 0


@pytest.mark.parametrize("settings", [{}, {"candidates": 3}, {"by_d3rlpy": True}])
def test_cql_finds_the_best_logged_item(settings: dict[str, Any], tmp_path: Path) -> None:
    task: Any = bandit(CHANCE, REWARD, 4000)
    found = probabilities("cql", task, 2, tmp_path, updates=400, learning_rate=5e-3, **settings)
    assert found.argmax(1).tolist() == [2, 0]


def test_iql_finds_the_way_that_a_bad_policy_logged(tmp_path: Path) -> None:
    task = corridor(4, 0.25, 800)
    settings = {"updates": 700, "learning_rate": 5e-3, "batch_size": 128}
    cloned = probabilities("bc", task, 4, tmp_path / "bc", **{**settings, "updates": 150})
    assert cloned.argmax(1).tolist() == [0] * 4
    found = probabilities(
        "iql", task, 4, tmp_path / "iql", **settings, expectile=0.9, temperature=0.02, discount=0.9, target_rate=0.02
    )
    assert found.argmax(1).tolist() == [1] * 4


class SameState(NamedTuple):
    keys: Tensor
    history: History


class Generous:
    """Item 1 is clicked, the others are not; nobody leaves."""

    num_items = 3
    kinds = (FeedbackKind(name="click"),)

    def reset(self, keys: Tensor) -> SameState:
        return SameState(keys, ring.empty(len(keys), 8, 1))

    def step(self, state: SameState, slates: Tensor) -> tuple[SameState, Response]:
        click = (slates == 1).float()
        history = ring.push(state.history, slates[:, 0], click)
        nobody = torch.zeros(len(slates), dtype=torch.bool)
        return SameState(state.keys, history), Response(
            click.unsqueeze(2), nobody, torch.full_like(click[:, 0], torch.nan)
        )

    def visible(self, state: SameState) -> Visible:
        return Visible(torch.zeros(len(state.keys), 1))

    def history(self, state: SameState) -> tuple[Tensor, Tensor]:
        return ring.ordered(state.history)

    def truth(self, state: SameState) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True)
class Sticky:
    """Draws item 1 or 2 at first, and shows it again and again: sessions of two modes."""

    reads: Reads = "history"
    name: ClassVar[str] = "sticky"

    def scores(self, observation: Observation) -> Tensor:
        return torch.zeros(len(observation.context), 3)

    def probabilities(self, observation: Observation) -> Tensor:
        return torch.full((len(observation.context), 3), 1 / 3)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        assert observation.items is not None
        latest = observation.items[:, -1:]
        return torch.where(latest > 0, latest, 1 + (uniform(keys, 1) < 0.5).long())


def test_a_higher_target_return_is_a_higher_return(tmp_path: Path) -> None:
    sessions = Sessions(Generous(), SessionConfig(max_steps=6))
    logged = collect(sessions, Sticky(), num_sessions=300, seed=1, keep=("state", "history"))
    task = Task(sessions=sessions, logged=logged)
    agent = make_agent("decision-transformer", updates=300, width=16, heads=2, layers=1, segments=2)
    policy: Any = agent.train(task, seed=0, folder=tmp_path)
    assert policy.target_return == 6.0

    def achieved(target: float) -> float:
        aimed = replace(policy, target_return=target)
        return float(collect(sessions, aimed, num_sessions=200, seed=2).returns.mean())

    low, high = achieved(0.0), achieved(6.0)
    assert low < 0.5 and high > 5.5
    seen = sessions.observe(sessions.reset(session_keys(0, 2)), "all")
    assert policy.network.earned(seen).sum() == 0


def test_a_transformer_reads_only_the_sessions_own_rewards() -> None:
    from agents.layout import Layout
    from agents.return_transformer import ReturnTransformer

    layout = Layout(num_items=5, state_width=2, history=4, num_feedback=2)
    network = ReturnTransformer(layout, (1.0, 0.5), None, None, width=8, layers=1, heads=2, dropout=0.0).eval()
    items = torch.tensor([[0, 3, 1, 2]])
    feedback = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [1.0, 2.0], [0.0, 1.0]]])
    for steps, expected in ((0, [0, 0, 0, 0]), (2, [0, 0, 2, 0.5]), (4, [0, 1, 2, 0.5])):
        seen = Observation(torch.full((1, 1), steps / 100), state=torch.zeros(1, 2), items=items, feedback=feedback)
        assert network.earned(seen)[0].tolist() == expected
        assert network.earned(seen, per_step=2)[0].tolist() == ([0, 1, 2, 0.5] if steps else expected)
    longer = seen._replace(
        items=torch.cat([torch.tensor([[4]]), items], 1), feedback=torch.cat([torch.ones(1, 1, 2), feedback], 1)
    )
    to_go = torch.ones(1)
    torch.testing.assert_close(network(longer, to_go), network(seen, to_go))
    assert not torch.allclose(network(seen, to_go), network(seen, 2 * to_go))


@pytest.mark.parametrize("name", ["sqn", "sa2c"])
def test_a_q_head_leaves_the_supervised_head_its_prediction(name: str, tmp_path: Path) -> None:
    task: Any = bandit(CHANCE, np.clip(REWARD, 0, 1), 4000)
    policy = make_agent(
        name, updates=600, batch_size=512, learning_rate=3e-3, segments=2, choice="softmax", held_out=0.1
    )
    found = policy.train(task, seed=0, folder=tmp_path).probabilities(everywhere(2))
    assert float((found - torch.tensor(CHANCE)).abs().max()) < 0.05


def test_sa2c_moves_towards_reward(tmp_path: Path) -> None:
    """Two items shown equally often: the advantages favour the one that earns."""
    task: Any = bandit([[0.5, 0.5, 0.0, 0.0]], [[1.0, 0.0, 0.0, 0.0]], 2000)
    settings = {"updates": 400, "learning_rate": 3e-3, "segments": 2, "choice": "softmax", "negatives": 3}
    plain = make_agent("sqn", **{k: v for k, v in settings.items() if k != "negatives"})
    weighted = make_agent("sa2c", **settings, warm_up=200, second_learning_rate=1e-3)
    before = plain.train(task, seed=0, folder=tmp_path / "sqn").probabilities(everywhere(1))
    after = weighted.train(task, seed=0, folder=tmp_path / "sa2c").probabilities(everywhere(1))
    assert float(before[0, 0]) == pytest.approx(0.5, abs=0.06)
    assert float(after[0, 0]) > 0.8
