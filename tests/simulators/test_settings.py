"""Settings of worlds and platforms: what makes a world runs for a few steps, what makes none is refused by name."""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recgym.env.lifetime import LifetimeConfig, Lifetimes
from recgym.env.session import SessionConfig, Sessions
from recgym.random import session_keys
from simulators import WORLDS, make_world


def config_of(name: str) -> Any:
    module = importlib.import_module(WORLDS[name].entry_point.partition(":")[0])
    return module.SETTINGS[name]


def real(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


SEED, SHARE, BELOW_ONE, SPREAD = st.integers(-5, 2**31), real(0, 1), real(0, 0.999), real(0, 3)
WEIGHT = real(-3, 3)
SHORT = st.integers(0, 6)
RANGES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "storefront": {
        "seed": SEED, "num_items": st.integers(10, 30), "num_users": st.integers(1, 9),
        "num_categories": st.integers(3, 10), "rank": st.integers(1, 4), "length": st.integers(1, 6),
        "boredom_decay": BELOW_ONE, "satisfaction_decay": BELOW_ONE, "boredom_weight": SPREAD,
        "repeat_penalty": SPREAD, "slot_penalty": SPREAD, "patience_spread": SPREAD, "miss_limit": st.integers(1, 9),
        "gap_days": real(0.01, 100), "gap_satisfaction": WEIGHT, "leave_base": real(-9, 9), "click_base": real(-9, 9),
    },
    "interest-evolution": {
        "num_candidates": st.integers(3, 12), "resample": st.booleans(), "seed": SEED,
        "num_topics": st.integers(14, 25), "num_poor_topics": st.integers(0, 14), "quality_spread": SPREAD,
        "budget": real(0.1, 300), "video_minutes": real(0.1, 30), "no_click_cost": real(0.01, 30),
        "quality_return": SPREAD, "interest_step": SHARE,
    },
    "interest-exploration": {
        "num_candidates": st.integers(3, 12), "share_of_kind_0": SHARE, "share_of_topic_0": SHARE,
        "affinity_spread": SPREAD, "quality_spread": SPREAD, "quality": st.tuples(WEIGHT, WEIGHT), "no_click": WEIGHT,
    },
    "long-term-satisfaction": {
        "num_candidates": st.integers(3, 12), "resample": st.booleans(), "seed": SEED, "sensitivity": SPREAD,
        "memory": BELOW_ONE, "engagement_spread": SPREAD, "exposure_spread": SPREAD, "exposure_gain": WEIGHT,
        "session_length": st.integers(1, 5), "kale": WEIGHT, "clickbait": WEIGHT,
    },
    "sardine-single-item-bored-inf": {
        "seed": SEED, "num_items": st.integers(5, 30), "num_topics": st.integers(5, 12),
        "slate_size": st.integers(1, 5), "slope": real(0.1, 100), "offset": real(-1, 1), "examination": real(0.01, 1),
        "positions": st.sampled_from(["top-down", "mixed"]), "boredom": st.sampled_from(["churn", "topic"]),
        "threshold": st.integers(1, 12), "memory": st.integers(1, 12), "window": st.integers(1, 6), "inertia": SHARE,
        "influence": st.sampled_from(["item", "scalar"]), "diversity_threshold": st.integers(1, 5),
        "diversity_penalty": real(1, 9), "full_view": st.booleans(), "length": SHORT,
    },
    "organic-bandit": {
        "num_items": st.integers(8, 30), "num_factors": st.integers(1, 6), "popularity_spread": SPREAD,
        "interest_spread": SPREAD, "interest_step": SPREAD, "num_flips": st.integers(0, 4),
        "to_bandit": real(0.01, 0.5), "to_organic": real(0, 0.3), "leave": real(0.001, 0.3),
        "regret": real(0, 0.3), "length": SHORT, "seed": SEED,
    },
    "satiation": {
        "num_items": st.integers(3, 40), "num_topics": st.integers(4, 12), "factor": SPREAD,
        "decay": st.tuples(BELOW_ONE, BELOW_ONE), "switching": st.tuples(SHARE, SHARE), "satiation_spread": SPREAD,
        "rating_spread": SPREAD, "num_tireless": st.integers(0, 4), "tireless_most": real(0.5, 5.5),
        "clicks": st.booleans(), "length": SHORT, "seed": SEED,
    },
    "quality-drift": {
        "num_items": st.integers(3, 30), "num_topics": st.integers(2, 9), "trash_share": SHARE,
        "quality_spread": SPREAD, "feature_spread": SPREAD, "minutes": real(0.01, 30), "affinity": WEIGHT,
        "interest_step": SPREAD, "interest_limit": real(0.01, 30), "length": SHORT, "seed": SEED,
    },
    "investor": {
        "num_items": st.integers(3, 40), "persistence": st.tuples(BELOW_ONE, BELOW_ONE, BELOW_ONE),
        "taste_spread": SPREAD, "exposure_decay": BELOW_ONE, "trust_decay": BELOW_ONE, "trust_gain": SPREAD,
        "loss_aversion": SPREAD, "trust_most": real(-2.9, 3), "leave": real(-9, 9), "leave_trust": SPREAD,
        "length": SHORT, "seed": SEED,
    },
    "kuaisim-session-repaired": {
        "seed": SEED, "num_items": st.integers(3, 30), "num_users": st.integers(1, 20), "width": st.integers(1, 6),
        "taste": SPREAD, "general": SPREAD, "rho": SHARE, "influence": SPREAD, "slate_size": st.integers(1, 4),
        "temper": st.one_of(real(1, 30), st.just(math.inf)), "cost": real(0, 5), "least": SHARE, "most": real(1, 5),
        "returns": st.sampled_from(["none", "last slate", "whole session"]), "return_bias": real(0.01, 0.99),
        "return_influence": WEIGHT, "personal_spread": SPREAD, "num_sessions": st.integers(1, 4),
        "profile_noise": SPREAD, "length": SHORT,
    },
}  # fmt: skip
"""For each world without files: settings that all make one, in any combination."""
NONSENSE: list[tuple[str, str, Any]] = [
    *((name, size, wrong) for name, size in (
        ("storefront", "num_items"), ("storefront", "num_users"), ("interest-evolution", "num_candidates"),
        ("interest-exploration", "num_candidates"), ("long-term-satisfaction", "num_candidates"),
        ("sardine-single-item-static", "num_items"), ("organic-bandit", "num_items"), ("satiation", "num_items"),
        ("quality-drift", "num_items"), ("investor", "num_items"), ("kuaisim-session", "num_items"),
        ("kuaisim-session", "num_users"),
    ) for wrong in (0, -1)),
    ("storefront", "patience_spread", -0.1), ("storefront", "boredom_decay", 1.5), ("storefront", "gap_days", -1.0),
    ("interest-evolution", "interest_step", 1.5), ("interest-evolution", "budget", -1.0),
    ("interest-exploration", "share_of_kind_0", 1.1), ("interest-exploration", "quality", (0.5,)),
    ("interest-exploration", "affinity", ((0.1, 0.2),)), ("long-term-satisfaction", "memory", -0.1),
    ("sardine-single-item-static", "examination", 1.1), ("sardine-single-item-static", "inertia", -0.1),
    ("organic-bandit", "to_bandit", 1.1), ("organic-bandit", "leave", -0.1), ("organic-bandit", "regret", 1.1),
    ("satiation", "switching", (1.1, 0.0)), ("satiation", "decay", (0.5,)), ("quality-drift", "trash_share", 1.1),
    ("investor", "persistence", (1.1, 0.5, 0.5)), ("investor", "persistence", (0.5, 0.5)),
    ("investor", "trust_most", -4.0), ("kuaisim-session", "temper", -1.0), ("kuaisim-session", "return_bias", 1.1),
    ("kuaisim-session", "cost", -1.0), ("kuaisim-session-repaired", "rates", (1.1,) * 7),
    ("kuaisim-session", "temper_weights", (1.0,)),
]  # fmt: skip


