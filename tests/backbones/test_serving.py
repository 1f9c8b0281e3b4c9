"""Names in, names out: unknown items are refused or counted, and never change what the rest of a history says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recgym.backbones.backbone import BACKBONES, Backbone, BackboneConfig, make_backbone
from recgym.backbones.serving import recommend

NAMES = ["tea", "cup", "pot", "jam", "oat"]


@pytest.fixture
def backbone() -> Backbone:
    made = make_backbone(BackboneConfig(width=8, layers=1, length=3), 5, np.ones(2, np.float32), seed=4)
    with torch.no_grad():
        made.item_bias().copy_(torch.tensor([0.1, 0.5, 0.2, 0.4, 0.3]))  # the start state alone would like all alike
    return made


def test_the_best_items_are_those_of_the_scores(backbone: Backbone) -> None:
    found = recommend(backbone, NAMES, [["tea", "cup"], []], k=5)
    feedback = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    state = backbone.prefill(torch.tensor([[0, 1, 2]]), feedback).state
    for row, one in enumerate((state[0], backbone.start_state())):
        scores = backbone.scores(one).detach()
        order = scores.argsort(descending=True)
        assert found.items[row] == [NAMES[j] for j in order.tolist()]
        assert found.scores[row] == pytest.approx(scores[order].tolist(), abs=1e-5)
    assert found.unseen == {}


def test_unknown_items_are_refused_by_place_and_name_or_skipped_and_counted(backbone: Backbone) -> None:
    histories = [["tea", "rum", "cup"], ["rum", "gin"]]
    with pytest.raises(ValueError, match="history 0, step 1: item 'rum' is not in the catalogue; pass unseen='skip'"):
        recommend(backbone, NAMES, histories)
    found = recommend(backbone, NAMES, histories, unseen="skip")
    assert found.unseen == {"rum": 2, "gin": 1}
    assert found.scores == recommend(backbone, NAMES, [["tea", "cup"], []]).scores


def test_the_last_known_steps_are_read_with_their_feedback(backbone: Backbone) -> None:
    long = ["jam", "oat", "tea", "rum", "cup", "pot"]
    amounts = np.arange(12, dtype=np.float32).reshape(6, 2)
    found = recommend(backbone, NAMES, [long], feedback=[amounts], unseen="skip")
    short = recommend(backbone, NAMES, [["tea", "cup", "pot"]], feedback=[amounts[[2, 4, 5]]])
    assert found.scores == short.scores
    assert found.scores != recommend(backbone, NAMES, [long], unseen="skip").scores


def test_what_was_met_is_left_out_even_before_the_window(backbone: Backbone) -> None:
    found = recommend(backbone, NAMES, [["jam", "tea", "cup", "pot"]], mask_seen=True)
    assert found.items == [["oat"]] and len(found.scores[0]) == 1


@pytest.mark.parametrize("model", sorted(BACKBONES))
def test_nobody_gets_nothing(model: str) -> None:
    backbone = make_backbone(BackboneConfig(model=model, width=8, length=5), 5, np.ones(1, np.float32))
    assert recommend(backbone, NAMES, []).items == []


def test_wrong_arguments_are_named(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="catalogue has 4 items, the backbone was trained on 5"):
        recommend(backbone, NAMES[:4], [[]])
    with pytest.raises(ValueError, match="catalogue holds 'pot' 2 times, expected every name once"):
        recommend(backbone, [*NAMES[:4], "pot"], [[]])
    with pytest.raises(ValueError, match="unseen is 'drop'"):
        recommend(backbone, NAMES, [[]], unseen="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"feedback\[0\] has shape \(2, 1\), expected \(1, 2\)"):
        recommend(backbone, NAMES, [["tea"]], feedback=[np.ones((2, 1), np.float32)])
    with pytest.raises(ValueError, match="k is 0"):
        recommend(backbone, NAMES, [[]], k=0)
    with pytest.raises(ValueError, match="feedback has 0 rows, histories has 1"):
        recommend(backbone, NAMES, [[]], feedback=[])
