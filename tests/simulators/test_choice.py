"""Choice models against enumeration, and their draws against their chances."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recgym.random import session_keys, uniform
from simulators.choice import cascade, mixture, multinomial_logit, pick, position_based, proportional

CHANCES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=5)


def test_proportional_and_logit_in_closed_form() -> None:
    assert proportional(torch.tensor([[1.0, 3.0]]), 4.0)[0].tolist() == [0.125, 0.375, 0.5]
    expected = [math.exp(v) / (math.exp(1) + math.exp(2) + math.exp(0.5)) for v in (1.0, 2.0, 0.5)]
    torch.testing.assert_close(multinomial_logit(torch.tensor([[1.0, 2.0]]), 0.5)[0], torch.tensor(expected))


@given(CHANCES, st.floats(0, 1, width=32))
def test_cascade_is_the_first_success_in_an_enumeration(attraction: list[float], attention: float) -> None:
    found = cascade(torch.tensor([attraction]), attention)[0]
    expected = [0.0] * (len(attraction) + 1)
    for outcome in itertools.product([0, 1], repeat=len(attraction)):
        chance = math.prod(
            attention * c if happened else 1 - attention * c for c, happened in zip(attraction, outcome, strict=True)
        )
        expected[outcome.index(1) if 1 in outcome else len(attraction)] += chance
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)


@given(CHANCES)
def test_every_choice_sums_to_one_and_mixtures_do_too(attraction: list[float]) -> None:
    weight = torch.tensor([attraction])
    models = [proportional(weight, 1.0), multinomial_logit(weight, 0.0), cascade(weight)]
    for model in (*models, mixture(models, [0.2, 0.3, 0.5])):
        assert float(model.sum()) == pytest.approx(1, abs=1e-5)
        assert bool((model >= -1e-7).all())


def test_position_based_multiplies() -> None:
    found = position_based(torch.tensor([[0.5, 0.8]]), torch.tensor([1.0, 0.25]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.2]]))


def test_draws_follow_the_chances() -> None:
    """20,000 draws; each count within 4.5 standard errors: a false alarm in 40,000 runs, and the keys are fixed."""
    chance = torch.tensor([[0.1, 0.25, 0.05, 0.6]])
    picked = pick(chance.expand(20_000, -1), uniform(session_keys(5, 20_000), 1)[:, 0])
    share = torch.bincount(picked, minlength=4) / 20_000
    error = (chance[0] * (1 - chance[0]) / 20_000).sqrt()
    assert bool(((share - chance[0]).abs() < 4.5 * error).all())


def test_clicks_of_interest_evolution_follow_the_proportional_model() -> None:
    from simulators import make_world

    world = make_world("interest-evolution")
    state = world.reset(session_keys(2, 1)[:1].expand(1))
    many = type(state)(*(None if part is None else part.expand(20_000, *part.shape[1:]).clone() for part in state))
    many = many._replace(keys=session_keys(9, 20_000))
    chance = proportional(world.truth(state)["interest"][:, :3] + 1, 2.0)[0]
    _, response = world.step(many, torch.tensor([[1, 2, 3]]).expand(20_000, -1))
    share = response.feedback[:, :, 0].mean(0)
    error = (chance * (1 - chance) / 20_000).sqrt()[:3]
    assert bool(((share - chance[:3]).abs() < 4.5 * error).all())


def test_wrong_chances_are_refused() -> None:
    with pytest.raises(ValueError, match="no_choice is 0"):
        proportional(torch.ones(1, 2), 0)
    with pytest.raises(ValueError, match="a weight is -1"):
        proportional(-torch.ones(1, 2), 1)
    with pytest.raises(ValueError, match=r"chances reach from 0\.5 to 1\.5"):
        cascade(torch.tensor([[0.5, 1.5]]))
    with pytest.raises(ValueError, match=r"attention is 1\.5"):
        cascade(torch.ones(1, 2), 1.5)
    with pytest.raises(ValueError, match="expected one each"):
        mixture([torch.ones(1, 2)], [0.5])
