"""Coat: the quit rule against a plain reading of the published one, its files' errors, and the published figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recgym.checks import check_user_model
from recgym.env.session import SessionConfig, Sessions
from recgym.random import fold, session_keys, uniform
from simulators.coat import SETTINGS, Coat, CoatConfig, CoatState

TURNS = 30


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with a matrix of 5 users and 12 items, of which every third pair is nearly the same."""
    matrix = np.random.default_rng(0).integers(1, 6, size=(5, 12))
    matrix[:, 1::3] = matrix[:, ::3]
    write(tmp_path / "coat_pseudoGT_ratingM.ascii", matrix)
    return tmp_path


@pytest.fixture(scope="session")
def coat_data(real_data: Path) -> Path:
    if not (real_data / "coat" / "coat_pseudoGT_ratingM.ascii").is_file():
        pytest.skip("no coat/coat_pseudoGT_ratingM.ascii among the real logs")
    return real_data / "coat"


def write(path: Path, matrix: Any) -> None:
    path.write_text("\n".join(" ".join(str(value) for value in row) for row in matrix) + "\n")


def play(world: Coat, score: Callable[[CoatState], Tensor] | None, state: CoatState) -> Tensor:
    """Stars earned in each session; a score of None is a random policy."""
    batch = len(state.user)
    keys, here = session_keys(99, batch), torch.ones(batch, dtype=torch.bool)
    earned = torch.zeros(batch)
    for turn in range(TURNS):
        if score is None:
            slates = (uniform(fold(keys, turn), 1) * world.num_items).to(torch.int64) + 1
        else:
            slates = score(state).argmax(1, keepdim=True) + 1
        state, response = world.step(state, slates)
        earned += here * response.feedback[:, 0, 0]
        here &= ~response.leaves
    return earned


def every_user(world: Coat) -> CoatState:
    return world.reset(session_keys(0, world.num_users))._replace(user=torch.arange(world.num_users))


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("length", [0, 4])
def test_the_contract_holds(small: Path, config: CoatConfig, length: int) -> None:
    check_user_model(Coat(replace(config, path=small, length=length)), steps=12)


@pytest.mark.parametrize("shipped", [True, False])
@pytest.mark.parametrize("window", [1, 4, 7])
def test_users_leave_as_in_a_plain_reading_of_the_rule(small: Path, shipped: bool, window: int) -> None:
    world = Coat(CoatConfig(path=small, window=window, shipped_window=shipped, threshold=4.0))
    matrix = world.ratings.double().numpy()
    state = world.reset(session_keys(1, 200))
    shown: list[Tensor] = []
    left = 0
    for turn in range(15):
        slates = torch.randint(1, 13, (200, 1), generator=torch.Generator().manual_seed(turn))
        users = state.user.tolist()
        near_all = world.truth(state)["near"]
        state, response = world.step(state, slates)
        for row, user in enumerate(users):
            past = [int(one[row]) - 1 for one in shown]
            looked = past[turn - window : turn] if shipped else past[-window:]  # the slice of the published code
            item = int(slates[row]) - 1
            distances = [np.linalg.norm(matrix[:, item] - matrix[:, one]) for one in looked]
            assert bool(response.leaves[row]) == any(distance < 4.0 for distance in distances)
            assert float(response.feedback[row, 0, 0]) == matrix[user, item]
            whole = [np.linalg.norm(matrix[:, item] - matrix[:, one]) < 4.0 for one in past[-window:]]
            assert bool(near_all[row, item]) == any(whole)
        left += int(response.leaves.sum())
        shown.append(slates[:, 0])
    assert 0 < left < 15 * 200


def test_without_the_rule_nobody_leaves(small: Path) -> None:
    world = Coat(replace(SETTINGS["coat-no-quit"], path=small))
    state = world.reset(session_keys(0, 8))
    for _ in range(40):
        state, response = world.step(state, torch.full((8, 1), 3))
        assert not response.leaves.any()


def test_users_come_equally_often(small: Path) -> None:
    state = Coat(CoatConfig(path=small)).reset(session_keys(2, 20000))
    shares = torch.bincount(state.user, minlength=5) / 20000
    assert ((shares - 0.2).abs() < 4 * (0.2 * 0.8 / 20000) ** 0.5).all()


def test_the_platform_sees_the_last_rating_features_and_on_demand_the_user(small: Path) -> None:
    write(small / "user_features.ascii", [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]])
    plain, named = (
        Coat(CoatConfig(path=small)),
        Coat(CoatConfig(path=small / "coat_pseudoGT_ratingM.ascii", show_user=True)),
    )
    state, response = plain.step(plain.reset(session_keys(0, 9)), torch.full((9, 1), 2))
    vector = named.visible(state).vector
    assert vector.shape == (9, 1 + 2 + 5)
    assert torch.equal(vector[:, :3], plain.visible(state).vector)
    assert torch.equal(vector[:, 3:].argmax(1), state.user)
    torch.testing.assert_close(vector[:, 0] * 5, response.feedback[:, 0, 0])


