"""Every registered policy keeps the contract, reads back from its folder, and the trivial ones are what they say."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agents
from agents.baselines import BackboneGreedy, Popularity, Random, RepeatHistory
from agents.bcq import BCQPolicy
from agents.choice import sample_items, softmax_probabilities, top_items
from agents.clicks import ClickModel
from agents.distributional import Atoms, DistributionalPolicy, Quantiles, Reading
from agents.epsilon_greedy import MeanReward
from agents.explore_then_commit import ExploreThenCommit
from agents.item_knn import ItemKNN
from agents.layout import Layout
from agents.linear_reward import Features
from agents.linear_ts import PosteriorDraws, posterior_draws
from agents.linucb import LinearBound
from agents.networks import Critic, ItemScorer
from agents.over_catalogue import OverCatalogue
from agents.recurrence import RecurrentPolicy, RecurrentScorer
from agents.return_transformer import ReturnPolicy, ReturnTransformer
from agents.scoring import ScoringPolicy
from agents.slate_policy import SlatePolicy
from agents.spread import SpreadActor, SpreadPolicy
from agents.wolpertinger import NearestItems, NearestPolicy
from recgym.backbones.knn import nearest_items
from recgym.checks import check_policy
from recgym.logs.sequences import Sequences
from recgym.policy import POLICIES, PolicyError, StoredPolicy, check_fits, load_policy, save_policy
from recgym.random import session_keys
from recgym.trees import take
from recgym.types import Observation
from tests.backbones.test_ranking import sequences
from tests.users.small import small_users

LOG: Sequences = sequences([[1, 2, 3], [1, 2, 4], [5, 2], [1]], 12)
ROLES = np.zeros(9, np.int8)
BACKBONE = small_users().backbone
LAYOUT = Layout(num_items=12, state_width=8)
RECENT = Layout(num_items=12, state_width=8, history=6, num_feedback=3)


def built(slate_size: int) -> dict[str, StoredPolicy]:
    scorer = ItemScorer(LAYOUT, BACKBONE.item_vectors().detach(), BACKBONE.item_bias().detach(), hidden=4)
    policies: dict[str, Any] = {
        "random": Random(num_items=12, slate_size=slate_size),
        "popularity": Popularity.fit(LOG, ROLES, slate_size=slate_size),
        "repeat-history": RepeatHistory.fit(LOG, ROLES, slate_size=slate_size),
        "item-knn": ItemKNN.fit(LOG, ROLES, slate_size=slate_size),
        "backbone-greedy": BackboneGreedy.of(BACKBONE, slate_size=slate_size),
        "explore-then-commit": ExploreThenCommit.fit(LOG, ROLES, BACKBONE, explore=3, slate_size=slate_size),
        "scoring": ScoringPolicy(scorer=scorer, choice="softmax", epsilon=0.2, slate_size=slate_size),
    }
    features = Features(layout=LAYOUT, shared=False)
    theta = torch.randn(12, 10, generator=torch.Generator().manual_seed(1))
    spread = 0.3 * torch.eye(10).repeat(12, 1, 1)
    behind = Layout(num_items=4, state_width=8, candidate_width=10)
    policies |= {
        "over-catalogue": OverCatalogue.of(
            ScoringPolicy(scorer=ItemScorer(behind, hidden=4), slate_size=slate_size), BACKBONE
        ),
        "epsilon-greedy": MeanReward(means=theta[:, 0], epsilon=0.2, slate_size=slate_size),
        "linucb": LinearBound(features=features, theta=theta, covariance=spread, bonus=1.0, slate_size=slate_size),
        "linear-ts": PosteriorDraws(
            features=features, theta=theta, draws=posterior_draws(theta, spread, 5), slate_size=slate_size
        ),
    }
    for name in agents.AGENTS.keys() - policies.keys():
        policies[name] = ScoringPolicy(scorer=scorer, name=name, slate_size=slate_size)
    policies["slateq"] = SlatePolicy(
        taken=scorer, nothing=Critic(LAYOUT), choice=copy.deepcopy(scorer), slate_size=slate_size
    )
    near = NearestItems(LAYOUT, BACKBONE.item_vectors(), nearest=4, hidden=4, learned=False)
    policies["wolpertinger"] = NearestPolicy(net=near, slate_size=slate_size)
    for name in ("drqn", "recurrent-ppo"):
        remembers = RecurrentScorer(ItemScorer(RECENT, hidden=4, memory=5))
        policies[name] = RecurrentPolicy(scorer=remembers, name=name, slate_size=slate_size)
    readings: dict[str, Reading] = {
        "c51": Atoms(num=5, v_min=-1.0, v_max=3.0),
        "qrdqn": Quantiles(num=5, level=0.3),
    }
    for name, reading in readings.items():
        wide = ItemScorer(LAYOUT, BACKBONE.item_vectors().detach(), BACKBONE.item_bias().detach(), outputs=5)
        policies[name] = DistributionalPolicy(scorer=wide, reading=reading, name=name, slate_size=slate_size)
    slates = ItemScorer(replace(RECENT, slate_size=slate_size), hidden=4)
    actor = SpreadActor(slates, torch.arange(12) % 3, ClickModel(slates, hidden=4), hidden=4)
    policies["spread"] = SpreadPolicy(actor=actor, choice="softmax")
    policies["bcq"] = BCQPolicy(q=scorer, imitator=copy.deepcopy(scorer), slate_size=slate_size)
    network = ReturnTransformer(
        replace(LAYOUT, history=6, num_feedback=3), (1.0, 0.0, 0.5), None, None, width=8, layers=1, heads=2, dropout=0.1
    ).eval()
    policies["decision-transformer"] = ReturnPolicy(network=network, target_return=3.0, slate_size=slate_size)
    return policies


def history(*lists: list[int], clicked: bool = True, steps: int = 0) -> Observation:
    """Histories of items that were all clicked (or none), most recent last."""
    items = torch.tensor([[0] * (6 - len(one)) + one for one in lists])
    feedback = ((items > 0) & clicked).float().unsqueeze(2).repeat(1, 1, 3)
    state = torch.randn(len(lists), 8, generator=torch.Generator().manual_seed(0))
    return Observation(torch.full((len(lists), 1), steps / 100), state=state, items=items, feedback=feedback)


def test_every_registered_policy_is_tested_here() -> None:
    assert set(built(1)) == set(POLICIES)


@pytest.mark.parametrize("slate_size", [1, 3])
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_contract_and_the_folder(name: str, slate_size: int, tmp_path: Path) -> None:
    policy = built(slate_size)[name]
    save_policy(policy, tmp_path)
    again = load_policy(tmp_path)
    mask = torch.arange(12).expand(4, -1) % 3 != 0
    for seen in (history([1, 2], [], [5], [3, 3, 3, 4, 5, 6]), history([1], [2], [], [7])._replace(mask=mask)):
        check_policy(policy, seen)
        keys = session_keys(0, 4)
        assert policy.act(seen, keys).shape == (4, slate_size)
        assert torch.equal(policy.act(seen, keys), again.act(seen, keys))
        torch.testing.assert_close(policy.scores(seen), again.scores(seen))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_items_are_shown_as_often_as_their_probabilities_say(name: str) -> None:
    """Over 6,000 keys each item's share is within five standard errors; greedy, and drawn where it can be."""
    policy: Any = built(1)[name]
    drawn = [replace(policy, choice="softmax")] if isinstance(getattr(policy, "choice", None), str) else []
    mask = torch.arange(12).expand(1, -1) % 3 != 0
    one = history([3, 5], steps=5)._replace(mask=mask)
    many = take(one, torch.zeros(6_000, dtype=torch.int64))
    for played in (policy, *drawn):
        chance = played.probabilities(one)[0]
        shown = torch.bincount(played.act(many, session_keys(3, 6_000))[:, 0] - 1, minlength=12) / 6_000
        assert bool(((shown - chance).abs() <= 5 * (chance * (1 - chance) / 6_000).sqrt() + 1e-6).all())


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_other_catalogues_and_observations_are_refused(name: str) -> None:
    policy: Any = built(1)[name]
    known = {"items": 12, "state": 8, "feedback": 3}
    check_fits(policy, known, where="here")
    asked = getattr(policy, "sizes", {"items": policy.num_items})
    assert asked["items"] == policy.num_items and ("state" in asked or not hasattr(policy, "sizes"))
    for part in asked:
        with pytest.raises(PolicyError, match=f"{part} {known[part]}.* but here are .*{part} 77"):
            check_fits(policy, {**known, part: 77}, where="here")


