"""Every registered backbone: incremental equals full, padding is invisible, folders read back or say why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recgym.backbones.backbone import (
    BACKBONES,
    Backbone,
    BackboneConfig,
    fingerprint,
    load_backbone,
    make_backbone,
    module_of,
    register_backbone,
    save_backbone,
)
from recgym.backbones.sasrec import SASRecConfig
from recgym.checks import check_backbone
from recgym.files import FormatError
from recgym.trees import leaves

ITEMS, FEEDBACK, LENGTH = 30, 2, 6


@pytest.fixture(params=[*sorted(BACKBONES), "original"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    config = BackboneConfig(model=request.param, width=16, layers=2, heads=2, length=LENGTH)
    if request.param == "original":
        config = SASRecConfig(width=16, layers=2, heads=2, length=LENGTH, layer="original", expansion=1)
    made = make_backbone(config, ITEMS, np.array([1.0, 20.0], np.float32), seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # away from the zeros that would hide mistakes
        for parameter in module_of(made).parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made


def history(batch: int, length: int, *, least: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Left-padded items (B, T) and feedback (B, T, F)."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(1, ITEMS + 1, (batch, length), generator=generator)
    feedback = torch.rand(batch, length, FEEDBACK, generator=generator) * torch.tensor([1.0, 60.0])
    size = torch.randint(least, length + 1, (batch, 1), generator=generator)
    there = torch.arange(length) >= length - size
    return items * there, feedback * there.unsqueeze(2)


@torch.no_grad()
def test_advancing_step_by_step_equals_the_full_pass_beyond_the_window(backbone: Backbone) -> None:
    items, feedback = history(5, 3 * LENGTH, least=3 * LENGTH)
    full = backbone.states(items, feedback)
    cache = backbone.start(5)
    torch.testing.assert_close(cache.state, backbone.start_state().expand(5, -1))
    for step in range(items.shape[1]):
        cache, state = backbone.advance(cache, items[:, step], feedback[:, step])
        torch.testing.assert_close(state, full[:, step], atol=1e-5, rtol=0)
        assert state is cache.state or torch.equal(state, cache.state)


@torch.no_grad()
def test_advancing_after_a_prefill_equals_the_full_pass(backbone: Backbone) -> None:
    items, feedback = history(40, LENGTH)
    more, reaction = history(40, 4, least=4, seed=1)
    whole = torch.cat([items, more], 1), torch.cat([feedback, reaction], 1)
    full = backbone.states(*whole)
    cache = backbone.prefill(items, feedback)
    torch.testing.assert_close(cache.state, full[:, LENGTH - 1], atol=1e-5, rtol=0)
    for step in range(4):
        cache, state = backbone.advance(cache, more[:, step], reaction[:, step])
        torch.testing.assert_close(state, full[:, LENGTH + step], atol=1e-5, rtol=0)


@torch.no_grad()
def test_no_state_sees_what_comes_after_it(backbone: Backbone) -> None:
    items, feedback = history(4, 2 * LENGTH, least=2 * LENGTH)
    before = backbone.states(items, feedback)
    for step in (1, LENGTH, 2 * LENGTH - 1):
        other, reaction = items.clone(), feedback.clone()
        other[:, step], reaction[:, step] = other[:, step] % ITEMS + 1, reaction[:, step] + 3
        after = backbone.states(other, reaction)
        torch.testing.assert_close(after[:, :step], before[:, :step], atol=1e-6, rtol=0)
        assert not torch.allclose(after[:, step], before[:, step], atol=1e-4)


@torch.no_grad()
def test_a_history_has_the_same_states_in_any_company(backbone: Backbone) -> None:
    items, feedback = history(9, LENGTH)
    together = backbone.states(items, feedback)
    for row in range(9):
        alone = backbone.states(items[row : row + 1], feedback[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)
    assert backbone.states(items[:0], feedback[:0]).shape == (0, LENGTH, backbone.width)


def test_the_contract_holds(backbone: Backbone) -> None:
    check_backbone(backbone)


@torch.no_grad()
def test_an_item_of_zero_leaves_its_row_alone(backbone: Backbone) -> None:
    items, feedback = history(6, LENGTH)
    more, reaction = history(6, 5, least=5, seed=2)
    patient, busy = backbone.prefill(items, feedback), backbone.prefill(items, feedback)
    skip = torch.tensor([True, False, True, False, False, True])
    for step in range(5):
        shown = torch.where(skip & (step % 2 == 0), 0, more[:, step])
        busy, state = backbone.advance(busy, shown, reaction[:, step])
        if step % 2 == 1:
            patient, _ = backbone.advance(patient, torch.where(skip, more[:, step], 0), reaction[:, step])
    torch.testing.assert_close(state[skip], patient.state[skip], atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_cache_does_not_grow(backbone: Backbone) -> None:
    items, feedback = history(3, 4 * LENGTH, least=4 * LENGTH)
    cache = backbone.start(3)
    shapes = [leaf.shape for leaf in leaves(cache)]
    for step in range(items.shape[1]):
        cache, _ = backbone.advance(cache, items[:, step], feedback[:, step])
    assert [leaf.shape for leaf in leaves(cache)] == shapes


@torch.no_grad()
def test_padding_and_other_rows_change_nothing(backbone: Backbone) -> None:
    items, feedback = history(8, LENGTH)
    padded = torch.cat([torch.zeros(8, 3, dtype=torch.int64), items], 1)
    states = backbone.states(padded, torch.cat([torch.zeros(8, 3, FEEDBACK), feedback], 1))
    torch.testing.assert_close(states[:, 3:], backbone.states(items, feedback), atol=1e-5, rtol=0)
    alone = backbone.states(items[2:3], feedback[2:3])
    torch.testing.assert_close(states[2:3, 3:], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(states[:, :3], backbone.start_state().expand(8, 3, -1))


@torch.no_grad()
def test_the_future_is_not_read(backbone: Backbone) -> None:
    items, feedback = history(4, LENGTH, least=LENGTH)
    changed = items.clone()
    changed[:, -1] = changed[:, -1] % ITEMS + 1
    before, after = backbone.states(items, feedback), backbone.states(changed, feedback)
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


@torch.no_grad()
def test_scores_are_dot_products_and_feedback_matters(backbone: Backbone) -> None:
    items, feedback = history(4, LENGTH, least=LENGTH)
    state = backbone.states(items, feedback)[:, -1]
    torch.testing.assert_close(backbone.scores(state), state @ backbone.item_vectors().T + backbone.item_bias())
    assert backbone.scores(state).shape == (4, ITEMS)
    assert not torch.allclose(state, backbone.states(items, 0 * feedback)[:, -1])


@torch.no_grad()
def test_a_folder_reads_back_and_a_damaged_one_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    save_backbone(backbone, folder)
    again = load_backbone(folder)
    items, feedback = history(3, LENGTH)
    assert torch.equal(again.states(items, feedback), backbone.states(items, feedback))
    assert fingerprint(again) == fingerprint(backbone)
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=r"weights\.safetensors: cannot be read"):
        load_backbone(folder)
    changed = bytearray(whole)
    changed[-1] ^= 64
    weights.write_bytes(bytes(changed))
    with pytest.raises(FormatError, match="not those that"):
        load_backbone(folder)
    weights.unlink()
    with pytest.raises(FormatError, match="cannot be read"):
        load_backbone(folder)
    with pytest.raises(FormatError, match=r"backbone\.json: not found"):
        load_backbone(tmp_path)


def test_weights_follow_the_seed_and_global_randomness_is_left_alone() -> None:
    scale = np.ones(1, np.float32)
    before = torch.get_rng_state()
    first, second, third = (make_backbone(BackboneConfig(width=8), 10, scale, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert fingerprint(first) == fingerprint(second) != fingerprint(third)


@pytest.mark.parametrize("model", ["sasrec", "esasrec", "decoder"])
def test_item_vectors_of_a_large_catalogue_start_short(model: str) -> None:
    backbone = make_backbone(BackboneConfig(model=model, width=16), 20_000, np.ones(1, np.float32))
    expected = (2 / (20_000 + 1 + 16)) ** 0.5
    for vectors in (backbone.table.inputs(), backbone.item_vectors()):
        assert abs(float(vectors.detach().std()) / expected - 1) < 0.01
    assert bool((backbone.table.embedding.weight[0] == 0).all())


def test_wrong_names_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="no backbone is called 'lstm'; there are .*gru.*sasrec"):
        make_backbone(BackboneConfig(model="lstm"), 10, np.ones(1, np.float32))
    with pytest.raises(ValueError, match="multiple of heads"):
        BackboneConfig(width=10, heads=3)
    with pytest.raises(ValueError, match="length is 0"):
        BackboneConfig(length=0)
    with pytest.raises(ValueError, match="already registered"):
        register_backbone("gru", "elsewhere:Net")
    with pytest.raises(ValueError, match="expected 'module:Class'"):
        register_backbone("mine", "elsewhere")
