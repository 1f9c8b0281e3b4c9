"""Ids by hand; planted clusters found; no id begins another."""

from __future__ import annotations

import numpy as np
import pytest

from recgym.backbones.p5_ids import collaborative_ids, digits, prefixes, sequential_ids, tree_of
from recgym.logs.splits import TEST, TRAIN
from tests.backbones.test_ranking import sequences


def test_sequential_ids_number_items_as_training_meets_them() -> None:
    log = sequences([[3, 1, 3, 5], [1, 4, 2]], 5)
    roles = np.array([TRAIN, TRAIN, TRAIN, TEST, TRAIN, TRAIN, TEST], np.int8)
    order = [3, 1, 4, 2, 5]  # what training never met comes last
    ids = sequential_ids(log, roles, tokens=2)
    assert [ids[item - 1].tolist() for item in order] == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0]]


def test_digits_are_as_few_as_tell_all_apart() -> None:
    assert digits(np.array([0, 24]), 25, 5).tolist() == [[0, 0], [4, 4]]
    assert digits(np.array([0, 25]), 26, 5).tolist() == [[0, 0, 0], [1, 0, 0]]
    assert digits(np.array([0]), 1, 5).tolist() == [[0]]


def test_a_tree_leads_along_every_id() -> None:
    codes = np.array([[1, 0, -1], [0, 2, 1], [0, 2, 0], [2, -1, -1]])
    assert tree_of(codes, 3).tolist() == [[2, 1, -4], [-1, 0, 0], [0, 0, 3], [-3, -2, 0]]
    paths, group = prefixes(codes)
    assert [paths[one].tolist() for one in group] == [[1, -1], [0, 2], [0, 2], [-1, -1]]
    assert len(paths) == 3


@pytest.mark.parametrize(
    ("codes", "message"),
    [([[0, 1], [0, 1]], r"item 2 is \[0, 1\], which is taken"), ([[0, 1], [0, -1]], "which is taken"),
     ([[0, -1], [0, 1]], "goes on where item 1's ends")],
)  # fmt: skip
def test_ids_that_begin_one_another_are_refused(codes: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tree_of(np.array(codes), 3)


def test_items_of_the_same_users_share_their_first_code() -> None:
    pytest.importorskip("scipy", reason="the extra p5 is not installed")
    generator = np.random.default_rng(0)
    block = generator.permutation(24).reshape(3, 8) + 1  # three kinds of items, each with its users
    lists = [generator.choice(block[user % 3], 5, replace=False).tolist() for user in range(60)]
    lists[0].append(int(block[1, 0]))  # one user likes two kinds
    log = sequences(lists, 26)  # and nobody items 25 and 26
    codes = collaborative_ids(log, np.zeros(log.num_steps, np.int8), tokens=8, clusters=3)
    first = [set(codes[rows - 1, 0].tolist()) for rows in (*block, np.array([25, 26]))]
    assert [len(codes) for codes in first] == [1, 1, 1, 1]
    assert len(set.union(*first)) == 4
    tree_of(codes, 8)


@pytest.mark.parametrize("met", [40, 3, 1])
def test_ids_end_whatever_the_log(met: int) -> None:
    pytest.importorskip("scipy", reason="the extra p5 is not installed")
    log = sequences([list(range(1, met + 1))] * 2, 40)  # all alike, or nearly nothing met
    codes = collaborative_ids(log, np.zeros(log.num_steps, np.int8), tokens=4, clusters=2)
    tree_of(codes, 4)
    again = collaborative_ids(log, np.zeros(log.num_steps, np.int8), tokens=4, clusters=2)
    assert np.array_equal(codes, again)
