"""Ensembles, what is known before a session, and weights of steps: each against a case with a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recgym.backbones.backbone import BackboneConfig, make_backbone
from recgym.env.session import SessionConfig, Sessions
from recgym.logs.profiles import profile_of
from recgym.logs.sequences import Starts
from recgym.random import session_keys
from recgym.types import FeedbackKind
from recgym.users.calibration import fit_amount
from recgym.users.config import UserConfig
from recgym.users.context import CLOCK_WIDTH, clock_features, context_of
from recgym.users.fitting import fit_users
from recgym.users.heads import Heads
from recgym.users.learned import LearnedState, LearnedUsers
from recgym.users.slates import read_slates
from recgym.users.storage import load_users, save_users
from tests.users.small import small_users
from tests.users.test_fitting import fitted


def with_members(shift: float) -> LearnedUsers:
    """Small users whose second opinion differs in the click's intercept alone."""
    users = small_users()
    other = Heads(users.heads.shape)
    other.load_state_dict(users.heads.state_dict())
    other.intercept[0] += shift
    return LearnedUsers(
        backbone=users.backbone, heads=users.heads, members=(other,), topics=users.topics, kinds=users.kinds,
        exposures=True, repeats=True, ignored_hazard=1.0, starts=users.starts,
    )  # fmt: skip


def test_disagreement_is_the_standard_deviation_of_expectations() -> None:
    slates = torch.tensor([[1, 2], [3, 4], [5, 6]])
    same = with_members(0.0)
    assert float(same.disagreement(same.reset(session_keys(0, 3)), slates).abs().max()) < 1e-6
    users = with_members(1.0)
    state = users.reset(session_keys(0, 3))
    found = users.disagreement(state, slates)[:, :, 0]
    quiet = replace_effects(users, state)
    chance = users.truth(quiet)["click"].gather(1, slates - 1)
    slots = torch.sigmoid(
        torch.logit(chance) + users.heads.slope[0] * (users.heads.slot[:, 0] - users.heads.slot[0, 0])
    )
    other = torch.sigmoid(torch.logit(slots) + 1)
    torch.testing.assert_close(found, (other - slots) / 2**0.5, atol=1e-5, rtol=1e-4)


def test_opinions_are_what_users_do_on_average() -> None:
    """On a short grid, on a long one, and where amounts are not rounded; stars if rated, and stars if shown."""
    for amount in ([0.7, 0.6, 1.0, 5.0, 1.0], [3.0, 0.5, 1.0, 100.0, 1.0], [1.0, 0.8, 0.5, 4.0, 0.0]):
        users = small_users()
        users.heads.amount[:, 1] = torch.tensor(amount)
        users.heads.residual[1] = 0.7
        users.heads.effect_scale.zero_()
        users = LearnedUsers(
            backbone=users.backbone, heads=users.heads, topics=users.topics, kinds=users.kinds, exposures=True,
            repeats=True, ignored_hazard=1.0, starts=users.starts,
        )  # fmt: skip
        slates = torch.tensor([[3]]).expand(40_000, 1)
        state = users.begin_at(session_keys(0, 40_000), torch.full((40_000,), 5))
        if_shown, if_clicked = (users.opinions(state, slates, given=given)[0, 0, 0] for given in (False, True))
        _, response = users.step(state, slates)
        met = response.feedback[:, 0]  # (B, F)
        clicked = met[met[:, 0] > 0]
        for expected, seen in ((if_shown, met), (if_clicked[1:], clicked[:, 1:])):
            error = 4.5 * seen.std(0) / len(seen) ** 0.5
            assert ((expected - seen.mean(0)).abs() < error).all(), (amount, expected, seen.mean(0))
        torch.testing.assert_close(if_shown, if_clicked * torch.tensor([1.0, *if_clicked[:1].expand(2)]))


def test_sessions_begin_where_they_are_told() -> None:
    users = small_users()
    keys, rows = session_keys(0, 4), torch.tensor([8, 0, 0, 3])
    state = users.begin_at(keys, rows)
    assert torch.equal(users.history(state)[0], users.starts.items[rows])
    assert torch.equal(state.user, users.starts.user[rows])
    assert torch.equal(users.reset(keys).effects, users.begin_at(keys, users.reset(keys).start).effects)


