"""Ragged histories: nothing is lost between padded and packed, and attention sees its own history's past alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from recgym.backbones.backbone import BACKBONES, BackboneConfig, make_backbone, module_of
from recgym.backbones.ragged import Ragged, attend, encode, pack, pasts, places, plan, unpack

SIZES = torch.tensor([3, 0, 19, 1, 8, 9])
STEPS = int(SIZES.sum())


def test_packing_and_unpacking_are_inverse() -> None:
    items = torch.tensor([[0, 0, 4], [0, 0, 0], [1, 2, 3]])
    feedback = torch.rand(3, 3, 2) * (items > 0).unsqueeze(2)
    history = pack(items, feedback)
    assert history.items.tolist() == [4, 1, 2, 3] and history.sizes.tolist() == [1, 0, 3]
    assert torch.equal(unpack(history.items, history.sizes, 3), items)
    assert torch.equal(unpack(history.feedback, history.sizes, 3), feedback)
    filled = unpack(history.feedback, history.sizes, 3, torch.tensor([7.0, 8.0]))
    assert filled[1].tolist() == [[7.0, 8.0]] * 3 and torch.equal(filled[2], feedback[2])


def test_places_count_from_the_start_of_each_history() -> None:
    assert places(torch.tensor([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]


def test_every_step_has_one_cell_and_blocks_are_at_most_half_empty() -> None:
    layout = plan(SIZES)
    held = torch.cat([block.steps for block in layout.blocks])
    assert held[layout.cells].tolist() == list(range(STEPS))
    there = torch.cat([block.there for block in layout.blocks])
    assert int(there.sum()) == STEPS and bool(there[layout.cells].all())
    assert [(block.rows, block.width) for block in layout.blocks] == [(3, 8), (1, 9), (1, 19)]
    assert plan(torch.tensor([0, 0])).blocks == []


def plainly(query: Tensor, key: Tensor, value: Tensor, window: int, bias: Tensor) -> Tensor:
    out = torch.empty_like(query)
    first = 0
    for size in SIZES.tolist():
        for i in range(first, first + size):
            for head in range(query.shape[1]):
                seen = range(max(first, i - window + 1), i + 1)
                logits = [
                    float(query[i, head] @ key[j, head]) / math.sqrt(query.shape[2]) + float(bias[head, i - j])
                    for j in seen
                ]
                weights = torch.softmax(torch.tensor(logits), 0)
                out[i, head] = sum(w * value[j, head] for w, j in zip(weights, seen, strict=True))
        first += size
    return out


@pytest.mark.parametrize(("window", "biased"), [(4, True), (4, False), (50, False), (50, True)])
def test_attention_equals_plain_loops(window: int, biased: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(STEPS, 2, 5, generator=generator) for _ in range(3))
    bias = torch.randn(2, window, generator=generator) * biased
    found = attend(query, key, value, plan(SIZES), window=window, bias=bias if biased else None)
    torch.testing.assert_close(found, plainly(query, key, value, window, bias), atol=1e-5, rtol=1e-5)


def test_attention_without_a_window_sees_the_whole_history_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(STEPS, 2, 5, generator=generator) for _ in range(3))
    found = attend(query, key, value, plan(SIZES), window=None)
    for q, k, v, out in zip(*(part.split(SIZES.tolist()) for part in (query, key, value, found)), strict=True):
        weights = torch.softmax(torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(5), 2)
        torch.testing.assert_close(out, torch.einsum("hij,jhd->ihd", weights, v), atol=1e-5, rtol=1e-5)


def test_the_pasts_of_steps_stay_in_their_history() -> None:
    steps, there = pasts(torch.tensor([2, 0, 4]), 3)
    found = [row[real].tolist() for row, real in zip(steps, there, strict=True)]
    assert found == [[0], [0, 1], [2], [2, 3], [2, 3, 4], [3, 4, 5]]
    assert there.tolist()[:2] == [[False, False, True], [False, True, True]]


def test_other_weights_than_softmax_and_a_bias_of_each_pair_of_steps() -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(STEPS, 2, 5, generator=generator) for _ in range(3))
    extra, layout = torch.randn(STEPS, STEPS, generator=generator), plan(SIZES)
    cells = [block.steps.view(block.rows, block.width) for block in layout.blocks]
    pairwise = [extra[step.unsqueeze(2), step.unsqueeze(1)].unsqueeze(1) for step in cells]
    found = attend(query, key, value, layout, window=4, pairwise=pairwise, mix=torch.nn.functional.silu)
    row, step = torch.repeat_interleave(torch.arange(len(SIZES)), SIZES), torch.arange(STEPS)
    distance = step.unsqueeze(1) - step
    seen = (row.unsqueeze(1) == row) & (distance >= 0) & (distance < 4)
    weights = torch.nn.functional.silu(torch.einsum("ihd,jhd->hij", query, key) + extra) * seen
    torch.testing.assert_close(found, torch.einsum("hij,jhd->ihd", weights, value), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model", sorted(BACKBONES))
@torch.no_grad()
def test_encoding_ragged_histories_equals_each_alone(model: str) -> None:
    backbone = make_backbone(
        BackboneConfig(model=model, width=8, layers=2, heads=2, length=20), 30, np.ones(1, np.float32), seed=2
    )
    generator = torch.Generator().manual_seed(5)
    for parameter in module_of(backbone).parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    items, feedback = torch.randint(1, 31, (STEPS,), generator=generator), torch.rand(STEPS, 1, generator=generator)
    states = encode(backbone, Ragged(items, feedback, SIZES))
    alone = [
        backbone.states(i.unsqueeze(0), f.unsqueeze(0))[0]
        for i, f in zip(items.split(SIZES.tolist()), feedback.split(SIZES.tolist()), strict=True)
        if len(i)
    ]
    torch.testing.assert_close(states, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert encode(backbone, Ragged(items[:0], feedback[:0], torch.tensor([0]))).shape == (0, backbone.width)