def test_popularity_counts_training_targets() -> None:
    assert Popularity.fit(LOG, ROLES).counts.tolist() == [3, 3, 1, 1, 1, *[0] * 7]
    assert Popularity.fit(LOG, np.array([0] * 7 + [1, 2], np.int8)).counts.tolist()[:2] == [2, 2]
    assert Popularity.fit(LOG, ROLES, slate_size=3).act(history([]), session_keys(0, 1)).tolist() == [[1, 2, 3]]


def test_repeat_history_prefers_the_latest_and_the_frequent() -> None:
    policy = RepeatHistory.fit(LOG, ROLES)
    best = policy.act(history([3, 4], [4, 3, 4, 3, 3], []), session_keys(0, 3))
    assert best[:, 0].tolist() == [4, 3, 1]
    assert policy.act(history([7], clicked=False), session_keys(0, 1)).tolist() == [[1]]


def test_item_knn_by_hand() -> None:
    ids, values = nearest_items(
        np.array([0, 0, 0, 1, 1, 1, 2, 2, 3]), LOG.item.astype(np.int64), 12, neighbours=2, shrinkage=0.0
    )
    assert ids[0].tolist() == [2, 3]  # item 1 shares 2 of 3 groups with item 2, 1 with 3 and 4
    np.testing.assert_allclose(values[0], [2 / 3, 1 / 3**0.5], rtol=1e-5)
    assert ids[11].tolist() == [0, 0]
    policy = ItemKNN.fit(LOG, ROLES, shrinkage=0.0)
    scores = policy.scores(history([5], [1]))
    assert int(scores[0].argmax()) + 1 == 2
    assert int(scores[1].argmax()) + 1 == 2


