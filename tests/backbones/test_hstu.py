"""HSTU: its equations by plain loops, times of steps in full and incremental passes, cosines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from recgym.backbones.backbone import make_backbone
from recgym.backbones.hstu import HSTU, HSTUConfig, Transducer, buckets
from recgym.backbones.objectives import pairs
from recgym.backbones.ragged import Ragged

WIDTH, LENGTH, ITEMS = 8, 5, 12
WEEK = 7 * 86_400.0


def model(*, time_bias: bool = True, temperature: float | None = 0.05, heads: int = 2) -> HSTU:
    """Two layers away from their start, where biases would hardly matter."""
    config = HSTUConfig(width=WIDTH, heads=heads, layers=2, length=LENGTH, time_bias=time_bias, temperature=temperature)
    generator = torch.Generator().manual_seed(4)
    made = HSTU(config, ITEMS, np.ones(1, np.float32)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return made


def history(batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Items (B, T), feedback (B, T, 1) and times (B, T): pauses from seconds to weeks."""
    generator = torch.Generator().manual_seed(7)
    items = torch.randint(1, ITEMS + 1, (batch, length), generator=generator)
    pauses = (torch.rand(batch, length, generator=generator, dtype=torch.float64) * math.log(WEEK)).exp()
    return items, torch.rand(batch, length, 1, generator=generator), 1e9 + pauses.cumsum(1)


def norm(row: Tensor) -> Tensor:
    return (row - row.mean()) / (row.var(unbiased=False) + 1e-6).sqrt()


def by_equations(layer: Transducer, rows: Tensor, time: list[float]) -> Tensor:
    """Equations 1 to 4 for one history (T, D), step by step and key by key."""
    heads, part = layer.heads, WIDTH // layer.heads
    assert layer.by_time is not None
    query, key, value = (
        torch.stack([silu(weight @ norm(row)) for row in rows]) for weight in layer.project.weight.split(WIDTH)
    )
    out = []
    for i, row in enumerate(rows):
        gathered = torch.zeros(WIDTH)
        for head in range(heads):
            here = slice(head * part, (head + 1) * part)
            for j in range(max(0, i - LENGTH + 1), i + 1):
                bucket = int(math.log(max(abs(time[i] - time[j]), 1)) / 0.301)
                score = query[i, here] @ key[j, here] + layer.by_distance[head, i - j] + layer.by_time[bucket]
                gathered[here] += silu(score) / LENGTH * value[j, here]
        gate = silu(layer.gate.weight @ norm(row))
        out.append(row + layer.join.weight @ (norm(gathered) * gate) + layer.join.bias)
    return torch.stack(out)


def test_fresh_item_vectors_are_short_with_groups_too() -> None:
    made = make_backbone(HSTUConfig(width=WIDTH), 2_000, np.ones(1, np.float32), groups=np.arange(2_000) % 40)
    assert 0.015 < float(made.table.vectors().detach().std()) < 0.025


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2])
def test_states_are_what_the_equations_say_also_beyond_the_window(heads: int) -> None:
    backbone = model(heads=heads)
    items, feedback, time = history(3, 2 * LENGTH + 1)
    found = backbone.states(items, feedback, time)
    for row in range(3):
        hidden = backbone.table(items[row], feedback[row]) * WIDTH**0.5
        for layer in backbone.layers:
            assert isinstance(layer, Transducer)
            hidden = by_equations(layer, hidden, time[row].tolist())
        expected = hidden / hidden.norm(dim=1, keepdim=True) / 0.05
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_histories_of_any_sizes_together_have_the_states_of_each_alone() -> None:
    backbone, sizes = model(), [3, 0, 19, 9, 1]
    items, feedback, time = (part[0] for part in history(1, sum(sizes)))
    found = backbone.packed(Ragged(items, feedback, torch.tensor(sizes), time)).split(sizes)
    for state, *alone in zip(found, *(part.split(sizes) for part in (items, feedback, time)), strict=True):
        torch.testing.assert_close(state, backbone.states(*(part.unsqueeze(0) for part in alone))[0])


