"""The hybrid's scores by its formula, for known and unknown users; of either part alone it is that part."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone, make_backbone, module_of
from recgym.backbones.hybrid import Hybrid, HybridConfig
from recgym.backbones.ragged import encode, pack
from recgym.checks import check_backbone

ITEMS, USERS = 9, 4


def backbone(encoder: str, weight: float | None) -> Backbone:
    config = HybridConfig(width=8, layers=1, length=5, encoder=encoder, weight=weight, num_users=USERS)
    made = make_backbone(config, ITEMS, np.ones(1, np.float32), seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module_of(made).parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return made


def joined(encoder: str, weight: float | None) -> Hybrid:
    return cast("Hybrid", backbone(encoder, weight))


def history() -> tuple[Tensor, Tensor]:
    items = torch.tensor([[0, 0, 1, 5], [3, 2, 9, 9], [0, 0, 0, 0]])
    return items, torch.ones(3, 4, 1) * (items > 0).unsqueeze(2)


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["gru", "sasrec", "fpmc"])
@pytest.mark.parametrize("weight", [None, 0.3])
def test_scores_are_the_formula(encoder: str, weight: float | None) -> None:
    model = joined(encoder, weight)
    h = model.encoder.states(*history())[:, -1]
    states = model.prefill(*history()).state
    people = torch.tensor([2, 0, 3])
    for found, own in (
        (states, 0 * model.users.own[people]),
        (model.personal(states, people), model.users.own[people]),
    ):
        for row in range(3):
            p = model.users.common + own[row]
            if model.gate is None:
                g = 0.3
            else:
                w = model.gate.weight[0]
                g = 1 / (1 + math.exp(-float(w @ torch.cat([h[row], p]) + model.gate.bias)))
            sequential = model.encoder.item_vectors() @ h[row]
            expected = g * sequential + (1 - g) * (model.factors @ p) + model.encoder.item_bias()
            torch.testing.assert_close(model.scores(found[row]), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_of_one_part_alone_it_is_that_part() -> None:
    sequential, static = joined("sasrec", 1.0), joined("sasrec", 0.0)
    states = sequential.personal(sequential.states(*history())[:, -1], torch.tensor([0, 1, 2]))
    alone = sequential.encoder.scores(sequential.encoder.states(*history())[:, -1])
    torch.testing.assert_close(sequential.scores(states), alone)
    states = static.personal(static.states(*history())[:, -1], torch.tensor([1, 1, 1]))
    scores = static.scores(states)
    torch.testing.assert_close(scores, scores[:1].expand(3, -1))


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["caser", "decoder", "hstu", "transrec"])
@pytest.mark.parametrize("weight", [None, 0.3])
def test_any_encoder_may_be_joined(encoder: str, weight: float | None) -> None:
    model = backbone(encoder, weight)
    check_backbone(model)
    items, feedback = history()
    torch.testing.assert_close(
        encode(model, pack(items, feedback)), model.states(items, feedback)[items > 0], atol=1e-5, rtol=0
    )
    assert all(name.split(".")[0] in ("encoder", "users", "factors", "gate") for name in module_of(model).state_dict())


@torch.no_grad()
@pytest.mark.parametrize("bias", [-300.0, 300.0])
def test_a_gate_that_is_shut_gives_finite_states(bias: float) -> None:
    model = joined("gru", None)
    assert model.gate is not None
    model.gate.bias.fill_(bias)
    model.gate.weight[:, 8:] = -bias  # a known user's gate may stand at the other end
    model.users.common.zero_()
    model.users.own[0] = 1
    states = model.states(*history())[:, -1]
    own = model.personal(states, torch.tensor([0, 0, 0]))
    assert bool(own.isfinite().all())
    wide_open = own if bias < 0 else states
    h = model.encoder.states(*history())[:, -1]
    torch.testing.assert_close(wide_open[:, :8], h, atol=1e-5, rtol=1e-5)


def test_encoders_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="encoder is 'hybrid', expected another"):
        HybridConfig(encoder="hybrid")
    with pytest.raises(ValueError, match=r"weight is 1\.5, expected a share"):
        HybridConfig(weight=1.5)
    with pytest.raises(ValueError, match="no backbone is called 'lstm'"):
        make_backbone(HybridConfig(encoder="lstm"), ITEMS, np.ones(1, np.float32))
    with pytest.raises(ValueError, match="encoder is 'bert4rec', expected one that trains on next items"):
        make_backbone(HybridConfig(encoder="bert4rec"), ITEMS, np.ones(1, np.float32))