def replace_effects(users: LearnedUsers, state: LearnedState) -> LearnedState:
    return state._replace(effects=users.heads.intercept.expand(3, -1).clone())


def test_pessimism_takes_disagreement_from_the_reward_and_needs_an_ensemble() -> None:
    users = with_members(1.0)
    plain, wary = (Sessions(users, SessionConfig(pessimism=weight)) for weight in (0.0, 2.0))
    keys, slate = session_keys(0, 6), torch.full((6, 1), 3)
    unsure = users.disagreement(users.reset(keys), slate)[:, 0, 0]
    _, one = plain.step(plain.reset(keys), slate)
    _, other = wary.step(wary.reset(keys), slate)
    torch.testing.assert_close(one.reward - other.reward, 2 * unsure)
    torch.testing.assert_close(other.terms["doubt"], -2 * unsure)
    assert torch.equal(one.response.feedback, other.response.feedback)
    with pytest.raises(ValueError, match="pessimism needs users with an ensemble"):
        Sessions(small_users(), SessionConfig(pessimism=1.0))
    with pytest.raises(ValueError, match="pessimism is -1"):
        SessionConfig(pessimism=-1)


def test_everything_learned_reads_back(tmp_path: object) -> None:
    users = load_users("sample")
    assert users.members and users.returning is not None
    save_users(users, tmp_path)  # type: ignore[arg-type]
    again = load_users(tmp_path)  # type: ignore[arg-type]
    keys, slate = session_keys(0, 8), torch.full((8, 1), 4)
    first, second = users.reset(keys), again.reset(keys)
    torch.testing.assert_close(users.disagreement(first, slate), again.disagreement(second, slate))
    torch.testing.assert_close(users.away(first), again.away(second))
    assert torch.equal(first.clock, second.clock) and float(first.clock.min()) > 1.7e9


def test_the_clock_knows_hour_and_weekday() -> None:
    monday_6h = 1_748_844_000  # 2 June 2025, 06:00 UTC
    found = clock_features(torch.tensor([monday_6h, monday_6h + 6 * 86_400]))
    torch.testing.assert_close(found[0, :4], torch.tensor([1.0, 0.0, 0.0, -1.0]), atol=1e-4, rtol=0)
    assert found[:, 4:].argmax(1).tolist() == [0, 6]
    assert context_of(torch.zeros(2), torch.ones(2, 3)).shape == (2, CLOCK_WIDTH + 3)


def test_profiles_describe_and_do_not_identify() -> None:
    users = [f"u{k}" for k in range(40)]
    jobs, ages, codes = zip(*((["a", "b", None][k % 3], str(20 + k), f"z{k}") for k in range(39)), strict=True)
    table = pl.DataFrame({"user": users[:39], "age": ages, "job": jobs, "zip": codes})
    found = profile_of(table, users)
    assert found.names == ("age", "job=a", "job=b")
    assert found.left_out == ("zip",)
    assert found.values.shape == (40, 3)
    assert found.values[39].tolist() == [0, 0, 0]
    assert found.values[:39, 0].std() == pytest.approx(1, abs=1e-4)
    assert found.values[:3, 1].tolist() == [1, 0, 0]


def test_what_the_profile_says_is_learned_and_simulated() -> None:
    """Users of profile 1 click far more often; with an empty history only the profile can tell `reset` so."""
    shown = fitted(exposures=True)
    sequences = shown.sequences
    group = (np.arange(sequences.num_users) % 2).astype(np.float32)
    rng = np.random.default_rng(0)
    rate = np.where(group[sequences.user_of_step] > 0, 0.7, 0.2)
    happens = (rng.random(sequences.num_steps) < rate).astype(np.float32)
    told = replace(sequences, profile=group[:, None], profile_names=("group",), feedback=happens[:, None])
    users = fit_users(told, shown.roles, shown.users.backbone, shown.config)
    starts = users.starts
    assert starts.profile is not None
    rates = []
    for value in (0.0, 1.0):
        rows = torch.nonzero(starts.profile[:, 0] == value)[:, 0]
        parts = (starts.user, starts.items * 0, starts.feedback * 0, starts.time, starts.profile)
        only = Starts(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]
        group_users = LearnedUsers(
            backbone=users.backbone, heads=users.heads, topics=users.topics, kinds=users.kinds, exposures=True,
            repeats=True, ignored_hazard=1.0, starts=only,
        )  # fmt: skip
        _, response = group_users.step(group_users.reset(session_keys(0, 4000)), torch.full((4000, 1), 2))
        rates.append(float(response.feedback.mean()))
    assert rates[0] < 0.35 and rates[1] > 0.5


