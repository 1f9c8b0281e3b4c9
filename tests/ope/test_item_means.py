"""The reward model of one step: shrunken by the closed form, blind to the rows it is read at, right in the end."""

from __future__ import annotations

import numpy as np
import pytest

from recgym.ope.item_means import cross_fit_means, fit_item_means, shrunken_means
from recgym.ope.targets import FunctionTarget


def test_balanced_groups_shrink_by_the_textbook_factor() -> None:
    draw = np.random.default_rng(0)
    groups, size = 12, 9
    effect = draw.normal(size=groups)
    group = np.repeat(np.arange(groups), size)
    values = effect[group] + draw.normal(size=groups * size)
    values -= values.mean()
    table = values.reshape(groups, size)
    within = ((table - table.mean(axis=1, keepdims=True)) ** 2).sum() / (groups * (size - 1))  # mean square within
    between = size * (table.mean(axis=1) ** 2).sum() / (groups - 1)
    share = 1 - within / between  # Searle et al., balanced: n t^2 / (n t^2 + s^2)
    np.testing.assert_allclose(shrunken_means(values, group, groups), share * table.mean(axis=1), rtol=1e-12)


def test_noise_alone_leaves_no_effect() -> None:
    values = np.tile([1.0, -1.0], 50)  # every group has mean 0, less spread than noise makes
    assert not shrunken_means(values, np.repeat(np.arange(10), 10), 10).any()
    assert not shrunken_means(values, np.zeros(100, np.int64), 3).any()


def test_effects_are_found_and_what_was_never_shown_stays_at_the_mean() -> None:
    draw = np.random.default_rng(1)
    n, items = 40_000, 6
    item, position = draw.integers(1, items, n), draw.integers(0, 3, n)  # item 6 is never shown
    features = draw.normal(size=(n, 2)) + 5
    effect, slot = np.array([0.4, 0.1, -0.2, 0.3, -0.6, 0.0]), np.array([0.5, 0.0, -0.5])
    mean = 2 + effect[item - 1] + slot[position] + features @ [0.3, -0.1]
    model = fit_item_means(mean + draw.normal(size=n), item, position, features, num_items=items, num_positions=3)
    np.testing.assert_allclose(model.slope, [0.3, -0.1], atol=0.03)
    found = model.of_context(position, features) + model.item[item - 1]
    assert np.abs(found - mean).max() < 0.1
    assert model.item[5] == 0


def test_a_row_has_no_hand_in_its_own_value() -> None:
    draw = np.random.default_rng(2)
    n = 300
    reward, item, user = draw.random(n), draw.integers(1, 4, n), draw.integers(0, 40, n)
    pi = draw.dirichlet(np.ones(3), n)
    target = FunctionTarget(name="new", probabilities=lambda rows: pi[rows], item=item, num_items=3)
    model = cross_fit_means(reward, item, user, num_items=3, seed=4)
    values = model.values(target)
    mine = user == user[0]
    other = cross_fit_means(np.where(mine, reward + 100, reward), item, user, num_items=3, seed=4).values(target)
    np.testing.assert_array_equal(values.q[mine], other.q[mine])
    assert np.abs(values.q - other.q)[~mine].max() > 1
    q = np.stack([model.models[fold].mean + model.models[fold].item for fold in model.fold])  # (n, N)
    np.testing.assert_allclose(values.v, (pi * q).sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(values.q, q[np.arange(n), item - 1], rtol=1e-12)
    assert not values.v_next.any()


def test_too_few_users_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 users"):
        cross_fit_means(np.ones(3), np.ones(3, np.int64), np.zeros(3, np.int64), num_items=2)