def test_every_kind_of_world_is_tried() -> None:
    kinds = {type(config_of(name)) for name, world in WORLDS.items() if not world.files}
    assert {type(config_of(name)) for name in RANGES} == kinds
    for name, fields in RANGES.items():
        assert set(fields) <= {field.name for field in dataclasses.fields(config_of(name))}


@pytest.mark.parametrize("name", RANGES)
@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_makes_a_world_runs(name: str, data: st.DataObject) -> None:
    """Three steps of slates of any size: finite, non-negative feedback, finite visible vectors and scores."""
    chosen = data.draw(st.fixed_dictionaries(RANGES[name]))
    world = make_world(name, **chosen)
    slots = data.draw(st.integers(1, 3))
    sessions = Sessions(world, SessionConfig(slate_size=slots, max_steps=3))
    state = sessions.reset(session_keys(data.draw(st.integers(0, 99)), 5))
    for step in range(3):
        slate = (torch.arange(slots) + step) % world.num_items + 1
        state, outcome = sessions.step(state, slate.expand(5, -1).clone())
        assert bool(outcome.response.feedback.isfinite().all()) and bool((outcome.response.feedback >= 0).all())
        assert bool(outcome.reward.isfinite().all())
        assert bool(sessions.features(state).isfinite().all())
    for scorer in world.bands().values():
        assert not bool(scorer(state.users).isnan().any())