def test_explore_then_commit_explores_then_commits() -> None:
    policy = ExploreThenCommit.fit(LOG, ROLES, BACKBONE, explore=3)
    order = policy.order.tolist()
    assert len(set(order)) == 3
    for step in range(3):
        assert policy.act(history([7], steps=step), session_keys(0, 1)).tolist() == [[order[step]]]
    liked = Observation(
        torch.full((1, 1), 0.03), items=torch.tensor([[0, 0, 0, 8, 9, 10]]),
        feedback=torch.tensor([[[0.0]] * 4 + [[1.0]] + [[0.0]]]).view(1, 6, 1),
    )  # fmt: skip
    assert policy.act(liked, session_keys(0, 1)).tolist() == [[9]]


def test_backbone_greedy_is_the_backbone() -> None:
    seen = history([1], [2])
    assert seen.state is not None
    torch.testing.assert_close(BackboneGreedy.of(BACKBONE).scores(seen), BACKBONE.scores(seen.state).detach())


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20_000, -1)
    mask = torch.tensor([[True, True, True, False]]).expand(20_000, -1)
    drawn = sample_items(logits, mask, 2, session_keys(0, 20_000))
    expected = softmax_probabilities(logits[:1], mask[:1])[0]
    share = torch.bincount(drawn[:, 0] - 1, minlength=4) / 20_000
    torch.testing.assert_close(share, expected, atol=0.015, rtol=0)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert top_items(torch.tensor([[1.0, 3.0, 3.0]]), None, 2).tolist() == [[2, 3]]
    with pytest.raises(ValueError, match="a slate of 4 items was asked for where only 3"):
        sample_items(logits[:1], mask[:1], 4, session_keys(0, 1))


def test_a_fresh_scorer_ranks_as_the_backbone_does() -> None:
    scorer = ItemScorer(LAYOUT, BACKBONE.item_vectors().detach(), BACKBONE.item_bias().detach(), gain=0.3)
    state = torch.randn(5, 8)
    torch.testing.assert_close(scorer(Observation(torch.zeros(5, 1), state=state)), 0.3 * BACKBONE.scores(state))
