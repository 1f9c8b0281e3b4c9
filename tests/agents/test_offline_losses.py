"""Losses of the agents that learn from logs, against d3rlpy's and against computation by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from d3rlpy.models.torch.q_functions.mean_q_function import DiscreteMeanQFunctionForwarder
from torch import Tensor, nn

import agents.d3
import agents.learning
from agents import Task, make_agent
from agents.bcq import support, supported_scores
from agents.candidates import Proposal, estimated_logsumexp
from agents.cql import CQL, candidate_terms, cql_terms
from agents.iql import expectile_loss
from agents.layout import Layout
from agents.networks import ItemScorer
from agents.offline import Minibatch
from agents.sa2c import SA2C, draw_negatives, sa2c_terms
from agents.sqn import SQN, sqn_terms
from agents.training import descend
from recgym.types import Observation
from tests.agents.killing import train_killed
from tests.agents.tiny import LOGGED

pytestmark = [
    pytest.mark.experiments,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
LAYOUT = Layout(num_items=9, state_width=4)


def scorer(seed: int, layout: Layout = LAYOUT, **fields: Any) -> ItemScorer:
    torch.manual_seed(seed)
    network = ItemScorer(layout, torch.randn(9, 4), torch.randn(9), hidden=8, **fields)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return network


def transitions(layout: Layout = LAYOUT, count: int = 32) -> Minibatch:
    torch.manual_seed(5)
    return Minibatch(
        torch.randn(count, layout.width), torch.randint(9, (count,)), torch.rand(count),
        torch.randn(count, layout.width), (torch.rand(count) < 0.8).float(), torch.rand(count),
    )  # fmt: skip


@pytest.mark.parametrize("single_items", [True, False])
def test_our_cql_is_d3rlpys(single_items: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the forwarder that scores single items alone, and with d3rlpy's own."""
    if not single_items:
        monkeypatch.setattr(agents.d3, "_ItemForwarder", DiscreteMeanQFunctionForwarder)
    q, target, batch = scorer(0), scorer(1), transitions()
    config = CQL(conservatism=0.7, discount=0.9)
    theirs = agents.d3.discrete_cql(
        LAYOUT, lambda: copy.deepcopy(q), batch_size=32, gamma=0.9, learning_rate=1e-2, alpha=0.7,
        target_update_interval=1000,
    )  # fmt: skip
    theirs.impl.modules.targ_q_funcs[0].scorer.load_state_dict(target.state_dict())
    theirs._grad_step = 1
    optimiser = torch.optim.Adam(q.parameters(), lr=1e-2)
    for _ in range(3):
        found = theirs.update(agents.d3.minibatch(batch))
        terms = descend(tmp_path, optimiser, cql_terms(q, target, batch, config), batch._asdict())
        assert float(terms["temporal difference"]) == pytest.approx(found["td_loss"], abs=1e-5)
        assert float(terms["conservatism"]) == pytest.approx(0.7 * found["conservative_loss"], abs=1e-5)
        theirs._grad_step = 1
    for name, tensor in theirs.impl.modules.q_funcs[0].scorer.state_dict().items():
        torch.testing.assert_close(tensor, q.state_dict()[name], atol=1e-4, rtol=1e-4, msg=name)


def test_the_candidates_that_are_all_items_are_the_catalogue() -> None:
    q, target, batch, config = scorer(0), scorer(1), transitions(), CQL(conservatism=0.7)
    whole = cql_terms(q, target, batch, config)
    found = candidate_terms(q, target, batch, config, torch.arange(9), torch.zeros(9))
    for name, term in whole.items():
        torch.testing.assert_close(found[name], term, atol=1e-5, rtol=0)


@pytest.mark.parametrize("outputs", [1, 3])
def test_scores_among_some_items_are_theirs_among_all(outputs: int) -> None:
    layout = Layout(num_items=9, state_width=4, history=3, num_feedback=2)
    for network in (scorer(0, layout, outputs=outputs), scorer(0, layout, outputs=outputs, dueling=True)):
        seen = Observation(
            torch.rand(5, 1), state=torch.randn(5, 4), items=torch.randint(10, (5, 3)), feedback=torch.rand(5, 3, 2)
        )
        scores = network(seen)
        shared, own = torch.tensor([2, 2, 8]), torch.tensor([[1], [0], [8], [4], [4]])
        torch.testing.assert_close(network(seen, shared), scores[:, shared])
        torch.testing.assert_close(network(seen, own), scores[torch.arange(5).unsqueeze(1), own])


def test_the_estimated_sum_is_right_on_average_and_near_with_many_candidates() -> None:
    torch.manual_seed(0)
    action = torch.tensor([0, 0, 0, 1, 2, 2])
    proposal = Proposal(action, 9, 0.5)
    assert proposal.log_chance.exp().tolist() == pytest.approx(
        [0.25 + 0.5 / 9, 1 / 12 + 0.5 / 9, 1 / 6 + 0.5 / 9] + [0.5 / 9] * 6
    )
    q = torch.randn(9) * 2
    allowed = torch.ones(9, dtype=torch.bool)
    allowed[4] = False
    exact = q[allowed].exp().sum()

    def estimates(count: int, repeats: int) -> Tensor:
        rows = []
        for _ in range(repeats):
            drawn, log_expected = proposal.draw(count)
            counts = ((drawn != 2) & allowed[drawn]).unsqueeze(0)
            rows.append(estimated_logsumexp(q[2:3], q[drawn].unsqueeze(0), log_expected, counts))
        return torch.cat(rows)

    few = estimates(5, 4000).exp()
    assert float(few.mean() / exact) == pytest.approx(1, abs=4 * float(few.std() / exact) / 4000**0.5)
    assert float((estimates(20_000, 20) - exact.log()).abs().max()) < 0.05


