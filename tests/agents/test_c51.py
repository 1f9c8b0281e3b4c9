"""C51: the projection by hand and as the paper's loop has it, values of atoms, and the head's start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agents import Task
from agents.c51 import C51, _Learner, outlying, project
from agents.distributional import Atoms, DistributionalPolicy, Quantiles, best_items
from agents.layout import Layout
from agents.networks import ItemScorer
from recgym.random import session_keys
from recgym.types import Observation

pytestmark = pytest.mark.experiments
ATOMS = Atoms(num=5, v_min=-1.0, v_max=3.0)  # -1, 0, 1, 2, 3


def test_the_projection_by_hand() -> None:
    chances = torch.tensor([[0.0, 0.2, 0.3, 0.5, 0.0]]).expand(4, -1)
    reward, discount = torch.tensor([0.0, 0.25, 5.0, 1.5]), torch.tensor([1.0, 0.0, 1.0, 0.5])
    expected = [
        [0.0, 0.2, 0.3, 0.5, 0.0],  # nothing moves
        [0.0, 0.75, 0.25, 0.0, 0.0],  # everything at .25
        [0.0, 0.0, 0.0, 0.0, 1.0],  # everything beyond the highest
        [0.0, 0.0, 0.1, 0.1 + 0.3 + 0.25, 0.25],  # at 1.5, 2 and 2.5
    ]
    torch.testing.assert_close(project(chances, reward, discount, ATOMS), torch.tensor(expected))
    assert outlying(reward, discount, ATOMS).sum(1).tolist() == [0, 0, 5, 0]


def paper(chances: Tensor, reward: float, discount: float, atoms: Atoms) -> list[float]:
    """Algorithm 1 of Bellemare et al. (2017), line by line."""
    found, returns = [0.0] * atoms.num, atoms.returns(chances).tolist()
    for chance, z in zip(chances.tolist(), returns, strict=True):
        place = (min(max(reward + discount * z, atoms.v_min), atoms.v_max) - atoms.v_min) / atoms.spacing
        lower, upper = int(place // 1), int(-(-place // 1))
        if lower == upper:  # the paper's loop loses these
            found[lower] += chance
        else:
            found[lower] += chance * (upper - place)
            found[upper] += chance * (place - lower)
    return found


def test_the_projection_is_the_paper_s_and_keeps_chances_and_means() -> None:
    torch.manual_seed(0)
    atoms = Atoms(num=51, v_min=-10.0, v_max=10.0)
    chances = torch.randn(40, 51, dtype=torch.float64).mul(3).softmax(1)
    reward, discount = torch.randn(40, dtype=torch.float64) * 8, torch.rand(40, dtype=torch.float64)
    found = project(chances, reward, discount, atoms)
    loop = [paper(*row, atoms) for row in zip(chances, reward.tolist(), discount.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(loop, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(40, dtype=torch.float64))
    inside = ~outlying(reward, discount, atoms).any(1)
    assert 5 < int(inside.sum()) < 40
    z = atoms.returns(chances)
    torch.testing.assert_close((found @ z)[inside], (reward + discount * (chances @ z))[inside])


def test_values_of_atoms() -> None:
    outputs = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0], [-20.0, -20.0, 80.0, -20.0, -20.0]])
    torch.testing.assert_close(ATOMS.value(outputs), torch.tensor([1.0, 1.0]))
    assert torch.allclose(ATOMS.log_chances(torch.randn(3, 4, 5)).exp().sum(-1), torch.ones(3, 4))
    small = torch.full((5,), 0.01)  # equal outputs of x are worth about x above the middle, times the gain
    assert float(Atoms(num=5, v_min=-1.0, v_max=3.0, gain=3.0).value(small)) == pytest.approx(1.03, abs=1e-4)
    with pytest.raises(ValueError, match="expected v_min < v_max"):
        C51(v_min=1.0, v_max=1.0)
    with pytest.raises(ValueError, match="num is 1, expected at least 2 atoms"):
        C51(atoms=1)


def test_the_best_item_is_an_allowed_one() -> None:
    values, mask = torch.tensor([[1.0, 3.0, 2.0]] * 2), torch.tensor([[True, False, True], [False] * 3])
    found, left = best_items(values, mask)
    assert found[0].tolist() == [2] and left.tolist() == [True, False]
    found, left = best_items(values, None)
    assert found.tolist() == [[1], [1]] and left.all()


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_scores_of_chosen_items_are_those_of_all(outputs: int, dueling: bool) -> None:
    torch.manual_seed(0)
    chosen = torch.tensor([[4, 0], [1, 1]])
    mask = torch.tensor([[True] * 6, [True, True, False, False, True, False]])
    plain = Observation(torch.zeros(2, 1), state=torch.randn(2, 3), mask=mask)
    fresh = plain._replace(candidates=torch.randn(2, 6, 2))
    read = plain._replace(items=torch.tensor([[0, 5, 1], [2, 2, 5]]), feedback=torch.rand(2, 3, 1))
    for seen, width, history in ((plain, 0, 0), (fresh, 2, 0), (read, 0, 3)):
        layout = Layout(
            num_items=6, state_width=3, candidate_width=width, history=history, num_feedback=int(history > 0)
        )
        scorer = ItemScorer(layout, hidden=8, outputs=outputs, dueling=dueling)
        for parameter in scorer.parameters():
            torch.nn.init.normal_(parameter)
        expected = scorer(seen)[torch.arange(2)[:, None], chosen]
        torch.testing.assert_close(scorer(seen, chosen), expected)


def test_the_head_starts_as_the_backbone_s_ranking(task: Task, tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = _Learner(C51(num_envs=8, buffer_size=100, initial_spread=0.1), task, 0, tmp_path)
    seen = task.sessions.observe(task.sessions.reset(session_keys(1, 64)), "state")
    values = run.policy().scores(seen)
    assert seen.state is not None and task.backbone is not None
    scores = task.backbone.scores(seen.state)
    assert torch.equal(values.argsort(1), scores.argsort(1))
    assert float(values.std(1).mean()) == pytest.approx(0.1, rel=0.2)


def test_a_policy_whose_outputs_are_not_its_reading_s_is_refused() -> None:
    scorer = ItemScorer(Layout(num_items=3, state_width=2), outputs=4)
    fields: dict[str, Any] = {"scorer": scorer, "name": "c51"}
    with pytest.raises(ValueError, match="4 outputs an item, expected 5"):
        DistributionalPolicy(reading=ATOMS, **fields)
    with pytest.raises(ValueError, match="slate_size is 4, expected 1 to 3 items"):
        DistributionalPolicy(reading=Quantiles(num=4), slate_size=4, **fields)
