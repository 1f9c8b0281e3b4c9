"""Which states predict which steps, how negatives are drawn, and that every loss is the function it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recgym.backbones import losses
from recgym.backbones.backbone import Backbone, BackboneConfig, make_backbone
from recgym.backbones.objectives import LOSSES, LossConfig, Negatives, loss_of, pairs
from recgym.backbones.ragged import Ragged

ITEMS = 9
SIZES = torch.tensor([3, 1, 4])
WINDOW = Ragged(torch.tensor([1, 2, 3, 4, 5, 6, 7, 8]), torch.ones(8, 1), SIZES)
UNIFORM = Negatives.of(torch.zeros(ITEMS), LossConfig())


def model(name: str = "gru") -> Backbone:
    return make_backbone(BackboneConfig(model=name, width=8, layers=1, length=6), ITEMS, np.ones(1, np.float32), seed=3)


@pytest.mark.parametrize("name", ["gru", "sasrec"])
def test_each_wanted_step_is_predicted_from_the_state_before_it(name: str) -> None:
    backbone = model(name)
    wanted = torch.tensor([True, True, False, True, True, False, True, True])
    states, targets = pairs(backbone, WINDOW, wanted, torch.tensor([True, True, False]))
    assert targets.tolist() == [2, 7, 8, 1, 4]  # steps 4 and 5 are first of a window: 4 begins its user, 5 does not
    items = torch.tensor([[0, 0, 1, 2], [0, 0, 0, 4], [5, 6, 7, 8]])
    after = backbone.states(items, torch.ones(3, 4, 1) * (items > 0).unsqueeze(2))
    start = backbone.start_state()
    expected = torch.stack([after[0, 2], after[2, 1], after[2, 2], start, start])
    torch.testing.assert_close(states, expected, atol=1e-6, rtol=1e-6)


def test_a_way_of_training_of_its_own_is_asked_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = model()
    own = (torch.zeros(1, 8), torch.tensor([5]))
    monkeypatch.setattr(backbone, "training_pairs", lambda window, wanted: own, raising=False)
    assert pairs(backbone, WINDOW, torch.ones(8, dtype=torch.bool), torch.ones(3, dtype=torch.bool)) is own


def test_negatives_come_as_often_as_their_share_says() -> None:
    events = torch.tensor([0.0, 3.0, 15.0])
    for power, name in ((0.0, "bpr"), (0.5, "bpr"), (1.0, "in-batch")):
        negatives = Negatives.of(events, LossConfig(name=name, popularity=0.0 if name == "in-batch" else power))
        share = (events + 1) ** power / ((events + 1) ** power).sum()
        torch.testing.assert_close(negatives.log_q.exp(), share)
        torch.manual_seed(0)
        found = torch.bincount(negatives.draw(200, 300).flatten(), minlength=3) / 60_000
        assert float((found - share).abs().max()) < 4 * (0.25 / 60_000) ** 0.5


def drawn(monkeypatch: pytest.MonkeyPatch, ids: Tensor) -> None:
    monkeypatch.setattr(Negatives, "draw", lambda self, *shape: ids)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("cross-entropy", "in-batch")])
@pytest.mark.parametrize("shared", [True, False])
def test_losses_get_the_scores_of_target_and_negatives(
    name: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, states, targets = model(), torch.randn(2, 8), torch.tensor([4, 9])
    ids = torch.tensor([0, 8, 5]) if shared else torch.tensor([[0, 8, 5], [2, 2, 8]])
    drawn(monkeypatch, ids)
    config = LossConfig(name=name, negatives=3, shared=shared, calibration=0.3, regularisation=0.5)
    scores = backbone.scores(states)
    positive = scores[torch.arange(2), targets - 1]
    negative = scores.gather(1, ids.expand(2, 3))
    clash = ids.expand(2, 3) == (targets - 1).unsqueeze(1)
    expected = {
        "sampled-softmax": lambda: losses.sampled_softmax(
            positive, negative, log_q_negative=torch.full((3,), -np.log(ITEMS)), clash=clash
        ),
        "bpr": lambda: losses.bpr(positive, negative, clash=clash),
        "bpr-max": lambda: losses.bpr_max(positive, negative, regularisation=0.5, clash=clash),
        "top1-max": lambda: losses.top1_max(positive, negative, clash=clash),
        "bce": lambda: losses.binary_cross_entropy(positive, negative, clash=clash),
        "gbce": lambda: losses.gbce(positive, negative, num_items=ITEMS, calibration=0.3, clash=clash),
    }[name]()
    torch.testing.assert_close(loss_of(backbone, states, targets, config, UNIFORM), expected)


def test_full_and_in_batch_softmax_by_hand() -> None:
    backbone, states, targets = model(), torch.randn(3, 8), torch.tensor([4, 9, 4])
    scores = backbone.scores(states)
    full = torch.nn.functional.cross_entropy(scores, targets - 1)
    torch.testing.assert_close(loss_of(backbone, states, targets, LossConfig(), UNIFORM), full)
    found = loss_of(backbone, states, targets, LossConfig(name="in-batch", correct=False), UNIFORM)
    plain = [
        -torch.log_softmax(torch.stack([scores[0, 3], scores[0, 8]]), 0)[0],
        -torch.log_softmax(torch.stack([scores[1, 8], scores[1, 3], scores[1, 3]]), 0)[0],
        -torch.log_softmax(torch.stack([scores[2, 3], scores[2, 8]]), 0)[0],
    ]
    torch.testing.assert_close(found, torch.stack(plain).mean())


@pytest.mark.parametrize("name", LOSSES)
def test_the_penalty_is_half_of_lambda_times_squared_lengths(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, states, targets = model(), torch.randn(2, 8), torch.tensor([4, 9])
    ids = torch.tensor([[0, 8, 5], [2, 2, 8]])
    drawn(monkeypatch, ids)
    plain, with_penalty = LossConfig(name=name, negatives=3), LossConfig(name=name, negatives=3, penalty=0.4)
    lengths = [(part**2).sum(-1).mean() for part in (states, backbone.item_vectors()[targets - 1])]
    if name not in ("cross-entropy", "in-batch"):
        lengths.append((backbone.item_vectors()[ids] ** 2).sum(-1).mean())
    more = loss_of(backbone, states, targets, with_penalty, UNIFORM) - loss_of(
        backbone, states, targets, plain, UNIFORM
    )
    torch.testing.assert_close(more, 0.2 * torch.stack(lengths).sum(), atol=1e-6, rtol=1e-5)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="loss is called 'hinge', expected one of cross-entropy"):
        LossConfig(name="hinge")
    with pytest.raises(ValueError, match="negatives is 0"):
        LossConfig(negatives=0)
    with pytest.raises(ValueError, match=r"calibration is 1\.5"):
        LossConfig(calibration=1.5)
    with pytest.raises(ValueError, match="popularity is 0.5, expected 0 for the loss 'gbce'"):
        LossConfig(name="gbce", popularity=0.5)
    with pytest.raises(ValueError, match=r"penalty is -0\.1"):
        LossConfig(penalty=-0.1)
    with pytest.raises(ValueError, match="popularity is nan"):
        LossConfig(popularity=float("nan"))
