"""Caser: its convolutions against plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recgym.backbones.backbone import BackboneConfig, make_backbone, module_of
from recgym.backbones.caser import Caser, CaserConfig

CONFIG = CaserConfig(width=6, heads=1, length=8, dropout=0.0, window=3, horizontal=4, vertical=2)


def model() -> Caser:
    made = module_of(make_backbone(CONFIG, 9, np.ones(1, np.float32), seed=3))
    assert isinstance(made, Caser)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def plainly(backbone: Caser, image: Tensor) -> Tensor:
    """z of one image (window, D) by the paper's equations 3 to 9."""
    features = []
    for height, filters in enumerate(backbone.horizontal, 1):
        weight, bias = filters.get_parameter("weight"), filters.get_parameter("bias")  # (4, D, height), (4,)
        for k in range(4):
            responses = [
                max(0.0, float((weight[k].T * image[i : i + height]).sum() + bias[k])) for i in range(4 - height)
            ]
            features.append(max(responses))
    weight, bias = backbone.vertical.get_parameter("weight"), backbone.vertical.get_parameter("bias")
    for unit in range(6):
        features += [sum(float(weight[k, t] * image[t, unit]) for t in range(3)) + float(bias[k]) for k in range(2)]
    return torch.relu(backbone.join.weight @ torch.tensor(features) + backbone.join.bias)


@torch.no_grad()
def test_states_equal_plain_loops() -> None:
    backbone = model()
    items = torch.tensor([[0, 0, 4, 2], [5, 6, 7, 8]])
    feedback = torch.rand(2, 4, 1, generator=torch.Generator().manual_seed(0)) * (items > 0).unsqueeze(2)
    states = backbone.states(items, feedback)
    seen = backbone.table(items, feedback) * (items > 0).unsqueeze(2)
    for row, step in ((0, 2), (0, 3), (1, 0), (1, 3)):
        image = torch.cat([torch.zeros(2, 6), seen[row]])[step : step + 3]
        torch.testing.assert_close(states[row, step, :6], plainly(backbone, image), atol=1e-5, rtol=1e-5)
        assert float(states[row, step, :6].max()) > 0
        assert torch.equal(states[row, step, 6:], backbone.users.common)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"window is 9, expected 1 to length \(8\)"):
        replace(CONFIG, window=9)
    with pytest.raises(ValueError, match="vertical is 0, expected at least 1"):
        replace(CONFIG, vertical=0)
    with pytest.raises(ValueError, match=r"window is 5, expected 1 to length \(4\)"):
        make_backbone(BackboneConfig(model="caser", length=4), 9, np.ones(1, np.float32))