@torch.no_grad()
def test_advancing_with_times_equals_the_full_pass_beyond_the_window() -> None:
    backbone = model()
    items, feedback, time = history(4, 3 * LENGTH)
    full = backbone.states(items, feedback, time)
    fresh, filled = backbone.start(4), backbone.prefill(items[:, :LENGTH], feedback[:, :LENGTH], time[:, :LENGTH])
    torch.testing.assert_close(filled.state, full[:, LENGTH - 1], atol=1e-5, rtol=1e-5)
    for step in range(3 * LENGTH):
        fresh, state = backbone.advance(fresh, items[:, step], feedback[:, step], time[:, step])
        torch.testing.assert_close(state, full[:, step], atol=1e-5, rtol=1e-5)
        if step >= LENGTH:
            filled, state = backbone.advance(filled, items[:, step], feedback[:, step], time[:, step])
            torch.testing.assert_close(state, full[:, step], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rows_that_wait_keep_their_times() -> None:
    backbone = model()
    items, feedback, time = history(2, LENGTH)
    full = backbone.states(items, feedback, time)
    cache = backbone.start(2)
    for step in range(LENGTH):
        for row in range(2):
            mine = torch.arange(2) == row
            cache, _ = backbone.advance(
                cache, items[:, step] * mine, feedback[:, step], time[:, step] + 5 * WEEK * ~mine
            )
        torch.testing.assert_close(cache.state, full[:, step], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pauses_matter_and_the_calendar_does_not() -> None:
    backbone = model()
    items, feedback, time = history(2, LENGTH)
    states = backbone.states(items, feedback, time)
    torch.testing.assert_close(backbone.states(items, feedback, time + 1000 * WEEK), states)
    later = time.clone()
    later[:, -1] += 50 * WEEK
    moved = backbone.states(items, feedback, later)
    assert torch.equal(moved[:, :-1], states[:, :-1])
    assert not torch.allclose(moved[:, -1], states[:, -1], atol=0.1)


@torch.no_grad()
def test_unknown_times_add_nothing() -> None:
    timed, timeless = model(), model(time_bias=False)
    timeless.load_state_dict({name: t for name, t in timed.state_dict().items() if "by_time" not in name})
    items, feedback, time = history(2, LENGTH)
    expected = timeless.states(items, feedback)
    torch.testing.assert_close(timed.states(items, feedback), expected)
    torch.testing.assert_close(timed.states(items, feedback, torch.full_like(time, torch.nan)), expected)
    torch.testing.assert_close(timeless.states(items, feedback, time), expected)
    torch.testing.assert_close(timeless.prefill(items, feedback, time).state, expected[:, -1])
    cache, state = timed.advance(timed.prefill(items[:, :-1], feedback[:, :-1]), items[:, -1], feedback[:, -1])
    torch.testing.assert_close(state, expected[:, -1])
    assert cache.time.isnan().all() and timeless.start(2).time.shape == (2, 0)


def test_training_reaches_the_bias_by_time() -> None:
    backbone = model()
    items, feedback, time = history(1, LENGTH)
    window = Ragged(items[0], feedback[0], torch.tensor([LENGTH]), time[0])
    states, targets = pairs(backbone, window, torch.ones(LENGTH, dtype=torch.bool), torch.tensor([False]))
    assert targets.tolist() == items[0, 1:].tolist()
    states.sum().backward()
    met = {int(b) for i in range(LENGTH - 1) for b in buckets(time[0, i] - time[0, : i + 1])}
    for layer in backbone.layers:
        assert isinstance(layer, Transducer) and layer.by_time is not None and layer.by_time.grad is not None
        assert layer.by_time.grad.isfinite().all()
        assert set(layer.by_time.grad.nonzero().flatten().tolist()) == met


def test_buckets_of_time_grow_by_a_factor_of_1_35() -> None:
    gaps = torch.tensor([0.0, 1.0, 1.3, 1.4, 86_400.0, -86_400.0, 1e30, torch.nan], dtype=torch.float64)
    assert buckets(gaps).tolist() == [0, 0, 0, 1, 37, 37, 127, 128]


@torch.no_grad()
def test_scores_are_cosines_over_the_temperature_or_plain_products() -> None:
    items, feedback, time = history(2, LENGTH)
    backbone = model(temperature=0.1)
    state = backbone.prefill(items, feedback, time).state
    cosine = torch.nn.functional.cosine_similarity(state.unsqueeze(1), backbone.table.vectors(), dim=2)
    torch.testing.assert_close(backbone.scores(state), cosine / 0.1 + backbone.item_bias())
    plain = model(temperature=None)
    assert torch.equal(plain.item_vectors(), plain.table.vectors())


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature is {temperature}, expected a positive number or None"):
        HSTUConfig(temperature=temperature)