def test_titles_come_from_the_features(small: Path) -> None:
    assert Coat(CoatConfig(path=small)).item_titles is None
    write(small / "item_features.ascii", [[1, 0, 1, 0, 1]] * 6 + [[0, 1, 0, 1, 1]] * 6)
    names = "gender:men\ngender:women\njackettype:pea\njackettype:rain\ncolor:red"
    (small / "item_features_map.txt").write_text(names)
    world = Coat(CoatConfig(path=small))
    assert world.item_titles is not None and world.item_categories is not None
    assert (world.item_titles[0], world.item_titles[-1]) == ("men's pea, red", "women's rain, red")
    assert world.item_categories[5:7] == ("pea", "rain")
    (small / "item_features_map.txt").write_text("gender:men\n")
    with pytest.raises(ValueError, match=r"item_features_map\.txt: 1 rows, expected 5"):
        Coat(CoatConfig(path=small))


def test_training_ratings_say_what_is_popular(small: Path) -> None:
    train = np.zeros((5, 12), dtype=int)
    train[0], train[:, 7] = 2, 5
    write(small / "train.ascii", train)
    world = Coat(CoatConfig(path=small))
    average = (11 * 2 + 5 * 5) / 16
    torch.testing.assert_close(world.popularity[7], torch.tensor((25 + 3 * average) / 8))
    torch.testing.assert_close(world.popularity[0], torch.tensor((2 + 3 * average) / 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n3 6\n", r"ratingM\.ascii, row 2, column 2: '6', expected a number from 1 to 5"),
        ("1 2\n0 4\n", r"row 2, column 1: '0', expected a number from 1 to 5"),
        ("1 x\n3 4\n", r"row 1, column 2: 'x', expected a number"),
        ("1 nan\n3 4\n", r"row 1, column 2: 'nan'"),
        ("1 2\n3\n", r"row 2: 1 columns, expected 2"),
        ("1 2\n\n3 4\n", r"row 2: 0 columns, expected 2"),
        ("\n\n", r"0 rows, expected at least 1"),
    ],
)
def test_broken_matrices_are_refused_by_file_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "coat_pseudoGT_ratingM.ascii"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Coat(CoatConfig(path=path))


def test_wrong_files_and_settings_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"CoatConfig\.path is empty, expected the folder"):
        Coat()
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; CoatConfig\.path should be"):
        Coat(CoatConfig(path=tmp_path / "nowhere"))
    (tmp_path / "binary").write_bytes(b"1 2\xff")
    with pytest.raises(ValueError, match="byte 4 is not ASCII"):
        Coat(CoatConfig(path=tmp_path / "binary"))
    write(small / "train.ascii", [[0] * 12] * 4)
    with pytest.raises(ValueError, match=r"train\.ascii: 4 rows, expected 5"):
        Coat(CoatConfig(path=small))
    (small / "train.ascii").unlink()
    world = Coat(CoatConfig(path=small))
    with pytest.raises(ValueError, match="slates have 2 items, expected 1"):
        world.step(world.reset(session_keys(0, 3)), torch.ones(3, 2, dtype=torch.int64))
    for wrong in ({"threshold": -1.0}, {"threshold": float("nan")}, {"window": 0}, {"length": -1}):
        with pytest.raises(ValueError, match=rf"CoatConfig\.{next(iter(wrong))} is"):
            replace(CoatConfig(), **wrong)


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_the_contract_holds_on_the_real_matrix(coat_data: Path, config: CoatConfig) -> None:
    world = Coat(replace(config, path=coat_data))
    assert (world.num_users, world.num_items) == (290, 300)
    check_user_model(world, steps=10)
    assert world.item_titles is not None and world.item_titles[0] == "men's bomber, other"
    sessions = Sessions(world, SessionConfig(max_steps=TURNS))
    assert sessions.weights == {"rating": 1.0}


@pytest.mark.parametrize(
    ("name", "published"),
    [("coat", 28.2), ("coat-no-quit", 67.6)],
)
def test_a_random_policy_earns_the_published_figure(coat_data: Path, name: str, published: float) -> None:
    world = Coat(replace(SETTINGS[name], path=coat_data))
    earned = play(world, None, world.reset(session_keys(1, 10000)))
    assert abs(float(earned.mean()) - published) < 4 * float(earned.std()) / 100 + 0.3


def test_the_marks_of_the_band_earn_the_published_figures(coat_data: Path) -> None:
    quits, stays, whole = (
        Coat(replace(SETTINGS[name], path=coat_data)) for name in ("coat", "coat-no-quit", "coat-repaired")
    )
    for world, mark, published in (
        (quits, "rule", 82.1),
        (quits, "best known", 93.2),
        (whole, "best known", 93.2),
        (stays, "popular", 83.98),
        (stays, "rule", 92.56),
        (stays, "best known", 100.4),
    ):
        earned = float(play(world, world.bands()[mark], every_user(world)).mean())
        assert earned == pytest.approx(published, abs=0.5), mark
    greedy = float(play(quits, quits.bands()["myopic"], every_user(quits)).mean())
    assert greedy < 10  # the favourite is shown again, and the user goes


def test_the_marks_of_the_band_score_every_item(small: Path) -> None:
    for config in SETTINGS.values():
        world = Coat(replace(config, path=small))
        state = world.reset(session_keys(0, 7))
        assert all(score(state).shape == (7, 12) for score in world.bands().values())
