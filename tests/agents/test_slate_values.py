"""Slates of the highest value: against enumeration, against a linear program, and what the shortcuts cost."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from agents.slates import Items, Selection, choice_chances, slate_scores, slate_values

SLATES = torch.tensor(list(combinations(range(8), 3)))  # (56, 3)


def some_items(batch: int, *, common: float = 0.0) -> Items:
    draw = torch.Generator().manual_seed(0)
    values = common + torch.randn(batch, 9, generator=draw)
    return Items(torch.randn(batch, 8, generator=draw), values[:, :8], values[:, 8])


def value_of(items: Items, scores: Tensor, mask: Tensor | None = None) -> Tensor:
    allowed = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    return slate_values(items, allowed.topk(3, 1).indices)


def of_all(items: Items) -> Tensor:
    """Values of all slates, (B, 56)."""
    return torch.stack([slate_values(items, slate.expand(len(items.nothing), 3)) for slate in SLATES], 1)


def test_values_by_hand() -> None:
    logit = torch.log(torch.tensor([[1.0, 2.0, 4.0]]))
    items = Items(logit, torch.tensor([[3.0, 6.0, 1.0]]), torch.tensor([2.0]))
    torch.testing.assert_close(choice_chances(logit[:, :2]), torch.tensor([[0.25, 0.5, 0.25]]))
    assert slate_values(items, torch.tensor([[0, 1]])).item() == pytest.approx((3 + 12 + 2) / 4)


@pytest.mark.parametrize("common", [0.0, 150.0])
def test_exact_is_the_best_of_all_slates(common: float) -> None:
    items = some_items(300, common=common)
    every = of_all(items)
    torch.testing.assert_close(value_of(items, slate_scores(items, None, 3, "exact")), every.amax(1))
    mask = torch.arange(300).unsqueeze(1) % torch.arange(2, 10) != 0  # at least three are allowed
    mask[:, :3] = True
    forbidden = (~mask[:, SLATES]).any(2)  # (B, 56)
    found = value_of(items, slate_scores(items, mask, 3, "exact"), mask)
    torch.testing.assert_close(found, every.masked_fill(forbidden, -torch.inf).amax(1))


def test_exact_solves_the_linear_program_of_charnes_and_cooper() -> None:
    """Maximise sum of w Q y + Q_none t, where sum of w y + t = 1, sum of y = K t, 0 <= y <= t; x = y / t."""
    items = some_items(20)
    for row in range(20):
        weight, value = items.logit[row].exp().double().numpy(), items.value[row].double().numpy()
        both = np.stack([np.append(weight, 1.0), np.append(np.ones(8), -3.0)])
        below = np.hstack([np.eye(8), -np.ones((8, 1))])
        found = linprog(
            -np.append(weight * value, float(items.nothing[row])), A_ub=below, b_ub=np.zeros(8), A_eq=both, b_eq=[1, 0]
        )
        one = Items(*(part[row : row + 1] for part in items))
        assert value_of(one, slate_scores(one, None, 3, "exact")).item() == pytest.approx(-found.fun, abs=1e-5)


def test_greedy_is_the_best_slot_by_slot_and_top_k_ranks_by_weighted_value() -> None:
    items = some_items(300)
    best = of_all(items).amax(1)
    greedy = value_of(items, slate_scores(items, None, 3, "greedy"))
    top = value_of(items, slate_scores(items, None, 3, "top-k"))
    assert bool((greedy <= best + 1e-5).all()) and bool((top <= best + 1e-5).all())
    assert 0.5 < float((greedy >= best - 1e-5).float().mean()) < 1  # often, never surely
    assert float((best - greedy).mean()) < float((best - top).mean())
    weight = items.logit.exp()
    first = ((weight * items.value + items.nothing.unsqueeze(1)) / (1 + weight)).argmax(1)
    assert torch.equal(slate_scores(items, None, 3, "greedy").argmax(1), first)
    torch.testing.assert_close(slate_scores(items, None, 3, "top-k"), weight * items.value)


@pytest.mark.parametrize("selection", ["exact", "top-k", "greedy"])
def test_masks_and_batches_do_not_meet(selection: Selection) -> None:
    items = some_items(40, common=20.0)
    mask = torch.arange(8).expand(40, -1) % 2 == 0
    scores = slate_scores(items, mask, 3, selection)
    chosen = scores.masked_fill(~mask, -torch.inf).topk(3, 1).indices
    assert bool((chosen % 2 == 0).all())
    for row in (0, 17):
        alone = slate_scores(Items(*(part[row : row + 1] for part in items)), mask[row : row + 1], 3, selection)
        assert torch.equal(alone.masked_fill(~mask[:1], -torch.inf).topk(3, 1).indices, chosen[row : row + 1])
