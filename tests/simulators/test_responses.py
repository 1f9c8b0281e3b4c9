"""The seven behaviours: calibrated rates, the double squash, the similarity penalty, and interests that move."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from recgym.random import bits, session_keys
from simulators.patience import KuaiSim
from simulators.patience_settings import SETTINGS, KuaiSimConfig
from simulators.responses import BEHAVIOURS, CLICK, ResponseConfig, Responses

RARE = (0.38, 0.25, 0.015, 0.003, 0.001, 0.0015, 0.0003)
OTHER = (0.05, 0.6, 0.3, 0.01, 0.02, 0.1, 0.004)


def random_slates(count: int, num_items: int, seed: int, slots: int = 6) -> torch.Tensor:
    return bits(session_keys(seed, count), slots) % num_items + 1


@pytest.mark.parametrize("rates", [RARE, OTHER])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_behaviour_has_its_rate_within_a_tenth(rates: tuple[float, ...], seed: int) -> None:
    responses = Responses(ResponseConfig(rates=rates, seed=seed))
    user = bits(session_keys(11, 20_000), 1)[:, 0] % responses.config.num_users
    chance, _ = responses.chances(responses.users[user], random_slates(20_000, 1000, 12) - 1)
    torch.testing.assert_close(chance.mean((0, 1)), torch.tensor(rates), rtol=0.1, atol=0)


def test_what_users_do_has_these_rates_too() -> None:
    """3 M slots: 900 hates, whose count has a standard error of 3.3 %."""
    world, counts, rounds, batch = KuaiSim(), torch.zeros(7), 10, 50_000
    for part in range(rounds):
        state = world.reset(session_keys(part, batch))
        _, response = world.step(state, random_slates(batch, 1000, 100 + part))
        counts += response.feedback.sum((0, 1))
    torch.testing.assert_close(counts / (rounds * batch * 6), torch.tensor(RARE), rtol=0.1, atol=0)


def test_draws_follow_the_chances() -> None:
    """One slate, 50,000 users of one kind: each slot and behaviour within 4.5 standard errors."""
    world, batch = KuaiSim(KuaiSimConfig(num_users=1, num_items=20, rates=OTHER)), 50_000
    slates = torch.tensor([[1, 2, 3, 4, 5, 5]]).expand(batch, -1)
    state = world.reset(session_keys(3, batch))
    chance, _ = world.responses.chances(state.interest[:1], slates[:1] - 1)
    share = world.step(state, slates)[1].feedback.mean(0)  # (K, F)
    error = (chance[0] * (1 - chance[0]) / batch).sqrt()
    assert bool(((share - chance[0]).abs() < 4.5 * error + 1e-9).all())


def test_draws_of_slots_and_behaviours_are_independent() -> None:
    world, batch = KuaiSim(replace(SETTINGS["kuaisim-session"], taste=0.0, general=0.0)), 20_000
    feedback = world.step(world.reset(session_keys(4, batch)), random_slates(batch, 1000, 5))[1].feedback
    correlation = torch.corrcoef(feedback.flatten(1).T) - torch.eye(42)
    assert float(correlation.abs().max()) < 5 / batch**0.5


def test_a_double_squash_leaves_no_chance_outside_of_half_and_sigmoid_of_one() -> None:
    extreme = Responses(ResponseConfig(squash="double", rates=None, rho=0.0, taste=20.0, general=20.0))
    chance = extreme.every(extreme.users[:50])
    low, high = 0.5, torch.tensor(1.0).sigmoid().item()
    assert high == pytest.approx(0.731, abs=1e-3)
    assert float(chance.min()) == pytest.approx(low, abs=1e-6)  # reached, and not left
    assert float(chance.max()) == pytest.approx(high, abs=1e-6)
    shipped = Responses(SETTINGS["kuaisim-session"])
    chance, _ = shipped.chances(shipped.users, random_slates(len(shipped.users), 1000, 6) - 1)
    assert low - 0.2 / 64 < float(chance.min()) < float(chance.max()) < high + 0.2 / 64
    assert float(chance[..., -1].mean()) == pytest.approx(0.618, abs=0.01)  # its own log: 62 % of items are hated


def test_likeness_is_the_mean_cosine_to_the_slate() -> None:
    responses = Responses(ResponseConfig())
    index = random_slates(5, 1000, 7) - 1
    interest = responses.users[:5]
    chance, vectors = responses.chances(interest, index)
    torch.testing.assert_close(vectors, responses.items[index])
    cosine = torch.nn.functional.cosine_similarity(vectors.unsqueeze(1), vectors.unsqueeze(2), dim=3)  # (5, K, K)
    alone = responses.every(interest).gather(1, index.unsqueeze(2).expand(-1, -1, 7))
    expected = alone * (1 - 0.2 * cosine.mean(2, keepdim=True).clamp(min=0))
    torch.testing.assert_close(chance, expected)
    same, _ = responses.chances(interest, index[:, :1].expand(-1, 6))
    torch.testing.assert_close(same, (0.8 * alone[:, :1]).expand(-1, 6, -1))


def test_a_varied_slate_earns_more_than_the_likeliest_items() -> None:
    responses = Responses(ResponseConfig())
    interest = responses.users[:200]
    value = responses.every(interest)[..., CLICK]
    earned = []
    for ranking in (value, responses.varied(value)):
        chance, _ = responses.chances(interest, ranking.topk(6, dim=1).indices)
        earned.append(float(chance[..., CLICK].mean()))
    assert earned[1] > 1.01 * earned[0]


def test_interest_moves_towards_what_is_clicked_and_stays_without_clicks() -> None:
    responses = Responses(ResponseConfig())
    interest, index = responses.users[:300], random_slates(300, 1000, 8) - 1
    vectors = responses.items[index]
    clicked = torch.zeros(300, 6)
    torch.testing.assert_close(responses.moved(interest, vectors, clicked), interest)
    clicked[:, 2] = 1
    moved = responses.moved(interest, vectors, clicked)
    before, after = (interest * vectors[:, 2]).sum(1), (moved * vectors[:, 2]).sum(1)
    assert bool((after > before - 1e-6).all())
    assert float((after - before).mean()) > 0
    torch.testing.assert_close(moved.norm(dim=1), torch.ones(300))


def test_fusing_seven_weights_is_a_ranking_by_the_weighted_chances() -> None:
    world = KuaiSim(SETTINGS["kuaisim-return"])
    state = world.reset(session_keys(0, 9))
    weights = torch.linspace(-1, 1, 9 * 7).view(9, 7)
    expected = (world.truth(state)["chance"] * weights.unsqueeze(1)).sum(2)
    torch.testing.assert_close(world.fused(state, weights), expected)
    torch.testing.assert_close(world.fused(state, torch.eye(7)[CLICK]), world.truth(state)["chance"][..., CLICK])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_items": 0}, "num_items is 0"),
        ({"taste": -1.0}, "taste is -1.0"),
        ({"rho": 1.5}, "rho is 1.5"),
        ({"squash": "triple"}, "squash is 'triple'"),
        ({"squash": "double"}, "a double squash cannot be calibrated"),
        ({"rates": (0.1, 0.2)}, "expected 7 values"),
        ({"rates": (*RARE[:-1], 0.0)}, "between 0 and 0.8"),
    ],
)
def test_configs_that_make_no_world_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResponseConfig(**change)


def test_there_are_seven_behaviours_in_the_published_order() -> None:
    assert BEHAVIOURS == ("is_click", "long_view", "is_like", "is_comment", "is_forward", "is_follow", "is_hate")
    assert [kind.name for kind in Responses.kinds] == list(BEHAVIOURS)
