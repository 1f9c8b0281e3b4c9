"""The agents of slates: their parts by hand, and what they refuse."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from agents import Task, make_agent
from agents.checkpoints import load_checkpoint
from agents.layout import Layout
from agents.learning import describe
from agents.networks import Critic, ItemScorer
from agents.replay import Replay
from agents.slate_policy import SlatePolicy
from agents.topk import slot_advantages, slot_log_chances
from agents.wolpertinger import NearestItems
from recgym.env.session import SessionConfig, Sessions
from recgym.types import Observation
from tests.agents.tiny import TINY
from tests.users.small import small_users

pytestmark = [
    pytest.mark.experiments,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
LAYOUT = Layout(num_items=12, state_width=8)
SEEN = Observation(torch.zeros(30, 1), state=torch.randn(30, 8, generator=torch.Generator().manual_seed(0)))


def test_slots_of_plackett_luce_sum_to_one_and_agree_with_the_product() -> None:
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    logits[0, 3] = -torch.inf  # forbidden
    every = torch.tensor(list(permutations((0, 1, 2, 4), 3)))  # (24, 3)
    slots = slot_log_chances(logits.expand(len(every), -1), every)
    assert slots.sum(1).exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    chance = logits[0].softmax(0)
    first, second, third = every[5].tolist()
    by_hand = [
        chance[first],
        chance[second] / (1 - chance[first]),
        chance[third] / (1 - chance[first] - chance[second]),
    ]
    torch.testing.assert_close(slots[5].exp(), torch.stack(by_hand))
    sure = torch.tensor([[50.0, 0.0, 0.0]])  # stays finite where one item has all the mass
    torch.testing.assert_close(slot_log_chances(sure, torch.tensor([[0, 1]]))[0, 1], torch.tensor(0.5).log())


@pytest.mark.parametrize("name", ["slateq", "topk"])
@pytest.mark.parametrize("anneal", [False, True])
def test_annealed_steps_fall_to_nothing(name: str, anneal: bool, tmp_path: Path) -> None:
    task = Task(sessions=Sessions(small_users(), SessionConfig(max_steps=20)))
    agent: Any = make_agent(name, **{**TINY[name], "anneal": anneal})
    agent.train(task, seed=0, folder=tmp_path)
    kept = load_checkpoint(tmp_path, describe(agent, 0))
    assert kept is not None
    rates = {group["lr"] for group in kept["learner"]["optimiser"]["param_groups"]}
    assert rates == ({0.0} if anneal else {agent.learning_rate})


def test_the_split_of_the_advantage_is_exact() -> None:
    draw = torch.Generator().manual_seed(0)
    own, baseline, advantage = (torch.randn(4, 2, 3, generator=draw) for _ in range(3))
    reward, whole = own.sum(2), advantage[..., 0]
    shared = slot_advantages(own, baseline, reward, whole, "slate")
    torch.testing.assert_close(shared, whole.unsqueeze(2).expand_as(shared))  # PPO's
    each = slot_advantages(own, baseline, reward, whole, "own")
    others = (own - baseline).sum(2, keepdim=True) - (own - baseline)
    torch.testing.assert_close(each, shared - others)


def test_the_replay_gives_the_slate_that_followed_within_a_session() -> None:
    replay = Replay(40, 2, 1, slate_size=2)
    for step in range(6):
        action = torch.full((2, 2), step)
        over = torch.tensor([step == 2, False])
        nothing = torch.zeros(0, 1)
        replay.add(
            torch.full((2, 1), float(step)), action, torch.zeros(2), over, over & False, nothing, torch.zeros(2, 2, 1)
        )
    batch = replay.sample(200, discount=0.9, steps=2)
    env, first = batch.place % 2, batch.action[:, 0]
    ended = (env == 0) & ((first == 1) | (first == 2))
    assert bool((batch.following[ended] == -1).all())
    assert torch.equal(batch.following[~ended][:, 0], first[~ended] + 2)


def nearest(count: int) -> NearestItems:
    torch.manual_seed(0)
    return NearestItems(LAYOUT, torch.randn(12, 6), nearest=count, hidden=8, learned=True)


def test_wolpertinger_over_all_items_is_the_critic_and_over_one_is_the_actor() -> None:
    with torch.no_grad():
        net = nearest(12)
        values = net.values(SEEN, net.vectors(SEEN))
        assert torch.equal(net.scores(SEEN, None).argsort(1, descending=True), values.argsort(1, descending=True))
        near, _, _ = net.choose(SEEN, None)
        assert torch.equal(nearest(1).scores(SEEN, None).argmax(1), near.argmax(1))
        mask = torch.arange(12).expand(30, -1) < 3
        _, chosen, values = nearest(5).choose(SEEN, mask)
        assert bool((chosen.gather(1, values.argmax(1, keepdim=True)) < 3).all())
        assert bool((values.isfinite().sum(1) == 3).all())


def test_item_vectors_start_from_features() -> None:
    sessions = Sessions(small_users(), SessionConfig(max_steps=8))
    features = torch.eye(3).repeat_interleave(4, 0)
    vectors = Task(sessions=sessions, item_features=features, item_width=64).scorer().items.detach()
    cosine = torch.nn.functional.normalize(vectors) @ torch.nn.functional.normalize(vectors).T
    same = features @ features.T == 1
    assert vectors.shape == (12, 64)
    assert cosine[same & ~torch.eye(12, dtype=torch.bool)].mean() > 0.6 > 0.3 > cosine[~same].abs().mean()
    with pytest.raises(ValueError, match=r"item_features \(3, 3\) should be \(12, X\)"):
        Task(sessions=sessions, item_features=torch.eye(3)).scorer()


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("slateq", {"selection": "best"}, "selection is 'best', expected one of exact, top-k, greedy"),
        ("slateq", {"target": "montecarlo"}, "target is 'montecarlo'"),
        ("slateq", {"value_scale": 0.0}, "value_scale is 0.0, expected above 0"),
        ("topk", {"credit": "all"}, "credit is 'all'"),
        ("topk", {"rollout": 0}, "rollout is 0"),
        ("wolpertinger", {"nearest": 0}, "nearest is 0"),
    ],
)
def test_settings_that_make_no_agent_are_refused(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(name, **fields)


def test_slate_policies_check_their_size() -> None:
    scorer = ItemScorer(LAYOUT)
    with pytest.raises(ValueError, match="slate_size is 13, expected 1 to 12"):
        SlatePolicy(taken=scorer, choice=scorer, nothing=Critic(LAYOUT), slate_size=13)


@pytest.mark.parametrize("name", ["slateq", "topk", "wolpertinger"])
@pytest.mark.parametrize("repeats", ["allow", "mask"])
def test_slates_of_three_without_a_backbone(name: str, repeats: Any, tmp_path: Path) -> None:
    sessions = Sessions(small_users(), SessionConfig(max_steps=3, slate_size=3, repeats=repeats))
    task = Task(sessions=sessions, history=4)
    more = {"target": "sarsa", "selection": "greedy"} if name == "slateq" else {}
    policy = make_agent(name, **{**TINY[name], **more}).train(task, seed=0, folder=tmp_path)
    assert policy.num_items == 12
