"""Caser: its convolutions against plain loops, and users who are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recgym.backbones.backbone import BackboneConfig, load_backbone, make_backbone, module_of, save_backbone
from recgym.backbones.caser import Caser, CaserConfig
from recgym.backbones.objectives import LossConfig
from recgym.backbones.ranking import rank_targets, ranker_of
from recgym.backbones.training import train_backbone
from recgym.logs import splits
from recgym.metrics import hit_rate
from tests.backbones.test_training import CYCLE, ROLES, SMALL

CONFIG = CaserConfig(width=6, heads=1, length=8, dropout=0.0, window=3, horizontal=4, vertical=2, num_users=5)


def model(config: CaserConfig = CONFIG) -> Caser:
    made = module_of(make_backbone(config, 9, np.ones(1, np.float32), seed=3))
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
        assert torch.equal(states[row, step, 6:], backbone.anyone)


@torch.no_grad()
def test_known_users_have_vectors_of_their_own(tmp_path: Path) -> None:
    backbone = model()
    states, users = torch.randn(3, 12, generator=torch.Generator().manual_seed(1)), torch.tensor([4, 0, 4])
    known = backbone.personal(states, users)
    assert torch.equal(known[:, :6], states[:, :6])
    torch.testing.assert_close(known[:, 6:] - states[:, 6:], backbone.users.weight[users])
    save_backbone(backbone, tmp_path / "backbone")
    again = module_of(load_backbone(tmp_path / "backbone"))
    assert isinstance(again, Caser) and torch.equal(again.personal(states, users), known)
    stranger = model(replace(CONFIG, num_users=0))
    assert torch.equal(stranger.personal(states, users), states)


@pytest.mark.parametrize("num_users", [0, CYCLE.num_users])
def test_a_deterministic_successor_is_learned(num_users: int, tmp_path: Path) -> None:
    config = CaserConfig(width=16, length=6, dropout=0.0, num_users=num_users)
    settings = replace(SMALL, loss=LossConfig(name="bce", negatives=3))
    trained = train_backbone(CYCLE, ROLES, config, settings, folder=tmp_path)
    test = np.flatnonzero(ROLES == splits.TEST)
    assert hit_rate(rank_targets(ranker_of(trained.backbone, CYCLE), CYCLE, test, length=6), 1).mean() == 1.0
    users = module_of(trained.backbone).get_parameter("users.weight")
    assert users.shape == (num_users, 16) and bool((users.abs().amax(1) > 0).all())


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"window is 9, expected 1 to length \(8\)"):
        replace(CONFIG, window=9)
    with pytest.raises(ValueError, match="vertical is 0, expected at least 1"):
        replace(CONFIG, vertical=0)
    with pytest.raises(ValueError, match="num_users is -1, expected at least 0"):
        replace(CONFIG, num_users=-1)
    with pytest.raises(ValueError, match=r"window is 5, expected 1 to length \(4\)"):
        make_backbone(BackboneConfig(model="caser", length=4), 9, np.ones(1, np.float32))
