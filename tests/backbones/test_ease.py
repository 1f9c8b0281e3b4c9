"""EASE against the regressions that it solves at once."""

from __future__ import annotations

import numpy as np
import pytest

from recgym.backbones.ease import ease
from tests.backbones.test_baselines import LOG, ROLES, asked, random_log


def test_each_item_is_a_ridge_regression_on_the_others() -> None:
    log = random_log(40, 12)
    held = np.zeros((40, 12))
    held[log.user_of_step, log.item - 1] = 1
    weights = np.zeros((12, 12))
    for item in range(12):
        others = np.delete(np.arange(12), item)
        gram = held[:, others].T @ held[:, others] + 3 * np.eye(11)
        weights[others, item] = np.linalg.solve(gram, held[:, others].T @ held[:, item])
    ranker = ease(log, np.zeros(log.num_steps, np.int8), regularisation=3.0)
    scores = asked(ranker, [5], [2, 9], [4, 4, 12, 4])
    expected = weights[4], weights[1] + weights[8], weights[3] + weights[11]  # an item counts once
    np.testing.assert_allclose(scores, np.stack(expected), atol=1e-6)


def test_catalogues_that_do_not_fit_and_wrong_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="the catalogue has 7 items, expected at most most_items = 6"):
        ease(LOG, ROLES, most_items=6)
    with pytest.raises(ValueError, match=r"regularisation is 0\.0, expected a positive number"):
        ease(LOG, ROLES, regularisation=0.0)
