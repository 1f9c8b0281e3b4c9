"""Every baseline is fitted on training choices alone and ends with popularity; the two simplest by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from recgym.backbones.baselines import BASELINES, fit_baseline
from recgym.backbones.ranking import Ranker
from recgym.logs.sequences import Sequences
from recgym.logs.splits import TEST, TRAIN
from tests.backbones.test_ranking import sequences

LOG = sequences([[1, 2, 3], [1, 2, 4], [2, 1, 5], [3, 1], [4, 5, 6]], 7)
ROLES = np.array([TRAIN] * 11 + [TEST] * 3, np.int8)
BY_POPULARITY = [1, 2, 3]  # chosen 4, 3 and 2 times; 4 and 5 once; 6 and 7 never


def asked(ranker: Ranker, *histories: list[int], length: int = 4) -> Tensor:
    """Scores (B, N); a negative item was shown and not chosen."""
    items = torch.tensor([[0] * (length - len(items)) + items for items in histories])
    return ranker(items.abs(), (items > 0).float().unsqueeze(2), np.zeros(len(items), np.int64))


def order(scores: Tensor) -> Tensor:
    """Which item is above which, (B, N, N)."""
    return scores.unsqueeze(2) > scores.unsqueeze(1)


@pytest.fixture(params=sorted(BASELINES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_only_training_steps_are_read(name: str) -> None:
    other = dataclasses.replace(LOG, item=np.append(LOG.item[:11], [2, 6, 6]).astype(np.int32))
    histories: tuple[list[int], ...] = ([], [1], [4, 5], [2, 1, 3])
    scores = asked(fit_baseline(name, LOG, ROLES), *histories)
    assert torch.equal(scores, asked(fit_baseline(name, other, ROLES), *histories))
    everything = asked(fit_baseline(name, LOG, np.zeros(14, np.int8)), *histories)
    assert not torch.equal(scores, everything)


def test_only_choices_train_and_count_as_history(name: str) -> None:
    ranker = fit_baseline(name, LOG, ROLES)
    assert torch.equal(order(asked(ranker, [5, 2, -3, -6])), order(asked(ranker, [5, 2])))
    shown = np.append(LOG.feedback[:11], np.zeros((3, 1), np.float32), 0)
    unchosen = fit_baseline(name, dataclasses.replace(LOG, feedback=shown), np.zeros(14, np.int8))
    assert torch.equal(asked(unchosen, [5, 2]), asked(ranker, [5, 2]))


def test_a_history_that_says_nothing_ranks_by_popularity(name: str) -> None:
    scores = asked(fit_baseline(name, LOG, ROLES), [], [-3])
    assert torch.equal(scores.argsort(1, descending=True)[:, :3] + 1, torch.tensor([BY_POPULARITY] * 2))
    assert torch.equal(scores[:, 3], scores[:, 4]) and torch.equal(scores[:, 5], scores[:, 6])
    assert bool((scores[:, 4] > scores[:, 5]).all())


def test_a_batch_is_its_rows(name: str) -> None:
    ranker = fit_baseline(name, LOG, ROLES)
    histories = [[1, 2], [], [3], [5, 4, 2, 2], [7]] * 20
    together = asked(ranker, *histories)
    assert bool(together.isfinite().all())
    torch.testing.assert_close(together, torch.cat([asked(ranker, row) for row in histories]))


def test_logs_without_training_targets_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="log 'log' has no training target among its 14 steps, expected at least 1"):
        fit_baseline(name, LOG, np.full(14, TEST, np.int8))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no baseline is called 'oracle'; there are ease, item-knn"):
        fit_baseline("oracle", LOG, ROLES)


def test_popularity_by_hand() -> None:
    scores = asked(fit_baseline("popularity", LOG, ROLES), [4], [])
    torch.testing.assert_close(scores, torch.tensor([[4.0, 3, 2, 1, 1, 0, 0]] * 2) / 5)


def test_repeats_come_by_recency_before_popularity() -> None:
    scores = asked(fit_baseline("repeat-history", LOG, ROLES), [4, 6, 4, 5], [6, 2])
    best = scores.argsort(1, descending=True)[:, :5] + 1
    assert best.tolist() == [[5, 4, 6, 1, 2], [2, 6, 1, 3, *best[1, 4:].tolist()]]
    assert scores[1, 3] == scores[1, 4]  # 4 and 5 were chosen once each


def random_log(users: int, num_items: int) -> Sequences:
    """Users with one to eight choices each, repeats among them."""
    draws = np.random.default_rng(4)
    return sequences([draws.integers(1, num_items + 1, draws.integers(1, 9)).tolist() for _ in range(users)], num_items)