@pytest.mark.parametrize(("name", "field", "value"), NONSENSE)
def test_what_makes_no_world_is_refused_by_name(name: str, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        make_world(name, **{field: value})


@pytest.mark.parametrize("name", [*RANGES, "coat", "virtual-taobao"])
def test_what_is_no_number_is_refused_by_name(name: str) -> None:
    config = config_of(name)
    for field in dataclasses.fields(config):
        if not isinstance(field.default, int | float) or isinstance(field.default, bool):
            continue
        for wrong in (math.nan, "many", True, *((2.5,) if isinstance(field.default, int) else (-math.inf,))):
            with pytest.raises(ValueError, match=field.name):
                dataclasses.replace(config, **{field.name: wrong})


@given(
    slate_size=st.integers(1, 3), max_steps=st.integers(1, 9), session_steps=st.integers(1, 9),
    horizon_days=real(0.01, 100), return_days=real(0.01, 100), return_reward=WEIGHT, weight=WEIGHT,
    repeats=st.sampled_from(["allow", "mask"]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_any_platform_can_be_met_for_sessions_and_for_lives(
    slate_size: int, max_steps: int, session_steps: int, horizon_days: float, return_days: float, return_reward: float,
    weight: float, repeats: Any,
) -> None:  # fmt: skip
    users = make_world("storefront", num_items=12, num_users=5, num_categories=3, length=4)
    shared: dict[str, Any] = {
        "slate_size": slate_size, "max_steps": max_steps, "reward": {"click": weight}, "repeats": repeats
    }  # fmt: skip
    lives = LifetimeConfig(
        **shared, session_steps=session_steps, horizon_days=horizon_days, return_days=return_days,
        return_reward=return_reward,
    )  # fmt: skip
    for sessions in (Sessions(users, SessionConfig(**shared)), Lifetimes(users, lives)):  # type: ignore[arg-type]
        state = sessions.reset(session_keys(0, 6))
        for step in range(max_steps):
            state, outcome = sessions.step(state, torch.arange(slate_size).add(step).remainder(12).add(1).expand(6, -1))
            assert bool(outcome.reward.isfinite().all())
            assert bool(sessions.features(state).isfinite().all())
            assert not bool((outcome.terminated & outcome.truncated).any())
        assert bool((outcome.terminated | outcome.truncated).all())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slate_size", 0), ("slate_size", 1.5), ("slate_size", math.nan), ("max_steps", 0), ("max_steps", 2.5),
        ("pessimism", -1.0), ("pessimism", math.nan), ("pessimism", math.inf), ("repeats", "never"),
        ("reward", {"click": math.nan}), ("reward", {"click": math.inf}), ("session_steps", 0),
        ("session_steps", 1.5), ("horizon_days", 0.0), ("horizon_days", math.nan), ("return_days", -1.0),
        ("return_reward", math.nan), ("return_reward", math.inf),
    ],
)  # fmt: skip
def test_what_makes_no_platform_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        LifetimeConfig(**{field: value})
    if field in {one.name for one in dataclasses.fields(SessionConfig)}:
        with pytest.raises(ValueError, match=field):
            SessionConfig(**{field: value})
