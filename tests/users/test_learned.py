"""Learned users: the contract, the dynamics they promise, and folders that read back or say why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recgym.checks import check_user_model
from recgym.files import FormatError
from recgym.random import session_keys
from recgym.trees import take
from recgym.users.learned import LearnedUsers
from recgym.users.storage import load_users, save_users
from tests.users.small import small_users


@pytest.mark.parametrize("model", ["gru", "sasrec"])
@pytest.mark.parametrize("exposures", [True, False])
@pytest.mark.parametrize("slate_size", [1, 3])
def test_the_contract_holds(model: str, exposures: bool, slate_size: int) -> None:
    check_user_model(small_users(model, exposures=exposures, repeats=exposures), slate_size=slate_size)


def test_the_sample_users_hold_the_contract() -> None:
    check_user_model(load_users("sample"), batch=64, steps=12)


def test_feedback_happens_as_often_as_the_truth_says() -> None:
    users = small_users()
    keys = session_keys(0, 4000)
    state = users.reset(keys)
    chance = users.truth(state)
    slates = torch.full((4000, 1), 5)
    expected = chance["click"][:, 4]
    _, response = users.step(state, slates)
    error = response.feedback[:, 0, 0].mean() - expected.mean()
    assert abs(float(error)) < 4 * float((expected * (1 - expected)).mean().sqrt()) / 4000**0.5
    clicked = response.feedback[:, 0, 0] > 0
    like = chance["like"][clicked, 4]
    error = response.feedback[clicked, 0, 2].mean() - like.mean()
    assert abs(float(error)) < 4 * 0.5 / float(clicked.sum()) ** 0.5


def test_amounts_keep_to_the_grid_and_the_range_of_the_log() -> None:
    users = small_users()
    state = users.reset(session_keys(0, 3000))
    _, response = users.step(state, torch.full((3000, 1), 5))
    dwell = response.feedback[:, 0, 1]
    dwell = dwell[dwell > 0]
    assert len(dwell) > 300
    assert torch.equal(dwell, dwell.round())
    assert 1 <= float(dwell.min()) < float(dwell.max()) <= 100


def test_the_cache_follows_the_history() -> None:
    users = small_users()
    state = users.reset(session_keys(1, 6))
    for step in range(9):
        state, _ = users.step(state, torch.full((6, 1), step % 12 + 1))
    items, feedback = users.history(state)
    users_window = users.backbone.config.length
    assert items.shape == (6, users_window)
    assert items[0, -3:].tolist() == [7, 8, 9]
    assert state.depth.tolist() == [9] * 6
    assert ((feedback[:, :, 1] > 0) == (feedback[:, :, 0] > 0)).all()


def test_ignored_items_leave_no_trace_without_exposures() -> None:
    users = small_users(exposures=False, repeats=False)
    state = users.reset(session_keys(2, 400))
    before, vector = users.history(state)[0].clone(), users.visible(state).vector.clone()
    state, response = users.step(state, torch.full((400, 1), 4))
    ignored = response.feedback[:, 0, 0] == 0
    assert 0 < int(ignored.sum()) < 400
    assert torch.equal(users.history(state)[0][ignored], before[ignored])
    assert torch.equal(users.visible(state).vector[ignored], vector[ignored])
    assert (users.history(state)[0][~ignored, -1] == 4).all()


def test_nothing_is_consumed_twice_where_users_do_not_repeat() -> None:
    users = small_users(exposures=False, repeats=False)
    state = users.reset(session_keys(3, 300))
    for _ in range(4):
        items, feedback = users.history(state)
        before = ((items == 4) & (feedback[:, :, 0] > 0)).any(1)
        state, response = users.step(state, torch.full((300, 1), 4))
        assert float(response.feedback[before, 0, 0].sum()) == 0
    assert int(before.sum()) > 50


def test_ignoring_multiplies_the_hazard() -> None:
    calm, restless = (small_users(exposures=False, repeats=False) for _ in range(2))
    restless.ignored_hazard = 0.0
    rates = []
    for users in (calm, restless):
        _, response = users.step(users.reset(session_keys(4, 3000)), torch.full((3000, 1), 2))
        ignored = response.feedback[:, 0, 0] == 0
        rates.append(float(response.leaves[ignored].float().mean()))
    assert rates[0] > 0.05
    assert rates[1] == 0.0


def test_starts_are_logged_ones_and_their_users_are_known() -> None:
    users = small_users()
    state = users.reset(session_keys(5, 200))
    start = users.truth(state)["start"]
    assert torch.equal(users.history(state)[0], users.starts.items[start])
    assert torch.equal(state.user, users.starts.user[start])
    assert len(set(start.tolist())) == 9


def test_taking_rows_goes_on_alike() -> None:
    users = small_users("sasrec")
    whole, part = users.reset(session_keys(6, 8)), take(users.reset(session_keys(6, 8)), torch.tensor([5, 2]))
    slates = torch.arange(1, 9).unsqueeze(1)
    _, all_of_them = users.step(whole, slates)
    _, two = users.step(part, slates[[5, 2]])
    torch.testing.assert_close(two.feedback, all_of_them.feedback[[5, 2]])


def test_fewer_starts_are_kept_where_memory_is_short() -> None:
    users = small_users("sasrec")
    kept = LearnedUsers(
        backbone=users.backbone, heads=users.heads, topics=users.topics, kinds=users.kinds, exposures=True,
        repeats=True, ignored_hazard=1.0, starts=users.starts, start_megabytes=0,
    )  # fmt: skip
    assert len(kept.starts.user) == 1


def test_kinds_out_of_order_are_refused() -> None:
    users = small_users()
    with pytest.raises(ValueError, match="'like' depends on 'click', which must come before"):
        LearnedUsers(
            backbone=users.backbone, heads=users.heads, topics=users.topics, kinds=users.kinds[::-1], exposures=True,
            repeats=True, ignored_hazard=1.0, starts=users.starts,
        )  # fmt: skip


@pytest.mark.parametrize("model", ["gru", "sasrec"])
def test_a_folder_reads_back(model: str, tmp_path: Path) -> None:
    users = small_users(model)
    save_users(users, tmp_path / "users")
    again = load_users(tmp_path / "users")
    slates = torch.tensor([[3, 7], [1, 2]])
    _, first = users.step(users.reset(session_keys(0, 2)), slates)
    _, second = again.step(again.reset(session_keys(0, 2)), slates)
    assert torch.equal(first.feedback, second.feedback)
    assert again.item_titles == users.item_titles
    assert not any(path.suffix in (".pt", ".pkl") for path in (tmp_path / "users").rglob("*"))


def test_a_damaged_or_foreign_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "users"
    save_users(small_users(), folder)
    other = tmp_path / "other"
    save_users(small_users("sasrec"), other)
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(FormatError, match="not those users.json describes"):
        load_users(folder)
    weights.write_bytes(whole)
    (folder / "backbone").rename(tmp_path / "old")
    (other / "backbone").rename(folder / "backbone")
    with pytest.raises(FormatError, match="another backbone than users.json names"):
        load_users(folder)
    weights.unlink()
    with pytest.raises(FormatError, match="weights.safetensors: missing"):
        load_users(folder)
    (folder / "users.json").write_text("{}")
    with pytest.raises(FormatError, match="field 'format' is None"):
        load_users(folder)
