"""Who somebody is: learned where the last item cannot tell, nothing for the unknown, and kept in the folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recgym.backbones.backbone import (
    Backbone,
    BackboneConfig,
    fingerprint,
    load_backbone,
    make_backbone,
    module_of,
    personal_states,
    save_backbone,
)
from recgym.backbones.caser import CaserConfig
from recgym.backbones.fpmc import FPMCConfig
from recgym.backbones.hybrid import HybridConfig
from recgym.backbones.objectives import LossConfig
from recgym.backbones.ranking import rank_targets, ranker_of
from recgym.backbones.training import TrainingConfig, train_backbone
from recgym.backbones.transrec import TransRecConfig
from recgym.backbones.user_vectors import UserVectors
from recgym.metrics import hit_rate
from tests.backbones.test_ranking import sequences

USERS = 16
Known = CaserConfig | FPMCConfig | HybridConfig | TransRecConfig
CONFIGS: dict[str, Known] = {
    "caser": CaserConfig(width=8, length=4, window=1, dropout=0.0, num_users=USERS),
    "fpmc": FPMCConfig(width=8, length=4, num_users=USERS),
    "transrec": TransRecConfig(width=8, length=4, num_users=USERS),
    "hybrid, gate": HybridConfig(width=8, length=4, encoder="fpmc", num_users=USERS),
    "hybrid, weight": HybridConfig(width=8, length=4, encoder="fpmc", weight=0.5, num_users=USERS),
}
DOORS = sequences([[1, 2 + user % 2] * 4 for user in range(USERS)], 3)
DOORS = replace(DOORS, feedback=(DOORS.item != 1).astype(np.float32)[:, None])
"""Behind the door 1, which nobody chooses, half of the users choose 2 and the others 3."""
ROLES = np.tile(np.repeat(np.array([0, 1, 2], np.int8), [4, 2, 2]), USERS)


def noisy(config: BackboneConfig) -> Backbone:
    made = make_backbone(config, 9, np.ones(1, np.float32), seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module_of(made).parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_what_the_last_item_cannot_tell_is_learned_of_each_user(name: str, tmp_path: Path) -> None:
    training = TrainingConfig(epochs=8, batch_size=4, learning_rate=2e-2, loss=LossConfig(name="bpr", negatives=4))
    test = np.flatnonzero(DOORS.targets & (ROLES == 2))
    hits: list[float] = []
    for config in (CONFIGS[name], replace(CONFIGS[name], num_users=0)):
        trained = train_backbone(DOORS, ROLES, config, training, folder=tmp_path / str(len(hits)))
        hits.append(hit_rate(rank_targets(ranker_of(trained.backbone, DOORS), DOORS, test, length=4), 1).mean().item())
    assert hits == [1.0, 0.5]


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_states_are_those_of_an_unknown_user(name: str) -> None:
    backbone = noisy(CONFIGS[name])
    states = backbone.states(torch.tensor([[1, 2], [3, 4]]), torch.ones(2, 2, 1))[:, -1]
    own = personal_states(backbone, states, torch.tensor([2, 7]))
    assert own.shape == states.shape
    assert not torch.allclose(backbone.scores(own), backbone.scores(states), atol=1e-2)
    users = module_of(backbone).users
    assert isinstance(users, UserVectors)
    users.own[2] = 0  # as somebody of whom nothing was learned
    torch.testing.assert_close(personal_states(backbone, states, torch.tensor([2, 7]))[0], states[0])
    nobody = noisy(replace(CONFIGS[name], num_users=0))
    states = nobody.states(torch.tensor([[1, 2]]), torch.ones(1, 2, 1))[:, -1]
    assert torch.equal(personal_states(nobody, states, torch.tensor([4_000])), states)


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_users_are_kept_in_the_folder(name: str, tmp_path: Path) -> None:
    backbone = noisy(CONFIGS[name])
    save_backbone(backbone, tmp_path / "backbone")
    again = load_backbone(tmp_path / "backbone")
    states, users = backbone.start_state().expand(USERS, -1), torch.arange(USERS)
    assert torch.equal(personal_states(again, states, users), personal_states(backbone, states, users))
    assert again.config == CONFIGS[name] and fingerprint(again) == fingerprint(backbone)


@pytest.mark.parametrize("user", [-1, 3])
def test_users_of_another_log_are_refused(user: int) -> None:
    with pytest.raises(ValueError, match=rf"users holds {user}, expected numbers of the training log, 0\.\.2"):
        UserVectors(3, 2).offsets(torch.tensor([0, user, 1]))


@pytest.mark.parametrize("config", [CaserConfig, FPMCConfig, HybridConfig, TransRecConfig])
def test_fewer_users_than_none_are_refused(config: type[Known]) -> None:
    with pytest.raises(ValueError, match="num_users is -1, expected at least 0"):
        config(num_users=-1)
