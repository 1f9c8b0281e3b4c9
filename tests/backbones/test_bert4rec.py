"""BERT4Rec: what is hidden and what counts in training, and that a hidden item is seen by no one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recgym.backbones.backbone import make_backbone, module_of
from recgym.backbones.bert4rec import BERT4Rec, BERT4RecConfig
from recgym.backbones.ragged import Ragged
from recgym.backbones.ranking import rank_targets, ranker_of
from recgym.backbones.training import train_backbone
from recgym.logs import splits
from recgym.metrics import hit_rate
from tests.backbones.test_training import CYCLE, ROLES, SMALL

SIZES = torch.tensor([3, 0, 1, 5])
WINDOW = Ragged(torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9]), torch.ones(9, 1), SIZES)
WANTED = torch.tensor([True, True, False, True, False, True, True, True, False])


def model(*, mask_share: float = 0.5, last_share: float = 0.0) -> BERT4Rec:
    config = BERT4RecConfig(
        width=8, layers=2, heads=2, length=6, dropout=0.0, mask_share=mask_share, last_share=last_share
    )
    made = module_of(make_backbone(config, 9, np.ones(1, np.float32), seed=3))
    assert isinstance(made, BERT4Rec)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def test_wanted_steps_are_hidden_as_often_as_the_share_says() -> None:
    backbone, wanted = model(mask_share=0.3), torch.rand(40_000, generator=torch.Generator().manual_seed(0)) < 0.7
    sizes = torch.full((2_000,), 20)
    torch.manual_seed(1)
    hidden = backbone.draw(sizes, wanted)
    assert not bool((hidden & ~wanted).any())
    assert abs(float(hidden[wanted].float().mean()) - 0.3) < 4 * (0.21 / int(wanted.sum())) ** 0.5
    torch.manual_seed(1)
    assert torch.equal(backbone.draw(sizes, wanted), hidden)
    torch.manual_seed(2)
    assert not torch.equal(backbone.draw(sizes, wanted), hidden)


@pytest.mark.parametrize(("mask_share", "last_share"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_last_wanted_step_alone_is_hidden_where_none_or_the_last_was_drawn(
    mask_share: float, last_share: float
) -> None:
    hidden = model(mask_share=mask_share, last_share=last_share).draw(SIZES, WANTED)
    assert hidden.nonzero().squeeze(1).tolist() == [1, 3, 7]


def test_the_share_of_windows_that_hide_their_last_step_alone() -> None:
    torch.manual_seed(0)
    hidden = model(mask_share=1.0, last_share=0.2).draw(torch.full((5_000,), 3), torch.ones(15_000, dtype=torch.bool))
    counts = hidden.view(-1, 3).sum(1)
    assert set(counts.tolist()) == {1, 3}
    assert abs(float((counts == 1).float().mean()) - 0.2) < 4 * (0.16 / 5_000) ** 0.5


@torch.no_grad()
def test_hidden_items_are_predicted_from_both_sides_up_to_the_last_wanted_step(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = model()
    hidden = torch.tensor([True, False, True, False, False, True, False])  # of steps 0, 1, 3, 4, 5, 6, 7
    monkeypatch.setattr(backbone, "draw", lambda sizes, wanted: hidden)
    states, targets = backbone.training_pairs(WINDOW, WANTED)
    assert targets.tolist() == [1, 4, 7]
    for step, changed in enumerate(((), (0,), (), (), (2,), (2,), (), (2,), ())):
        for other in (
            WINDOW._replace(items=WINDOW.items.index_fill(0, torch.tensor(step), 3 if step != 2 else 9)),
            WINDOW._replace(feedback=WINDOW.feedback.index_fill(0, torch.tensor(step), 7.0)),
        ):
            after, _ = backbone.training_pairs(other, WANTED)
            moved = (after - states).abs().amax(1) > 1e-4
            assert tuple(moved.nonzero().squeeze(1).tolist()) == changed, f"step {step}"


@torch.no_grad()
def test_serving_asks_for_an_item_hidden_after_the_history() -> None:
    backbone = model(last_share=1.0)
    states, _ = backbone.training_pairs(WINDOW, WANTED)  # hides the last wanted step of each window
    items = torch.tensor([[0, 0, 1], [0, 0, 0], [5, 6, 7]])
    feedback = torch.ones(3, 3, 1) * (items > 0).unsqueeze(2)
    torch.testing.assert_close(backbone.prefill(items, feedback).state, states, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_places_are_told_apart_by_what_follows() -> None:
    backbone = model()
    items = torch.tensor([[0, 0, 1, 2], [5, 6, 7, 8]])
    feedback = torch.ones(2, 4, 1) * (items > 0).unsqueeze(2)
    swapped = items[:, [0, 1, 3, 2]]
    states = backbone.prefill(items, feedback).state
    assert bool(((backbone.prefill(swapped, feedback).state - states).abs().amax(1) > 1e-4).all())
    backbone.position.weight[2] = backbone.position.weight[1]  # the last step and the one before it stand alike
    states = backbone.prefill(items, feedback).state
    torch.testing.assert_close(backbone.prefill(swapped, feedback).state, states, atol=1e-6, rtol=0)


def test_a_deterministic_successor_is_learned(tmp_path: Path) -> None:
    config = BERT4RecConfig(width=16, layers=1, length=6, dropout=0.0, mask_share=0.2, last_share=0.5)
    settings = replace(SMALL, learning_rate=5e-3, patience=12)
    trained = train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path)
    test = np.flatnonzero(ROLES == splits.TEST)
    assert hit_rate(rank_targets(ranker_of(trained.backbone, CYCLE), CYCLE, test, length=6), 1).mean() == 1.0


def test_wrong_shares_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask_share is 1.5, expected a share in \[0, 1\]"):
        BERT4RecConfig(mask_share=1.5)
    with pytest.raises(ValueError, match="expansion is 0, expected at least 1"):
        BERT4RecConfig(expansion=0)
