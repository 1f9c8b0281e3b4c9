"""Slates that spread over categories, and the model of clicks: chances by enumeration, draws, modes, gradients."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from math import exp
from pathlib import Path

import pytest
import torch
from torch import Tensor

from agents import Task, make_agent
from agents.clicks import ClickModel
from agents.layout import Layout
from agents.networks import ItemScorer
from agents.spread import Spread, SpreadActor, SpreadPolicy, members_of
from recgym.checks import check_policy
from recgym.env.session import SessionConfig, Sessions
from recgym.policy import load_policy, save_policy
from recgym.random import session_keys
from recgym.types import Observation
from tests.agents.killing import train_killed
from tests.agents.tiny import TINY
from tests.users.small import small_users

pytestmark = [
    pytest.mark.experiments,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
CATEGORIES = torch.tensor([0, 1, 0, 1, 0])
EVERY = torch.tensor(list(permutations(range(5), 3)))  # (60, 3)


def spread(logits: Tensor, prices: Tensor) -> Spread:
    return Spread(logits, prices, CATEGORIES, members_of(CATEGORIES))


def five(batch: int) -> Spread:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 5, generator=draw)
    prices = torch.rand(1, 2, 2, generator=draw).cumsum(2)
    prices = torch.cat([torch.zeros(1, 2, 1), prices], 2)
    return spread(logits.expand(batch, -1), prices.expand(batch, -1, -1))


def by_hand(slates: Spread, slate: list[int]) -> list[float]:
    """Chances of the slots, as the docstring of `agents.spread` writes them."""
    logits, prices = slates.logits[0].tolist(), slates.prices[0].tolist()
    category, found = CATEGORIES.tolist(), []
    for slot, item in enumerate(slate):
        above = [category[other] for other in slate[:slot]]
        left = [other for other in range(5) if other not in slate[:slot]]
        odds = {each: exp(logits[each] - prices[category[each]][above.count(category[each])]) for each in left}
        found.append(odds[item] / sum(odds.values()))
    return found


def test_chances_of_the_slots_agree_with_enumeration() -> None:
    slates = five(60)
    found = slates.log_chances(EVERY).exp()
    torch.testing.assert_close(found, torch.tensor([by_hand(slates, slate) for slate in EVERY.tolist()]))
    assert found.prod(1).sum().item() == pytest.approx(1.0, abs=1e-5)


def test_draws_have_those_chances() -> None:
    torch.manual_seed(0)
    drawn = five(60_000).draw()
    code = drawn @ torch.tensor([25, 5, 1])
    share = torch.stack([(code == one).float().mean() for one in EVERY @ torch.tensor([25, 5, 1])])
    torch.testing.assert_close(share, five(60).log_chances(EVERY).exp().prod(1), atol=0.005, rtol=0)


def test_the_decision_takes_the_likeliest_item_slot_by_slot() -> None:
    draw = torch.Generator().manual_seed(1)
    prices = torch.cat([torch.zeros(30, 2, 1), 2 * torch.rand(30, 2, 2, generator=draw).cumsum(2)], 2)
    slates = spread(torch.randn(30, 5, generator=draw), prices)
    best = slates.best()
    for row in range(30):
        one = spread(slates.logits[row : row + 1], slates.prices[row : row + 1])
        slate: list[int] = []
        for slot in range(3):
            left = [item for item in range(5) if item not in slate]
            rest = [[*slate, item, *[other for other in left if other != item]][:3] for item in left]
            chance = [by_hand(one, full)[slot] for full in rest]
            slate.append(left[max(range(len(left)), key=chance.__getitem__)])
        assert best[row].tolist() == slate


def test_gradients_are_finite_where_a_category_is_forbidden_or_used_up() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf, 2.0], [50.0, 0.0, -50.0, 0.0, 0.0]])
    logits.requires_grad_()
    prices = torch.zeros(2, 2, 3, requires_grad=True)
    found = spread(logits, prices).log_chances(torch.tensor([[4, 2, 0], [2, 0, 4]]))
    found.sum().backward()
    assert found.isfinite().all() and found[0, 2] == 0  # the only item left
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert prices.grad is not None and prices.grad.isfinite().all()


def test_clicks_on_a_category_make_it_less_likely_and_are_forgotten() -> None:
    torch.manual_seed(0)
    layout = Layout(num_items=4, state_width=2, history=12, num_feedback=1)
    actor = SpreadActor(ItemScorer(layout), torch.tensor([0, 0, 1, 1]), None, hidden=4)
    for parameter in actor.scorer.parameters():
        torch.nn.init.zeros_(parameter)
    feedback = torch.zeros(3, 12, 1)
    feedback[0, -3:] = feedback[1, :3] = 1  # lately; long ago; never
    seen = Observation(
        torch.zeros(3, 1), state=torch.zeros(3, 2), items=torch.ones(3, 12, dtype=torch.int64), feedback=feedback
    )
    logits = actor(seen).logits.detach()
    worn = logits[:, 2] - logits[:, 0]
    assert worn[0] > 2 * worn[1] > 0 == worn[2]


def history_of(items: list[int], clicks: list[int]) -> Observation:
    feedback = torch.tensor(clicks, dtype=torch.float32).view(1, -1, 1)
    return Observation(torch.zeros(1, 1), state=torch.zeros(1, 2), items=torch.tensor([items]), feedback=feedback)


def test_the_model_of_clicks_tells_misses_apart() -> None:
    torch.manual_seed(0)
    layout = Layout(num_items=4, state_width=2, history=6, num_feedback=1, slate_size=2)
    model = ClickModel(ItemScorer(layout, torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])), hidden=8)
    seen = history_of([0, 0, 1, 3, 4, 3], [0, 0, 1, 0, 0, 0])
    odds, nothing = model(seen).detach()[0], model(history_of([0] * 6, [0] * 6)).detach()[0]
    assert odds[0] - odds[2] > nothing[0] - nothing[2] + 5  # item 1 was clicked, 3 passed over beside it
    assert model._views(seen)[1][0].tolist() == [[0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1]]
    with torch.no_grad():
        model.again.copy_(torch.tensor([1.0, -0.5, 0.3]))
    chosen = torch.tensor([[2, 0, 3]])
    torch.testing.assert_close(model(seen, chosen), model(seen).gather(1, chosen))
    with pytest.raises(ValueError, match="reads a history"):
        ClickModel(ItemScorer(Layout(num_items=4, state_width=2)), hidden=8)


def test_the_model_of_clicks_finds_a_taste_before_any_training() -> None:
    draw = torch.Generator().manual_seed(0)
    items = torch.nn.functional.normalize(torch.rand(300, 6, generator=draw) ** 3)
    taste = torch.nn.functional.normalize(torch.rand(20, 6, generator=draw) ** 3)
    relevant = taste @ items.T > 0.65  # (20, 300)
    shown = torch.randint(1, 201, (20, 60), generator=draw)  # items 201 to 300 are met by none
    clicks = relevant.gather(1, shown - 1).float()
    layout = Layout(num_items=300, state_width=2, history=60, num_feedback=1, slate_size=10)
    seen = Observation(torch.zeros(20, 1), state=torch.zeros(20, 2), items=shown, feedback=clicks.unsqueeze(2))
    odds = ClickModel(ItemScorer(layout, items), hidden=8)(seen).detach()[:, 200:]
    truth = relevant[:, 200:]
    pairs = [(row[hit].unsqueeze(1) > row[~hit]).float() for row, hit in zip(odds, truth, strict=True)]
    assert torch.cat([pair.flatten() for pair in pairs]).mean() > 0.95


@pytest.mark.parametrize("click_rate", [0.0, 0.01])
@pytest.mark.parametrize("slate_size", [1, 3])
def test_a_killed_run_resumes_and_the_policy_keeps_the_contract(
    slate_size: int, click_rate: float, tmp_path: Path
) -> None:
    sessions = Sessions(small_users(), SessionConfig(max_steps=3, slate_size=slate_size, repeats="mask"))
    task = Task(sessions=sessions, history=4, item_categories=torch.arange(12) % 3)
    agent = make_agent("topk", **{**TINY["topk"], "click_rate": click_rate, "choice": "softmax"})
    policy = agent.train(task, seed=0, folder=tmp_path / "whole")
    resumed = train_killed(agent, task, tmp_path / "killed").tensors()
    for key, tensor in policy.tensors().items():
        torch.testing.assert_close(resumed[key], tensor, atol=1e-6, rtol=0, msg=key)
    assert isinstance(policy, SpreadPolicy)
    save_policy(policy, tmp_path / "saved")
    again = load_policy(tmp_path / "saved")
    seen, keys = sessions.observe(sessions.reset(session_keys(5, 9)), "all"), session_keys(3, 9)
    assert torch.equal(policy.act(seen, keys), again.act(seen, keys))
    for choice in ("softmax", "greedy"):
        check_policy(replace(policy, choice=choice), seen)


def test_categories_of_another_catalogue_are_refused() -> None:
    scorer = ItemScorer(Layout(num_items=4, state_width=2))
    with pytest.raises(ValueError, match=r"item_categories \(3,\) torch.int64 should be \(4,\) int64, from 0"):
        SpreadActor(scorer, torch.zeros(3, dtype=torch.int64), None, hidden=4)
