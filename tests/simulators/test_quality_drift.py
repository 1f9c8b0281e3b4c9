"""Quality drift: the contract, choice by frequency, drift by hand, and the trade-off that needs good documents."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recgym.checks import check_user_model
from recgym.random import session_keys
from simulators.quality_drift import SETTINGS, QualityDrift, QualityDriftConfig
from tests.simulators.bands import earned


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("slate_size", [1, 2])
def test_the_contract_holds(name: str, slate_size: int) -> None:
    check_user_model(QualityDrift(SETTINGS[name]), slate_size=slate_size)
    check_user_model(QualityDrift(replace(SETTINGS[name], length=0)), slate_size=slate_size)


def test_choices_follow_the_multinomial_logit() -> None:
    world = QualityDrift()
    state = world.reset(session_keys(0, 8000))
    weight = world.truth(state)["logit"][:, [3, 8]].exp()
    chance = weight / (weight.sum(1, keepdim=True) + 1)
    _, response = world.step(state, torch.tensor([[4, 9]]).expand(8000, -1))
    clicked = response.feedback[:, :, 0]
    bound = 4 * (chance * (1 - chance)).sum(0).sqrt() / 8000
    assert ((clicked.mean(0) - chance.mean(0)).abs() < bound).all()
    assert float(clicked.sum(1).max()) == 1
    minutes = 2 * torch.sigmoid(-world.quality[[3, 8]])
    torch.testing.assert_close(response.feedback[:, :, 1], clicked * minutes)


def test_interests_move_by_a_tenth_of_quality_and_are_squashed() -> None:
    world = QualityDrift(SETTINGS["quality-drift-repaired"])
    state = world.reset(session_keys(1, 500))
    before = state.interest.clone()
    state, response = world.step(state, torch.full((500, 1), 12))
    clicked = response.feedback[:, :, 0]
    moved = before + 0.1 * clicked * world.quality[11] * (world.features[11] - before)
    torch.testing.assert_close(state.interest, 40 * (torch.sigmoid(moved / 10) - 0.5))
    toward = (state.interest - world.features[11]).norm(dim=1) < (before - world.features[11]).norm(dim=1)
    chose = clicked[:, 0] > 0
    assert (toward[chose] == bool(world.quality[11] > 0)).to(torch.float32).mean() > 0.95


def test_documents_have_the_published_qualities() -> None:
    world = QualityDrift(QualityDriftConfig(num_items=20_000, num_topics=10))
    means = torch.tensor([float(world.quality[world.topic == topic].mean()) for topic in range(10)])
    expected = torch.tensor([-1, -5 / 6, -4 / 6, -3 / 6, -2 / 6, -1 / 6, 0, 0, 0.5, 1])
    assert ((means - expected).abs() < 4 * 0.1 / 1800**0.5).all()
    centred = world.features - torch.eye(10)[world.topic]
    assert float(centred.std()) == pytest.approx(0.7, rel=0.01)
    assert float(QualityDrift().quality.max()) < 0.4  # two topics: nothing is good but by noise


def test_greed_is_right_as_published_and_loses_when_repaired() -> None:
    for name, config in SETTINGS.items():
        world = QualityDrift(config)
        mean = {
            policy: float(earned(world, scorer, kind="watch", slate_size=2, steps=100, sessions=300).mean())
            for policy, scorer in {"random": None, **world.bands()}.items()
        }
        assert mean["random"] < mean["rule"] <= mean["best known"], name
        if "repaired" in name:
            assert mean["best known"] > 1.2 * mean["myopic"]
        else:
            assert mean["best known"] == mean["myopic"]


def test_wrong_worlds_are_refused() -> None:
    with pytest.raises(ValueError, match="num_topics is 1"):
        QualityDriftConfig(num_topics=1)
    with pytest.raises(ValueError, match="interest_step is -0.1"):
        QualityDriftConfig(interest_step=-0.1)
    with pytest.raises(ValueError, match="minutes is 0"):
        QualityDriftConfig(minutes=0.0)
    with pytest.raises(ValueError, match="trash_share is 1.5"):
        QualityDriftConfig(trash_share=1.5)
