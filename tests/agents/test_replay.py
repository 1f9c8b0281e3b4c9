"""Replay: steps of n by hand, cut sessions, draws in proportion to priorities, state and memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from agents.layout import Layout
from agents.replay import Batch, Replay, SumTree

LEFT, CUT = {(0, 3)}, {(1, 2)}
"""Environment and step at which a session ends: the user left, or it was cut."""


def filled(steps: int = 6, *, capacity: int = 20, alpha: float = 0.0) -> Replay:
    """Two environments; the row of step t is 10 env + t, its reward 2^t; the last row of the cut one is 99."""
    replay = Replay(capacity, 2, 1, alpha=alpha)
    for step in range(steps):
        left = torch.tensor([(env, step) in LEFT for env in range(2)])
        cut = torch.tensor([(env, step) in CUT for env in range(2)])
        replay.add(
            row=torch.tensor([[step], [10 + step]]).float(), action=torch.tensor([[step], [step]]),
            reward=torch.full((2,), 2.0**step), left=left, cut=cut, last=torch.full((int(cut.sum()), 1), 99.0),
            feedback=torch.full((2, 1, 1), float(step)),
        )  # fmt: skip
    return replay


def found(replay: Replay, steps: int) -> dict[float, tuple[float, float, float]]:
    """Reward, row after and discount of each transition, by its row: from many draws at gamma 0.5."""
    batch = replay.sample(500, discount=0.5, steps=steps)
    assert torch.equal(batch.action[:, 0], batch.now[:, 0].long() % 10)
    assert torch.equal(batch.feedback[:, 0, 0], batch.now[:, 0] % 10)
    rows = torch.stack([batch.now[:, 0], batch.reward, batch.after[:, 0], batch.discount], 1).unique(dim=0)
    return {now: (reward, after, discount) for now, reward, after, discount in rows.tolist()}


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_transitions_of_one_step_by_hand(alpha: float) -> None:
    parts = found(filled(alpha=alpha), 1)
    assert set(parts) == {0, 1, 2, 3, 4, 10, 11, 12, 13, 14}  # what follows step 5 is not known yet
    assert parts[0] == (1.0, 1.0, 0.5)
    assert parts[3][::2] == (8.0, 0.0)  # the user left: nothing follows
    assert parts[12] == (4.0, 99.0, 0.5)  # cut: its last row follows, not the next session's first
    assert parts[13] == (8.0, 14.0, 0.5)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_transitions_of_three_steps_by_hand(alpha: float) -> None:
    parts = found(filled(alpha=alpha), 3)
    assert set(parts) == {0, 1, 2, 10, 11, 12}
    assert parts[0] == (1 + 0.5 * 2 + 0.25 * 4, 3.0, 0.125)
    assert parts[1][::2] == (2 + 0.5 * 4 + 0.25 * 8, 0.0)  # leaves at the third step
    assert parts[2][::2] == (4 + 0.5 * 8, 0.0)  # leaves at the second: the third belongs to another session
    assert parts[10] == (1 + 0.5 * 2 + 0.25 * 4, 99.0, 0.125)
    assert parts[11] == (2 + 0.5 * 4, 99.0, 0.25)  # cut after two steps: gamma^2, and its last row
    assert parts[12] == (4.0, 99.0, 0.5)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_full_replay_forgets_the_oldest(alpha: float) -> None:
    replay = filled(9, capacity=8, alpha=alpha)
    assert len(replay) == 8
    assert set(found(replay, 1)) == {5, 6, 7, 15, 16, 17}
    assert set(found(replay, 2)) == {5, 6, 15, 16}
    assert not replay.last  # the cut step was overwritten, and its last row went with it
    assert filled(4, capacity=8).last.keys() == {2}
    with pytest.raises(ValueError, match="holds 4 steps of each session, expected more than 4"):
        replay.sample(3, discount=0.5, steps=4)


def test_the_sum_tree_finds_where_the_sums_pass_a_share() -> None:
    tree = SumTree(5)
    tree.set(torch.arange(5), torch.tensor([1.0, 0.0, 2.0, 4.0, 1.0], dtype=torch.float64))
    assert float(tree.value[1]) == 8.0
    shares = torch.tensor([0.0, 0.12, 0.13, 0.37, 0.38, 0.87, 0.88, 0.999999, 1.0], dtype=torch.float64)
    assert tree.find(shares).tolist() == [0, 0, 2, 2, 3, 3, 4, 4, 4]
    tree.set(torch.tensor([3, 0]), torch.tensor([0.0, 3.0], dtype=torch.float64))
    assert float(tree.value[1]) == 6.0
    assert tree.find(torch.tensor([0.49, 0.51, 0.99], dtype=torch.float64)).tolist() == [0, 2, 4]


def test_draws_are_in_proportion_to_priorities_and_weights_undo_it() -> None:
    torch.manual_seed(0)
    replay = filled(alpha=0.5)
    places = torch.arange(10)  # of steps 0 to 4; those of step 5 cannot be drawn
    errors = torch.tensor([1.0, 4.0, 9.0, 0.0, 1.0, 1.0, 16.0, 1.0, 0.0, 4.0])
    replay.reprioritise(places, -errors)  # the sign does not matter
    chance = (errors.double() + 1e-6).sqrt()
    chance = chance / chance.sum()
    batch = replay.sample(200_000, discount=0.5, beta=0.7)
    shares = torch.bincount(batch.place, minlength=12) / 200_000
    assert shares[10:].tolist() == [0, 0]
    torch.testing.assert_close(shares[:10], chance.float(), atol=0.003, rtol=0)
    weight = (10 * chance) ** -0.7
    expected = (weight / weight[batch.place.unique()].max())[batch.place]
    torch.testing.assert_close(batch.weight, expected.float(), rtol=1e-5, atol=0)
    full = replay.sample(200_000, discount=0.5, beta=1.0)  # with beta 1 the weighted draws are uniform
    again = torch.bincount(full.place, full.weight.double(), minlength=12)[[1, 2, 6]]
    torch.testing.assert_close(again / again.mean(), torch.ones(3, dtype=torch.float64), atol=0.05, rtol=0)


def test_new_transitions_get_the_highest_priority_so_far() -> None:
    replay = filled(alpha=1.0)
    assert replay.tree is not None
    replay.reprioritise(torch.tensor([0]), torch.tensor([7.0]))
    replay.add(
        torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2), torch.zeros(2, dtype=torch.bool),
        torch.zeros(2, dtype=torch.bool), torch.zeros(0, 1), torch.zeros(2, 1, 1),
    )  # fmt: skip
    assert replay.tree.value[replay.tree.leaves :][[0, 1, 12, 13]].tolist() == pytest.approx([7, 1, 7, 7])


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("steps", [4, 9])
def test_a_restored_replay_draws_the_same(alpha: float, steps: int) -> None:
    replay, again = filled(steps, capacity=12, alpha=alpha), Replay(12, 2, 1, alpha=alpha)
    replay.reprioritise(torch.tensor([2, 3]), torch.tensor([5.0, 0.1]))
    state = replay.state_dict()
    replay_first = drawn(replay)
    again.load_state_dict(state)
    for one, other in zip(replay_first, drawn(again), strict=True):
        assert torch.equal(one, other)
    before = state["arrays"]["row"].clone()
    again.add(*one_step())
    assert torch.equal(state["arrays"]["row"], before)  # the state is a copy
    replay.add(*one_step())
    for one, other in zip(drawn(replay), drawn(again), strict=True):
        assert torch.equal(one, other)


def drawn(replay: Replay) -> Batch:
    torch.manual_seed(3)
    return replay.sample(64, discount=0.5, steps=2, beta=0.4)


def one_step() -> tuple[Tensor, ...]:
    no = torch.zeros(2, dtype=torch.bool)
    return torch.full((2, 1), 50.0), torch.ones(2, 1), torch.ones(2), no, no, torch.zeros(0, 1), torch.ones(2, 1, 1)


def test_a_million_transitions_of_histories_take_less_than_two_gigabytes() -> None:
    layout = Layout(num_items=10_000, state_width=64, history=50, num_feedback=2, shown=50)
    capacity, num_envs = 1_000_000, 128
    with torch.device("meta"):  # sizes without memory
        replay: Any = Replay(capacity, num_envs, layout.width, num_feedback=2, alpha=0.6)
    arrays = [part for part in vars(replay).values() if isinstance(part, Tensor)]
    assert len(arrays) == 6
    bytes_of = sum(part.nbytes for part in arrays) + replay.tree.value.nbytes
    assert replay.length * num_envs >= capacity
    assert layout.width == 64 + 50 + 100 + 50 + 1
    assert bytes_of == pytest.approx(1.1e9, rel=0.02)
    cut = capacity // 20  # sessions of 20 steps that are all cut keep a row each, beside two numbers
    assert bytes_of + cut * (layout.width * 4 + 16) < 2e9
