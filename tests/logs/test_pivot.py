"""Events become steps: feedback meets its view, sessions their gap, and no event is lost."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recgym.logs.filters import k_core, sessionise
from recgym.logs.log import InteractionLog, LogError
from recgym.logs.pivot import SequenceConfig, build_sequences

Event = tuple[str, str, int, str, float]


def log_of(events: list[Event], *, exposures: bool = False, **more: object) -> InteractionLog:
    frame = pl.DataFrame(events, schema=["user", "item", "time", "behaviour", "value"], orient="row")
    return InteractionLog(events=frame.cast({"time": pl.Int64, "value": pl.Float64}), exposures=exposures, **more)  # type: ignore[arg-type]


def test_feedback_belongs_to_the_latest_view_of_that_item_by_that_user() -> None:
    log = log_of(
        [
            ("u", "a", 1, "view", 1), ("u", "b", 2, "view", 1), ("u", "a", 3, "view", 1), ("v", "a", 3, "view", 1),
            ("u", "a", 3, "click", 1), ("u", "a", 9, "dwell", 12), ("u", "b", 5, "click", 1),
        ],
        exposures=True, units={"dwell": "seconds"}, given={"dwell": "click"},
    )  # fmt: skip
    found = build_sequences(log)
    assert [kind.name for kind in found.kinds] == ["click", "dwell"]
    assert found.item.tolist() == [1, 2, 1, 1]
    assert found.feedback.tolist() == [[0, 0], [1, 0], [1, 12], [0, 0]]
    assert found.targets.tolist() == [False, True, True, False]
    assert found.notes == ()


def test_feedback_without_a_view_is_a_step_of_its_own_and_counted() -> None:
    found = build_sequences(log_of([("u", "a", 5, "view", 1), ("u", "a", 1, "click", 1)], exposures=True))
    assert found.time.tolist() == [1, 5]
    assert found.feedback[:, 0].tolist() == [1, 0]
    assert "kept as steps of their own: 1" in found.notes[0]


def test_consumed_items_merge_what_happened_in_the_same_second() -> None:
    found = build_sequences(log_of([("u", "a", 1, "click", 1), ("u", "a", 1, "buy", 1), ("u", "b", 2, "click", 1)]))
    assert [kind.name for kind in found.kinds] == ["consume", "click", "buy"] or [
        kind.name for kind in found.kinds
    ] == ["consume", "buy"]
    assert found.num_steps == 2
    assert found.feedback[:, 0].tolist() == [1, 1]


def test_a_gap_starts_a_session_and_named_sessions_stay_together() -> None:
    events: list[Event] = [("u", "a", 0, "click", 1), ("u", "b", 1801, "click", 1), ("u", "c", 3601, "click", 1)]
    assert build_sequences(log_of(events)).session.tolist() == [0, 1, 1]
    assert build_sequences(log_of(events), SequenceConfig(session_gap_seconds=2000)).session.tolist() == [0, 0, 0]
    named = log_of(events)
    named = named.with_events(named.events.with_columns(session=pl.Series(["s", "t", "s"])))
    found = build_sequences(named)
    assert found.time.tolist() == [0, 3601, 1801]
    assert found.session.tolist() == [0, 0, 1]


def test_sessions_for_some_events_only_are_refused() -> None:
    log = log_of([("u", "a", 0, "click", 1), ("u", "b", 5, "click", 1)])
    log = log.with_events(log.events.with_columns(session=pl.Series(["s", None])))
    with pytest.raises(LogError, match="missing for 1 of 2 steps, the first of user 'u' at time 5"):
        build_sequences(log)


def test_a_user_with_one_event_and_unsorted_rows() -> None:
    found = build_sequences(log_of([("v", "b", 9, "click", 1), ("u", "a", 2, "click", 1), ("u", "c", 1, "click", 1)]))
    assert found.users == ["u", "v"]
    assert found.offsets.tolist() == [0, 2, 3]
    assert [found.items["item"][int(number) - 1] for number in found.item] == ["c", "a", "b"]


@pytest.mark.parametrize("name", ["session", "position", "time", "value", "row"])
@pytest.mark.parametrize("exposures", [False, True])
def test_a_behaviour_may_be_called_like_a_column(name: str, exposures: bool) -> None:
    events: list[Event] = [("u", "a", 1, "click", 1), ("u", "b", 2, name, 1)]
    views: list[Event] = [("u", "a", 0, "view", 1), ("u", "b", 0, "view", 1)] if exposures else []
    found = build_sequences(log_of(views + events, exposures=exposures), SequenceConfig(behaviours=("click", name)))
    assert [kind.name for kind in found.kinds][-2:] == ["click", name]
    assert found.feedback[:, -2:].tolist() == [[1, 0], [0, 1]]


def test_views_alone_teach_nothing() -> None:
    with pytest.raises(LogError, match="every event is a 'view'"):
        build_sequences(log_of([("u", "a", 1, "view", 1)], exposures=True))


def test_a_behaviour_that_is_not_there_is_named() -> None:
    with pytest.raises(LogError, match="never is 'buy'; the log has click"):
        build_sequences(log_of([("u", "a", 1, "click", 1)]), SequenceConfig(behaviours=("buy",)))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("uvw"), st.sampled_from("abc"), st.integers(0, 9000), st.sampled_from(["view", "click"])
        ),
        min_size=1, max_size=30,
    )
)  # fmt: skip
def test_no_view_and_no_click_is_lost(events: list[tuple[str, str, int, str]]) -> None:
    rows: list[Event] = [(*event, 1.0) for event in events]
    views = [event for event in events if event[3] == "view"]
    if not views or len(views) == len(events):
        return
    found = build_sequences(log_of(rows, exposures=True))
    alone = sum(int(note.rpartition(" ")[2]) for note in found.notes)
    assert found.num_steps == len(views) + alone
    assert (np.diff(found.time)[np.diff(found.user_of_step) == 0] >= 0).all()
    clicked = {(user, item) for user, item, _, what in events if what == "click"}
    shown = {
        (found.users[found.user_of_step[step]], found.items["item"][int(found.item[step]) - 1])
        for step in np.flatnonzero(found.targets)
    }
    assert shown == clicked


def test_k_core_goes_on_until_it_holds() -> None:
    events: list[Event] = [
        (u, i, 1, "click", 1) for u, i in [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b"), ("w", "b"), ("w", "c")]
    ]
    found = k_core(log_of(events), users=2, items=2)
    assert set(found.events["user"]) == {"u", "v"}
    assert set(found.events["item"]) == {"a", "b"}
    assert found.repairs[0].count == 2
    with pytest.raises(LogError, match="no event is left"):
        k_core(log_of(events), users=3, items=3)


def test_sessionise_names_sessions_and_keeps_the_order_of_the_file() -> None:
    log = sessionise(log_of([("u", "b", 100, "click", 1), ("u", "a", 0, "click", 1), ("v", "a", 5, "click", 1)]), 50)
    assert log.events["item"].to_list() == ["b", "a", "a"]
    assert log.events["session"].to_list() == ["u-2", "u-1", "v-1"]
