"""Sequences on disk, windows against a plain loop, splits that share no future."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recgym.files import FormatError
from recgym.logs import splits
from recgym.logs.pivot import build_sequences
from recgym.logs.readers.native import sample_log
from recgym.logs.sequences import Sequences, Starts, windows
from tests.backbones.test_ranking import sequences


@pytest.fixture(scope="module")
def sample() -> Sequences:
    return build_sequences(sample_log())


def test_save_and_load_are_equal_and_memory_mapped(sample: Sequences, tmp_path: Path) -> None:
    sample.save(tmp_path / "log")
    again = Sequences.load(tmp_path / "log")
    assert isinstance(again.item, np.memmap)
    assert again.fingerprint() == sample.fingerprint()
    assert again.kinds == sample.kinds
    np.testing.assert_array_equal(again.feedback, sample.feedback)
    assert again.items.equals(sample.items)


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    sequences([[1, 2, 3]], 3).save(folder)
    np.save(folder / "item.npy", np.zeros(2, np.int32))
    with pytest.raises(FormatError, match=r"item\.npy: 2 steps, sequences\.json says 3"):
        Sequences.load(folder)
    (folder / "item.npy").write_bytes(b"no array")
    with pytest.raises(FormatError, match=r"item\.npy: missing, truncated or foreign"):
        Sequences.load(folder)
    with pytest.raises(FormatError, match=r"sequences\.json: not found"):
        Sequences.load(tmp_path)


@pytest.mark.parametrize(("name", "array"), [("offsets", np.array([0, 2])), ("feedback", np.zeros((3, 9), np.float32))])
def test_arrays_that_do_not_fit_each_other_are_refused(tmp_path: Path, name: str, array: np.ndarray) -> None:
    sequences([[1, 2, 3]], 3).save(tmp_path / "log")
    np.save(tmp_path / "log" / f"{name}.npy", array)
    with pytest.raises(FormatError, match=rf"{name}\.npy"):
        Sequences.load(tmp_path / "log")


def test_windows_equal_a_plain_loop(sample: Sequences) -> None:
    steps = np.array([0, 1, 7, 60, 5000, sample.num_steps - 1])
    items, feedback = windows(sample, steps, 5)
    for row, step in enumerate(steps):
        first = sample.offsets[sample.user_of_step[step]]
        past = np.arange(max(first, step - 5), step)
        expected = np.concatenate([np.zeros(5 - len(past)), sample.item[past]])
        np.testing.assert_array_equal(items[row], expected)
        np.testing.assert_array_equal(feedback[row, 5 - len(past) :], sample.feedback[past])


def test_starts_are_what_stood_before_the_session(sample: Sequences) -> None:
    starts = Starts.of(sample, np.array([0, 3]), 4)
    items, _ = windows(sample, sample.session_bounds[[0, 3]], 4)
    assert torch.equal(starts.items, torch.from_numpy(items))
    with pytest.raises(ValueError, match="starts need user"):
        Starts(starts.user[:0], starts.items[:0], starts.feedback[:0])


def test_temporal_split_shares_no_future(sample: Sequences) -> None:
    roles = splits.temporal(sample, validation=0.1, test=0.2)
    start = sample.time[sample.session_bounds[:-1]]
    of_session = roles[sample.session_bounds[:-1]]
    assert start[of_session == splits.TRAIN].max() <= start[of_session == splits.VALIDATION].min()
    assert start[of_session == splits.VALIDATION].max() <= start[of_session == splits.TEST].min()
    shares = np.bincount(roles) / len(roles)
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.005)
    assert all(len(set(roles[sample.session == s])) == 1 for s in range(20))


def test_leave_one_out_takes_the_last_targets() -> None:
    roles = splits.leave_one_out(sequences([[1, 2, 3, 1], [2], [3, 3], [1, 2, 3]], 3))
    assert roles.tolist() == [0, 0, 1, 2, 0, 0, 0, 0, 1, 2]


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 sessions"):
        splits.temporal(sequences([[1], [2]], 2))
    with pytest.raises(ValueError, match="add up to below 1"):
        splits.temporal(sequences([[1], [2], [1]], 2), validation=0.5, test=0.5)
