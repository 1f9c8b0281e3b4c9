"""KuaiSim's temper and return against closed forms, its published degeneracy, and what the repairs bring back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from recgym.checks import check_user_model
from recgym.env.session import SessionConfig, Sessions
from recgym.random import bits, session_keys
from simulators.patience import SETTINGS, KuaiSim, days_away
from simulators.patience_settings import KuaiSimConfig
from simulators.responses import CLICK

SHIPPED = SETTINGS["kuaisim-session"]


class Played(NamedTuple):
    clicks: Tensor  # (B,) of the whole session
    depth: Tensor  # (B,)
    days: Tensor  # (B,) mean absence
    prompt: Tensor  # (B,)


def play(world: KuaiSim, scorer: Callable[[Any], Tensor] | None, sessions: int, *, steps: int = 200) -> Played:
    """Sessions of the top 6 of a scorer, or of random slates."""
    state = world.reset(session_keys(0, sessions))
    here = torch.ones(sessions, dtype=torch.bool)
    clicks, depth, days, visits, prompt = torch.zeros(5, sessions)
    for step in range(steps):
        if scorer is None:
            slates = bits(session_keys(1000 + step, sessions), 6) % world.num_items + 1
        else:
            slates = scorer(state).topk(6, dim=1).indices + 1
        state, response = world.step(state, slates)
        clicks += here * response.feedback[..., CLICK].sum(1)
        prompt += here * response.feedback[..., 7:].sum((1, 2))
        depth += here
        ended = here & ~response.gap.isnan()
        days += response.gap.nan_to_num(0.0) * ended
        visits += ended
        here &= ~response.leaves
    return Played(clicks, depth, days / visits.clamp(min=1), prompt)


def expected_depth(click: float, slots: int = 6, temper: int = 20) -> float:
    """Mean depth of the published session, by dynamic programming over temper in units of 1 / slots."""
    chance = [math.comb(slots, c) * click**c * (1 - click) ** (slots - c) for c in range(slots + 1)]
    mean = [0.0] * (slots * temper + 1)
    for left in range(slots, slots * temper + 1):
        mean[left] = 1 + sum(p * mean[max(left - 2 * slots + c, 0)] for c, p in enumerate(chance))
    return mean[slots * temper]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("length", [0, 10])
def test_the_contract_holds(name: str, length: int) -> None:
    world = KuaiSim(replace(SETTINGS[name], num_items=60, length=length))
    check_user_model(world, slate_size=6, steps=12)
    check_user_model(world, slate_size=1, batch=8)


def test_published_sessions_last_10_to_20_requests_whatever_happens() -> None:
    certain = KuaiSim(replace(SHIPPED, squash="single", rho=0.0))
    for intercept, depth in ((-60.0, 10), (60.0, 20)):  # never a click, and always one
        certain.responses.intercept[CLICK] = intercept
        assert bool((play(certain, None, 5, steps=25).depth == depth).all())
    world = KuaiSim(SHIPPED)
    for scorer in (None, *world.bands().values()):
        found = play(world, scorer, 300, steps=25).depth
        assert 10 <= float(found.min()) <= float(found.max()) <= 20


def test_floor_and_ceiling_of_the_published_depth() -> None:
    """13.17 and 15.49 were measured on the shipped code, where rounding ends sessions whose temper is exactly 1."""
    assert expected_depth(0.5) == pytest.approx(13.229, abs=1e-3)
    assert expected_depth(1 / (1 + math.exp(-1))) == pytest.approx(15.549, abs=1e-3)
    for click, figure in ((0.5, 13.17), (1 / (1 + math.exp(-1)), 15.49)):
        assert expected_depth(click) == pytest.approx(figure, abs=0.07)


def test_depth_of_identical_users_follows_the_closed_form() -> None:
    world = KuaiSim(replace(SHIPPED, taste=0.0, general=0.0, rho=0.0))
    depth = play(world, None, 4000, steps=25).depth
    error = float(depth.std()) / 4000**0.5
    assert float(depth.mean()) == pytest.approx(expected_depth(1 / (1 + math.exp(-0.5))), abs=4 * error)


def test_published_session_band() -> None:
    """Random: 14.4 to 14.5, an untrained user; nobody is above the ceiling, and the myopic ranker is the best known."""
    world = KuaiSim(SHIPPED)
    bands = world.bands()
    found = {name: play(world, scorer, 400, steps=25) for name, scorer in {"random": None, **bands}.items()}
    assert float(found["random"].depth.mean()) == pytest.approx(14.4, abs=0.2)
    assert 14.98 < float(found["best known"].depth.mean()) < 15.55  # the best published agent, and the ceiling
    torch.testing.assert_close(found["best known"].clicks, found["myopic"].clicks)


def test_in_the_repaired_session_depth_depends_on_the_action_and_planning_pays() -> None:
    world = KuaiSim()
    bands = world.bands()
    found = {name: play(world, scorer, 200) for name, scorer in {"random": None, **bands}.items()}
    clicks = {name: float(row.clicks.mean()) for name, row in found.items()}
    depth = {name: float(row.depth.mean()) for name, row in found.items()}
    assert depth["myopic"] < depth["random"] < 0.6 * depth["best known"]
    assert clicks["random"] < clicks["myopic"] < 0.9 * clicks["rule"]
    assert clicks["best known"] > 1.05 * clicks["rule"]


def test_temper_falls_by_the_formula() -> None:
    world = KuaiSim()
    state = world.reset(session_keys(0, 500))
    before = state.temper
    after, response = world.step(state, bits(session_keys(1, 500), 6) % 1000 + 1)
    spared = response.feedback.mean(1) @ torch.tensor(world.config.temper_weights)
    torch.testing.assert_close(before - after.temper, (1.5 - spared).clamp(0.5, 3.0))


def test_nobody_leaves_at_the_request_level() -> None:
    for name in ("kuaisim-request", "kuaisim-request-calibrated"):
        assert bool((play(KuaiSim(SETTINGS[name]), None, 50, steps=40).depth == 40).all())


def test_days_follow_the_truncated_geometric_distribution() -> None:
    """A fine grid of draws instead of random ones: shares are exact to a grid step."""
    draw = (torch.arange(100_000) + 0.5) / 100_000
    for chance in (0.001, 0.2, 0.45, 0.999):
        weight = torch.tensor([chance * (1 - chance) ** day for day in range(10)])
        days = days_away(torch.full_like(draw, chance), draw)
        share = torch.bincount(days.to(torch.int64), minlength=11)[1:] / len(draw)
        torch.testing.assert_close(share, weight / weight.sum(), atol=1e-4, rtol=0)


def test_the_last_draw_is_the_longest_absence() -> None:
    ends = days_away(torch.tensor([0.001, 0.999, 0.4, 0.4]), torch.tensor([1.0, 1.0, 0.0, 1.0]))
    assert ends.tolist() == [10, 10, 1, 10]


def test_sessions_of_the_return_end_together_and_the_user_comes_back() -> None:
    world = KuaiSim(replace(SETTINGS["kuaisim-return"], length=40))
    state = world.reset(session_keys(0, 40))
    for step in range(1, 36):
        before = state.interest.clone()
        state, response = world.step(state, bits(session_keys(step, 40), 6) % 1000 + 1)
        assert bool((response.gap.isnan() == (step % 5 != 0)).all())
        assert bool((response.leaves == (step >= 30 and step % 5 == 0)).all())
        prompt = response.feedback[:, 0, 7]
        torch.testing.assert_close(prompt, (1 - response.gap / 10).nan_to_num(0.0))
        assert bool((response.feedback[:, 1:, 7] == 0).all())
        assert float((state.interest - before).abs().max()) < 0.1  # carries over
        assert int((world.history(state)[0] > 0).sum(1).min()) == min(6 * step, 40)
        assert float(state.temper[0]) == 5 - step % 5


def test_published_return_depends_on_the_last_slate_alone_and_the_repaired_one_on_all() -> None:
    for name, moved in (("kuaisim-return", False), ("kuaisim-return-repaired", True)):
        world = KuaiSim(replace(SETTINGS[name], num_sessions=1, influence=0.0))
        absences, best_known = [], world.bands()["best known"]
        for better in (False, True):
            state = world.reset(session_keys(0, 3000))
            for step in range(5):
                ranking = best_known(state)
                slates = (ranking if better and step < 4 else -ranking).topk(6, dim=1).indices + 1
                state, response = world.step(state, slates)
            absences.append(response.gap)
        assert bool((absences[0] != absences[1]).any()) is moved


def test_a_slate_moves_the_published_return_chance_by_at_most_a_tenth() -> None:
    config = SETTINGS["kuaisim-return"]
    world = KuaiSim(config)
    user, feedback = torch.arange(2000), torch.tensor(config.return_weights)
    best = world.return_chance(user, feedback.clamp(min=0).sum().expand(2000))
    worst = world.return_chance(user, feedback.clamp(max=0).sum().expand(2000))
    assert 0.05 < float((best - worst).max()) <= 0.1


def test_planning_pays_in_the_repaired_return_and_not_in_the_published_one() -> None:
    found = {}
    for name in ("kuaisim-return", "kuaisim-return-repaired"):
        world = KuaiSim(SETTINGS[name])
        bands = world.bands()
        found[name] = {mark: play(world, bands[mark], 300, steps=30) for mark in ("myopic", "best known")}
    shipped, repaired = found.values()
    assert abs(float(shipped["best known"].prompt.mean() / shipped["myopic"].prompt.mean()) - 1) < 0.02
    assert float(repaired["best known"].prompt.mean()) > 1.15 * float(repaired["myopic"].prompt.mean())
    assert float(repaired["best known"].days.mean()) < 0.6 * float(repaired["myopic"].days.mean())


def test_a_platform_meets_it() -> None:
    sessions = Sessions(KuaiSim(), SessionConfig(slate_size=6, max_steps=5, reward={"is_click": 1.0}))
    state = sessions.reset(session_keys(0, 4))
    seen = sessions.observe(state).state
    assert seen is not None
    assert seen.shape == (4, 8 + 7 + 2)
    _, outcome = sessions.step(state, torch.arange(1, 7).expand(4, -1))
    torch.testing.assert_close(outcome.reward, outcome.response.feedback[..., CLICK].sum(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temper": 0.5}, "temper is 0.5"),
        ({"temper_weights": (1.0,)}, "temper_weights is .*expected 7"),
        ({"least": 2.0, "most": 1.0}, "expected 0 <= least <= most"),
        ({"returns": "always"}, "returns is 'always'"),
        ({"return_bias": 1.0}, "return_bias is 1.0"),
        ({"num_sessions": 0}, "num_sessions is 0"),
        ({"length": -1}, "length is -1"),
    ],
)
def test_configs_that_make_no_patience_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KuaiSimConfig(**change)
