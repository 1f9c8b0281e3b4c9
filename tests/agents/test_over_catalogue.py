"""Policies of candidates over the whole catalogue, and policies of the catalogue among candidates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import agents.over_catalogue
from agents import Task, make_agent
from agents.baselines import BackboneGreedy
from agents.networks import ItemScorer
from agents.over_catalogue import AmongOffered, OverCatalogue
from agents.scoring import ScoringPolicy
from recgym.checks import check_policy
from recgym.env.resolve import resolve_sessions
from recgym.env.session import SessionConfig, Sessions
from recgym.random import session_keys
from tests.agents.tiny import TINY
from tests.users.small import small_users

pytestmark = [pytest.mark.experiments, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
USERS = small_users()
KEYS = session_keys(2, 9)


def behind(candidates: int) -> Task:
    return Task(sessions=resolve_sessions(USERS, SessionConfig(max_steps=5), candidates=candidates, explore=0.25))


@pytest.mark.parametrize("dueling", [False, True])
def test_the_whole_catalogue_is_scored_as_candidates_are(dueling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    task = behind(12)  # every item is a candidate, in order
    scorer = task.scorer(hidden=8, dueling=dueling)
    with torch.no_grad():
        for parameter in scorer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    policy = ScoringPolicy(scorer=scorer)
    expected = policy.scores(task.sessions.observe(task.sessions.reset(KEYS))._replace(offered=None))
    whole = OverCatalogue.of(policy, USERS.backbone)
    plain = Sessions(USERS).observe(Sessions(USERS).reset(KEYS))
    torch.testing.assert_close(whole.scores(plain), expected, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(agents.over_catalogue, "_UNITS", 9 * 8 * 5)  # five items at a time
    torch.testing.assert_close(whole.scores(plain), expected, atol=1e-5, rtol=1e-5)
    check_policy(whole, plain)


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_what_is_trained_on_candidates_ranks_all_items(name: str, tmp_path: Path) -> None:
    task = behind(4)
    policy = make_agent(name, **TINY[name]).train(task, seed=0, folder=tmp_path)
    assert isinstance(policy, ScoringPolicy)
    check_policy(policy, task.sessions.observe(task.sessions.reset(KEYS)))
    whole = OverCatalogue.of(policy, USERS.backbone)
    plain = Sessions(USERS).observe(Sessions(USERS).reset(KEYS))
    assert whole.scores(plain).shape == (9, 12)
    seen = task.sessions.observe(task.sessions.reset(KEYS))
    assert seen.offered is not None
    among = whole.scores(plain).gather(1, seen.offered - 1)
    if not policy.scorer.dueling:
        torch.testing.assert_close(among, policy.scores(seen), atol=1e-5, rtol=1e-5)
    assert torch.equal(among.argmax(1), policy.scores(seen).argmax(1))


def test_policies_of_the_catalogue_choose_among_the_offered() -> None:
    task = behind(4)
    among = AmongOffered(policy=BackboneGreedy.of(USERS.backbone), state_width=8)
    seen = task.sessions.observe(task.sessions.reset(KEYS))
    check_policy(among, seen)
    assert seen.candidates is not None
    assert torch.equal(among.act(seen, KEYS)[:, 0] - 1, seen.candidates[:, :, -1].argmax(1))
    assert task.judge(among, 20, 0) >= 0


def test_a_backbone_beside_candidates_and_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="give the task no backbone"):
        Task(sessions=behind(4).sessions, backbone=USERS.backbone)
    scorer = ItemScorer(behind(4).layout(), hidden=4)
    with pytest.raises(ValueError, match="items have 4 features with their score, the network reads 10"):
        OverCatalogue(scorer=scorer, items=torch.zeros(12, 3))
