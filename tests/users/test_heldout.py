"""Held-out fit: figures by hand, logs that say little, and sessions that overlap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recgym.backbones.backbone import BackboneConfig, make_backbone
from recgym.logs import splits
from recgym.logs.log import InteractionLog
from recgym.logs.pivot import build_sequences
from recgym.logs.sequences import Sequences
from recgym.users import heldout
from recgym.users import recent as memory
from recgym.users.config import UserConfig
from recgym.users.fidelity import fidelity
from recgym.users.fitting import fit_users
from recgym.users.learned import LearnedUsers
from recgym.users.returning import Returning, ReturnShape
from recgym.users.slates import Slates
from tests.users.test_fitting import ITEMS, made_log

QUICK = UserConfig(width=4, leave_width=4, item_width=2, epochs=1, max_starts=20, ensemble=0)


def slates_of(session: list[int], item: list[int], happened: list[int]) -> Slates:
    """Slates of which only sessions, items and what happened are read."""
    count, nothing = len(session), torch.zeros(len(session))
    return Slates(
        state=torch.zeros(count, 2), recent=memory.fresh(count), history=torch.zeros(count, 3, dtype=torch.int64),
        consumed=torch.zeros(count, 3, dtype=torch.bool), item=torch.tensor(item), slot=torch.zeros(count).long(),
        feedback=torch.tensor(happened).float()[:, None], leaves=nothing, known=nothing > -1,
        session=torch.tensor(session), context=torch.zeros(count, 0), weight=nothing + 1,
    )  # fmt: skip


def quick(sequences: Sequences, roles: splits.Roles) -> LearnedUsers:
    backbone = make_backbone(BackboneConfig(width=4, layers=1, length=3), sequences.num_items, sequences.feedback_scale)
    return fit_users(sequences, roles, backbone, QUICK)


def test_the_noise_of_an_items_rate_is_that_of_its_own_chances() -> None:
    """Draws from the chances themselves: their spread is `predicted_spread` on average, however unlike the chances."""
    rng = np.random.default_rng(0)
    item = np.repeat(np.arange(1, 41), 25)
    chance = np.where(rng.random(1000) < 0.5, 0.02, 0.98)
    found = [heldout.popularity(item, chance, rng.random(1000) < chance, 40) for _ in range(300)]
    observed = np.mean([one["spread"] ** 2 for one in found]) ** 0.5
    assert found[0]["predicted_spread"] == pytest.approx(observed, rel=0.02)


def test_transitions_of_a_large_catalogue_fit_into_memory() -> None:
    """200,000 topics have 4e10 flows; only those that occur are counted, and the figures are those of few topics."""
    rng = np.random.default_rng(1)
    item = rng.integers(0, 4, 900)
    happened = rng.random(900) < 0.5
    chance = np.full(900, 0.5)
    slates = slates_of((np.arange(900) // 6).tolist(), (item + 1).tolist(), happened.astype(int).tolist())
    few = heldout.transitions(slates, item, chance, happened)
    many = heldout.transitions(slates, item * 50_000, chance, happened)
    assert few == many
    assert 0 < few["distance"] < 3 * few["noise"]


def test_users_who_never_repeat_are_judged_as_such() -> None:
    """Where the simulator forbids a repeat, the chance that is compared with the log is 0."""
    sequences = build_sequences(made_log(exposures=True, sessions=400))
    roles = splits.temporal(sequences)
    users = quick(sequences, roles)
    assert users.repeats
    assert fidelity(users, sequences, roles, QUICK)["repeats"]["again"]["predicted_rate"] > 0
    users.repeats = False
    assert fidelity(users, sequences, roles, QUICK)["repeats"]["again"]["predicted_rate"] == 0


def test_overlapping_sessions_return_at_once() -> None:
    """A log's own sessions may overlap (two devices): the next one began before this one ended."""
    events = made_log(exposures=True, sessions=300).events
    events = events.with_columns(session=(pl.col("time") // 10_000).cast(pl.String))
    last = (pl.col("time") == pl.col("time").max().over("session")) & (pl.col("session").cast(pl.Int64) % 7 == 0)
    late = events.with_columns(time=pl.when(last).then(pl.col("time") + 750_000).otherwise("time"))
    sequences = build_sequences(InteractionLog(events=late, exposures=True))
    bounds = sequences.session_bounds
    user = sequences.user_of_step[bounds[:-1]]
    overlaps = (sequences.time[bounds[1:-1]] < sequences.time[bounds[1:-1] - 1]) & (user[1:] == user[:-1])
    assert overlaps.any()
    users = quick(sequences, splits.temporal(sequences))
    users.returning = Returning(ReturnShape(state_width=4, num_kinds=1, length=3)).requires_grad_(False)
    found = heldout.returns(users, sequences, np.arange(sequences.num_sessions))
    assert found is not None
    assert found["sessions"] == sequences.num_sessions


def test_logs_without_exposures_say_when_users_return() -> None:
    sequences = build_sequences(made_log(exposures=False, sessions=600))
    roles = splits.temporal(sequences)
    users = quick(sequences, roles)
    assert users.returning is not None
    found = fidelity(users, sequences, roles, QUICK)
    assert found["returns"]["sessions"] == len(splits.sessions_of(sequences, roles, splits.TEST))
    assert "repeats" not in found


def test_one_session_each_says_nothing_of_returns() -> None:
    log = made_log(exposures=True, sessions=300)
    lonely = log.events.with_columns(user=(pl.col("time") // 10_000).cast(pl.String))
    sequences = build_sequences(InteractionLog(events=lonely, exposures=True))
    assert sequences.num_users == sequences.num_sessions
    roles = splits.temporal(sequences)
    users = quick(sequences, roles)
    assert users.returning is None
    found = fidelity(users, sequences, roles, QUICK)
    assert found["returns"] is None
    assert found["cold"]["known users"] == {"cases": 0}


def test_without_a_test_session_there_is_nothing_to_judge() -> None:
    sequences = build_sequences(made_log(exposures=True, sessions=200))
    roles = splits.temporal(sequences)
    users = quick(sequences, roles)
    empty = np.where(roles == splits.TEST, splits.VALIDATION, roles)
    with pytest.raises(ValueError, match="no test session"):
        fidelity(users, sequences, empty, QUICK)


def test_a_test_part_that_the_log_cuts_off_raises_an_alarm_and_no_error() -> None:
    """One step within half an hour of the log's end: how its session ends is not known, and nothing was clicked."""
    sequences = build_sequences(made_log(exposures=True, sessions=200))
    bounds = sequences.session_bounds
    latest = int(np.argmax(sequences.time[bounds[:-1]]))
    end = int(bounds[latest] + 1)
    keep = np.ones(sequences.num_steps, np.bool_)
    keep[end : bounds[latest + 1]] = False
    feedback = sequences.feedback.copy()
    feedback[bounds[latest]] = 0
    cut = replace(
        sequences, item=sequences.item[keep], feedback=feedback[keep], time=sequences.time[keep],
        session=sequences.session[keep], propensity=sequences.propensity[keep], position=sequences.position[keep],
        offsets=np.append(0, np.cumsum(np.bincount(sequences.user_of_step[keep], minlength=sequences.num_users))),
    )  # fmt: skip
    roles = splits.temporal(sequences)[keep]
    roles[(roles == splits.TEST) & (cut.session != latest)] = splits.VALIDATION
    users = quick(cut, roles)
    found = fidelity(users, cut, roles, QUICK)
    assert found["mean_length"] is None and found["length_distance"] is None
    assert any("say nothing about how long sessions last" in alarm for alarm in found["alarms"])
    assert found["next_item"] == {}
    assert cut.num_items == ITEMS
