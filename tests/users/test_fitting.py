"""Fitting finds what made the data, calibration undoes a known distortion, fidelity raises its alarms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch

from recgym.backbones.backbone import BackboneConfig, make_backbone
from recgym.checks import check_user_model
from recgym.logs import splits
from recgym.logs.log import InteractionLog
from recgym.logs.pivot import build_sequences
from recgym.logs.sequences import Sequences
from recgym.random import session_keys
from recgym.types import DoubleArray
from recgym.users import recent as memory
from recgym.users.calibration import Scores, fit_amount, fit_binary, marginal_probability
from recgym.users.config import UserConfig
from recgym.users.fidelity import fidelity, reliability
from recgym.users.fitting import fit_users
from recgym.users.heads import Heads, HeadShape
from recgym.users.heldout import auc
from recgym.users.learned import LearnedUsers
from recgym.users.slates import read_slates, topics_of

ITEMS = 6
CLICK = np.array([0.8, 0.6, 0.4, 0.2, 0.1, 0.05])
"""Chance of a click on each item; leaving is three times as likely after none."""


def made_log(*, exposures: bool, sessions: int = 2500) -> InteractionLog:
    """Sessions of users without taste, from the chances above."""
    rng = np.random.default_rng(0)
    rows: list[tuple[str, str, int, str, float]] = []
    for session in range(sessions):
        user, time = f"u{session % 70:02d}", session * 10_000
        while True:
            item = int(rng.integers(ITEMS))
            click = rng.random() < CLICK[item]
            time += 5
            if exposures:
                rows.append((user, f"i{item}", time, "view", 1.0))
            if click:
                rows.append((user, f"i{item}", time, "click", 1.0))
            if rng.random() < (0.1 if click else 0.3):
                break
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "behaviour", "value"], orient="row")
    return InteractionLog(events=frame, exposures=exposures)


class Fitted(NamedTuple):
    sequences: Sequences
    roles: splits.Roles
    config: UserConfig
    users: LearnedUsers


def fitted(exposures: bool) -> Fitted:
    sequences = build_sequences(made_log(exposures=exposures))
    roles = splits.temporal(sequences)
    backbone = make_backbone(BackboneConfig(width=8, layers=1, length=8), ITEMS, sequences.feedback_scale)
    config = UserConfig(
        width=16,
        leave_width=8,
        item_width=4,
        epochs=30,
        batch_size=128,
        learning_rate=5e-3,
        max_starts=100,
        item_decay=0.0,
    )
    return Fitted(sequences, roles, config, fit_users(sequences, roles, backbone, config))


@pytest.fixture(scope="module")
def shown() -> Fitted:
    return fitted(True)


@pytest.fixture(scope="module")
def consumed() -> Fitted:
    return fitted(False)


def test_chances_of_items_and_of_leaving_are_found(shown: Fitted) -> None:
    state = shown.users.reset(session_keys(0, 500))
    click = shown.users.truth(state)["click"].mean(0).numpy()
    np.testing.assert_allclose(click, CLICK, atol=0.08)
    slates = torch.full((500, 1), 1)
    _, response = shown.users.step(state, slates)
    clicked = response.feedback[:, 0, 0] > 0
    assert 0.02 < float(response.leaves[clicked].float().mean()) < 0.2
    state = shown.users.reset(session_keys(1, 2000))
    _, response = shown.users.step(state, torch.full((2000, 1), 6))
    ignored = response.feedback[:, 0, 0] == 0
    assert abs(float(response.leaves[ignored].float().mean()) - 0.3) < 0.07


def test_fitted_users_hold_the_contract(shown: Fitted, consumed: Fitted) -> None:
    check_user_model(shown.users)
    check_user_model(consumed.users)


def test_fitting_is_a_function_of_its_arguments(shown: Fitted) -> None:
    again = fit_users(shown.sequences, shown.roles, shown.users.backbone, shown.config)
    for name, tensor in shown.users.heads.state_dict().items():
        assert torch.equal(again.heads.state_dict()[name], tensor), name


def test_without_exposures_the_base_rate_is_the_stated_one(consumed: Fitted) -> None:
    assert consumed.sequences.kinds[0].name == "consume"
    state = consumed.users.reset(session_keys(0, 300))
    chance = consumed.users.truth(state)["consume"].mean(0).numpy()
    popular = CLICK / CLICK.sum()
    drawn = 0.5 * popular + 0.5 / ITEMS  # the negatives' distribution
    assert abs(float((drawn * chance).sum()) - consumed.config.base_rate) < 0.03
    assert chance[0] > 2 * chance[5]


def test_fidelity_judges_held_out_sessions(shown: Fitted, consumed: Fitted) -> None:
    found = fidelity(shown.users, shown.sequences, shown.roles, shown.config)
    assert found["kinds"]["click"]["auc"] > 0.7
    assert found["kinds"]["click"]["ece"] < 0.1
    assert found["mean_length"]["simulated"] == pytest.approx(found["mean_length"]["logged"], rel=0.2)
    assert sum(found["lengths"]["logged"]) == pytest.approx(250, rel=0.2)
    assert any("base" in note or "chance 0.1" in note for note in fidelity(*_asked(consumed))["notes"])


def test_broken_users_raise_alarms(shown: Fitted) -> None:
    heads = shown.users.heads
    kept = heads.intercept.clone()
    heads.intercept += 1.5
    try:
        found = fidelity(shown.users, shown.sequences, shown.roles, shown.config)
    finally:
        heads.intercept.copy_(kept)
    assert any("'click' are off" in alarm for alarm in found["alarms"])
    assert any("Simulated sessions last" in alarm for alarm in found["alarms"])


def _asked(one: Fitted) -> tuple[LearnedUsers, Sequences, splits.Roles, UserConfig]:
    return one.users, one.sequences, one.roles, one.config


def test_slates_carry_what_stood_before_each_step(shown: Fitted) -> None:
    sequences = shown.sequences
    slates = read_slates(shown.users.backbone, sequences, np.array([2, 5]), censor_seconds=0)
    steps = np.concatenate([np.arange(*sequences.session_bounds[s : s + 2]) for s in (2, 5)])
    np.testing.assert_array_equal(slates.item.numpy(), sequences.item[steps])
    assert slates.leaves.tolist() == [float(step + 1 in sequences.session_bounds) for step in steps]
    now = memory.fresh(1)
    topics = topics_of(sequences)
    for row, step in enumerate(steps[: len(range(*sequences.session_bounds[2:4]))]):
        assert torch.equal(slates.recent.topics[row], now.topics[0])
        assert float(slates.recent.depth[row]) == float(now.depth[0])
        item = torch.tensor([[int(topics[int(sequences.item[step])])]])
        now = memory.remember(now, item, torch.tensor([[float(sequences.feedback[step, 0])]]))


def test_calibration_undoes_a_known_distortion() -> None:
    rng = np.random.default_rng(0)
    logit = torch.from_numpy(rng.normal(-1, 1.5, 20_000))
    happened = torch.from_numpy((rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logit.numpy() + 1)))).astype(np.float32))
    scores = Scores(logit.float(), happened, torch.ones(20_000), torch.arange(20_000) // 10)
    found = fit_binary(scores, random_effects=True)
    np.testing.assert_allclose(found, [0.5, 1, 0], atol=0.08)
    nothing = fit_binary(replace_happened(scores, 0.0), random_effects=True)
    assert nothing == (1.0, 0.0, 0.0)


def replace_happened(scores: Scores, value: float) -> Scores:
    return scores._replace(happened=torch.full_like(scores.happened, value))


def test_session_effects_are_found_where_they_are() -> None:
    rng = np.random.default_rng(1)
    session = np.arange(24_000) // 12
    logit = rng.normal(-0.5, 1, 24_000)
    shifted = logit + 1.2 * rng.normal(size=2000)[session]
    happened = (rng.random(24_000) < 1 / (1 + np.exp(-shifted))).astype(np.float32)
    parts = [torch.from_numpy(part).float() for part in (logit, happened, np.ones(24_000))]
    scores = Scores(parts[0], parts[1], parts[2], torch.from_numpy(session))
    found = fit_binary(scores, random_effects=True)
    np.testing.assert_allclose(found, [1, 0, 1.2], atol=0.12)
    chance = marginal_probability(scores.logit * found.slope + found.intercept, found.effect_scale)
    assert abs(float(chance.mean()) - happened.mean()) < 0.01


def test_amounts_are_fitted_by_least_squares() -> None:
    rng = np.random.default_rng(2)
    predicted = torch.from_numpy(rng.normal(size=5000)).float()
    observed = 0.7 * predicted + 0.2 + 0.5 * torch.from_numpy(rng.normal(size=5000)).float()
    found, residual = fit_amount(predicted, observed)
    np.testing.assert_allclose([found.slope, found.intercept, residual], [0.7, 0.2, 0.5], atol=0.03)


def test_auc_and_reliability_by_hand() -> None:
    chance: DoubleArray = np.array([0.1, 0.4, 0.4, 0.9])
    assert auc(chance, np.array([False, False, True, True])) == pytest.approx(3.5 / 4)
    assert np.isnan(auc(chance, np.array([True] * 4)))
    curve = reliability(chance, np.array([0.0, 0, 1, 1]), np.ones(4), bins=2)
    assert curve == {
        "predicted": [pytest.approx(0.25), pytest.approx(0.65)], "observed": [0.0, 1.0], "count": [2.0, 2.0],
    }  # fmt: skip


def test_memory_features_by_hand() -> None:
    now = memory.fresh(1)
    for topic, positive in ((1, 1.0), (2, 0.0), (1, 0.0)):
        now = memory.remember(now, torch.tensor([[topic]]), torch.tensor([[positive]]))
    found = memory.features(now, torch.tensor([[1, 3]]), memory.trace_weights())[0]
    weights = memory.trace_weights()
    expected = weights[[-3, -1]].sum(0)
    torch.testing.assert_close(found[0, :2], expected)
    torch.testing.assert_close(found[0, 2:4], weights[-3])
    assert found[1, :4].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(found[:, 6], torch.full((2,), np.log(4.0), dtype=torch.float32))
    met, liked = torch.tensor([[-1, 1, 2, 1]]), torch.tensor([[0.0, 1, 0, 0]])
    habit = memory.habits(met, liked, torch.tensor([[1]]))[0, 0]
    rate = 1.5 / 6
    shrunk = (1 + 3 * rate) / 5
    expected = torch.tensor([2 / 6, np.log(shrunk / (1 - shrunk)), np.log(rate / (1 - rate))], dtype=torch.float32)
    torch.testing.assert_close(habit, expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 0), ("item_decay", -1.0), ("base_rate", 1.0), ("state_dropout", 1.0), ("repeat_threshold", 2.0)],
)
def test_impossible_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        UserConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.usefixtures("several_threads")
def test_the_slope_of_item_vectors_is_the_same_each_time_on_several_threads() -> None:
    heads = Heads(HeadShape(num_items=40, state_width=4, num_kinds=1))
    items, weight, found = torch.randint(0, 41, (20_000,)), torch.randn(20_000, 1), set()
    for _ in range(10):
        heads.zero_grad()
        (weight * heads.rows(items, torch.ones(20_000, 4), torch.zeros(20_000))).sum().backward()
        assert heads.item_embedding.grad is not None
        found.add(heads.item_embedding.grad.numpy().tobytes())
    assert len(found) == 1