def test_inverse_propensities_weigh_what_was_rarely_shown() -> None:
    shown = fitted(exposures=True)
    sequences = shown.sequences
    chance = np.where(sequences.item == 1, 0.5, 0.1)
    told = replace(sequences, propensity=chance)
    slates = read_slates(shown.users.backbone, told, np.arange(50), censor_seconds=0, propensity_clip=100)
    assert float(slates.weight.mean()) == pytest.approx(1)
    popular = slates.item == 1
    assert float(slates.weight[~popular][0] / slates.weight[popular][0]) == pytest.approx(5, rel=1e-4)
    clipped = read_slates(shown.users.backbone, told, np.arange(50), censor_seconds=0, propensity_clip=0.5)
    assert float(clipped.weight[~popular][0] / clipped.weight[popular][0]) == pytest.approx(1.5, rel=1e-4)
    users = fit_users(told, shown.roles, shown.users.backbone, replace(shown.config, propensity_clip=5.0, ensemble=0))
    assert not users.members


def test_amounts_of_logs_without_exposures_are_weighed_too() -> None:
    """Ones are rated nine times as often as fives: equally often by inverse propensity, so that the mean is 3."""
    rated = fitted(exposures=False)
    fives = np.random.default_rng(0).random(rated.sequences.num_steps) < 0.1
    stars = np.where(fives, 5.0, 1.0).astype(np.float32)
    kinds = (FeedbackKind(name="consume"), FeedbackKind(name="rating", type="real", given="consume", unit="stars"))
    told = replace(
        rated.sequences, kinds=kinds, feedback=np.stack([np.ones_like(stars), stars], 1),
        propensity=np.where(fives, 0.01, 0.09),
    )  # fmt: skip
    backbone = make_backbone(BackboneConfig(width=8, layers=1, length=10), told.num_items, told.feedback_scale)
    middle = []
    for clip in (0.0, 100.0):
        users = fit_users(told, rated.roles, backbone, replace(rated.config, propensity_clip=clip, ensemble=0))
        slates = torch.arange(1, 4).expand(200, 3)
        found = users.opinions(users.reset(session_keys(0, 200)), slates, given=True)
        assert found.shape == (1, 200, 3, 2)
        middle.append(float(found[0, :, :, 1].mean()))
    assert middle[0] == pytest.approx(1.4, abs=0.3) and middle[1] == pytest.approx(3, abs=0.5)


def test_weighted_amounts_are_fitted_as_repeated_ones() -> None:
    predicted, observed = torch.tensor([0.0, 1.0, 2.0, 4.0]), torch.tensor([1.0, 0.0, 3.0, 5.0])
    times = torch.tensor([1, 3, 2, 2])
    weighed, _ = fit_amount(predicted, observed, times.float())
    repeated, _ = fit_amount(predicted.repeat_interleave(times), observed.repeat_interleave(times))
    assert weighed == pytest.approx(repeated)


def test_wrong_settings_are_named() -> None:
    for name in ("ensemble", "propensity_clip"):
        with pytest.raises(ValueError, match=f"{name} is -1"):
            UserConfig(**{name: -1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="churn_days is 0"):
        UserConfig(churn_days=0)


def test_profiles_take_what_tables_hold() -> None:
    """Users as numbers, amounts that are none, and a column that says nothing of anybody."""
    table = pl.DataFrame(
        {"user": list(range(20)), "income": [float("inf"), float("nan"), None, *range(17)], "nothing": [None] * 20}
    )
    found = profile_of(table, [str(user) for user in range(21)])
    assert found.names == ("income",)
    assert found.left_out == ("nothing",)
    assert found.values[[0, 1, 2, 20], 0].tolist() == [0, 0, 0, 0]
    assert found.values[3:20, 0].std() == pytest.approx(1, abs=1e-4)
    assert profile_of(table, []).values.shape[0] == 0
