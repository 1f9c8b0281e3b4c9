"""The ring keeps the last L items in order, whatever is pushed."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recgym.users.history import empty, of_padded, ordered, push


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12), st.integers(1, 5))
def test_the_ring_equals_a_list_cut_to_its_last_entries(pushes: list[tuple[int, int]], length: int) -> None:
    history = empty(2, length, 2)
    for pair in pushes:
        items = torch.tensor(pair)
        history = push(history, items, torch.stack([items * 0.5, items * 2.0], 1))
    items, feedback = ordered(history)
    for user in range(2):
        met = [pair[user] for pair in pushes if pair[user] > 0][-length:]
        assert items[user].tolist() == [0] * (length - len(met)) + met
        assert torch.equal(feedback[user, :, 0], items[user] * 0.5)
        assert torch.equal(feedback[user, :, 1], items[user] * 2.0)


def test_a_padded_array_is_a_ring_whose_padding_goes_first() -> None:
    given_items = torch.tensor([[0, 0, 3], [4, 5, 6]])
    given_feedback = given_items.unsqueeze(2) * 1.0
    history = of_padded(given_items, given_feedback)
    history = push(history, torch.tensor([7, 8]), torch.tensor([[7.0], [8.0]]))
    items, feedback = ordered(history)
    assert items.tolist() == [[0, 3, 7], [5, 6, 8]]
    assert feedback[..., 0].tolist() == items.tolist()
    assert given_items.tolist() == [[0, 0, 3], [4, 5, 6]]


def test_without_gaps_pushing_is_the_same() -> None:
    rings = [empty(3, 4, 1), empty(3, 4, 1)]
    for step in range(7):
        items, feedback = torch.tensor([1, 2, 3]) + step, torch.full((3, 1), float(step))
        push(rings[0], items, feedback)
        push(rings[1], items, feedback, gaps=False)
    for first, second in zip(*rings, strict=True):
        assert torch.equal(first, second)