def test_forbidden_items_do_not_matter() -> None:
    layout = Layout(num_items=9, state_width=4, shown=2)
    batch = transitions(layout)
    for rows in (batch.now, batch.after):
        rows[:, 4:6] = torch.tensor([8.0, 9.0])
    batch = batch._replace(action=batch.action % 7)
    q, target, config = scorer(0, layout), scorer(1, layout), CQL()
    drawn = (torch.arange(9), torch.zeros(9))
    before = cql_terms(q, target, batch, config), candidate_terms(q, target, batch, config, *drawn)
    with torch.no_grad():
        q.bias[7:] += 50
        target.bias[7:] += 70
    after = cql_terms(q, target, batch, config), candidate_terms(q, target, batch, config, *drawn)
    for old, new in zip(before, after, strict=True):
        for name, term in old.items():
            torch.testing.assert_close(new[name], term, msg=name)


def test_a_killed_run_of_d3rlpys_resumes(task: Task, tmp_path: Path) -> None:
    agent = make_agent("cql", **LOGGED, by_d3rlpy=True, target_update_interval=7)
    whole = agent.train(task, seed=0, folder=tmp_path / "whole")
    resumed = train_killed(agent, task, tmp_path / "killed")
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(resumed.tensors()[name], tensor, atol=1e-6, rtol=0, msg=name)


def test_bcq_keeps_to_the_support() -> None:
    logits = torch.tensor([[0.5, 0.4, 0.1]]).log()
    q = torch.tensor([[1.0, 2.0, 9.0]])
    assert support(logits, None, 0.3).tolist() == [[True, True, False]]
    assert support(logits, torch.tensor([[False, True, True]]), 0.3).tolist() == [[False, True, False]]
    assert support(logits, None, 0.0).all()
    scores = supported_scores(q, logits, None, 0.3)
    assert scores[0, :2].tolist() == [1.0, 2.0] and scores[0, 2] == pytest.approx(1 - 1e3 + math.log(0.2))


def test_expectiles() -> None:
    assert float(expectile_loss(torch.tensor([-1.0, 2.0]), 0.7)) == pytest.approx((0.3 * 1 + 0.7 * 4) / 2)


class Table(nn.Module):
    """Logits and Q by the number that the state holds."""

    def __init__(self, logits: list[list[float]], q: list[list[float]]) -> None:
        super().__init__()
        self.scorer = SimpleNamespace(layout=Layout(num_items=3, state_width=1))
        self.logits, self.q = torch.tensor(logits), torch.tensor(q)

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        assert observation.state is not None
        row = observation.state[:, 0].long()
        return self.logits[row], self.q[row]


def hand() -> tuple[Any, Any, Minibatch]:
    """State 0, item 0, reward 1, then state 1; state 1, item 2, reward 0, and the user left."""
    network = Table([[math.log(2), 0.0, 0.0], [0.0, 0.0, math.log(3)]], [[0.5, 0.2, 0.1], [0.0, 0.4, 0.3]])
    target = Table([[0.0] * 3] * 2, [[0.6, 0.9, 0.9], [0.9, 0.7, 0.1]])
    batch = Minibatch(
        torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 2]), torch.tensor([1.0, 0.0]),
        torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]),
    )  # fmt: skip
    return network, target, batch


def test_sqn_by_hand() -> None:
    terms = sqn_terms(*hand(), SQN(discount=0.5, q_weight=2.0))
    assert float(terms["supervised"]) == pytest.approx((math.log(4 / 2) + math.log(5 / 3)) / 2)
    # item 1 is best in state 1 by Q, worth .7 by Q'
    assert float(terms["temporal difference"]) == pytest.approx(2 * ((1 + 0.5 * 0.7 - 0.5) ** 2 + (0 - 0.3) ** 2) / 2)


@pytest.mark.parametrize("actor", [False, True])
def test_sa2c_by_hand(actor: bool) -> None:
    config = SA2C(discount=0.5, negatives=2, negative_reward=-0.1, clip=0.2)
    negative = torch.tensor([[1, 2], [0, 1]])
    terms = sa2c_terms(*hand(), negative, config, actor=actor)
    advantages = [min(0.5 - 0.8 / 3, 0.2), 0.3 - 0.7 / 3] if actor else [1.0, 1.0]
    losses = [math.log(4 / 2), math.log(5 / 3)]
    assert float(terms["supervised"]) == pytest.approx(sum(a * b for a, b in zip(advantages, losses, strict=True)) / 2)
    assert float(terms["temporal difference"]) == pytest.approx(((1.35 - 0.5) ** 2 + 0.3**2) / 2)
    stay = [-0.1 + 0.5 * 0.6, -0.1 + 0.5 * 0.7]  # the best items by Q are 0 and 1, worth .6 and .7 by Q'
    expected = (stay[0] - 0.2) ** 2 + (stay[0] - 0.1) ** 2 + (stay[1] - 0.0) ** 2 + (stay[1] - 0.4) ** 2
    assert float(terms["negatives"]) == pytest.approx(expected / 2, rel=1e-5)


def test_negatives_are_any_other_item() -> None:
    torch.manual_seed(0)
    drawn = draw_negatives(torch.tensor([0, 2]), 3, 3000)
    assert set(drawn[0].tolist()) == {1, 2} and set(drawn[1].tolist()) == {0, 1}
    assert abs(int((drawn[0] == 1).sum()) - 1500) < 120


def test_cql_says_what_cannot_be() -> None:
    for settings, message in (
        ({"by_d3rlpy": True, "candidates": 5}, "give candidates 0"),
        ({"popular_share": 1.0}, "popular_share is 1"),
        ({"discount": 1.0}, "discount 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            make_agent("cql", **settings)
