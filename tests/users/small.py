"""Small learned users for tests: untrained weights, a few items, every branch of the dynamics."""

from __future__ import annotations

import numpy as np
import torch

from recgym.backbones.backbone import BackboneConfig, make_backbone, module_of
from recgym.logs.sequences import Starts
from recgym.types import FeedbackKind
from recgym.users.heads import Heads, HeadShape
from recgym.users.learned import LearnedUsers

KINDS = (
    FeedbackKind(name="click"),
    FeedbackKind(name="dwell", type="real", given="click", unit="seconds"),
    FeedbackKind(name="like", given="click"),
)


def small_users(
    model: str = "gru", *, num_items: int = 12, length: int = 6, exposures: bool = True, repeats: bool = True
) -> LearnedUsers:
    """Users whose weights are random but not trivial."""
    config = BackboneConfig(model=model, width=8, layers=2, heads=2, length=length)
    backbone = make_backbone(config, num_items, np.array([1, 20, 1], np.float32), seed=3)
    generator = torch.Generator().manual_seed(7)
    shape = HeadShape(
        num_items=num_items, state_width=backbone.width, num_kinds=3, slots=2, width=8, leave_width=4, item_width=2
    )
    with torch.random.fork_rng(devices=[]):  # a module draws its first weights from the global generator
        torch.manual_seed(5)
        heads = Heads(shape)
    with torch.no_grad():
        for parameter in [*heads.parameters(), *module_of(backbone).parameters()]:
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
        heads.amount[:, 1] = torch.tensor([3.0, 0.5, 1.0, 100.0, 1.0])
        heads.effect_scale.fill_(0.3)
        heads.leave_out.bias.fill_(-2.0)
    items = torch.randint(1, num_items + 1, (9, length), generator=generator)
    items[:3, :4] = 0
    clicks = (torch.rand(9, length, generator=generator) < 0.4).float() * (items > 0)
    feedback = torch.stack([clicks, clicks * 12, clicks * (items % 2)], 2)
    return LearnedUsers(
        backbone=backbone, heads=heads.requires_grad_(False),
        topics=torch.tensor([-1, *(j % 3 for j in range(num_items))]),
        kinds=KINDS, exposures=exposures, repeats=repeats, ignored_hazard=2.0,
        starts=Starts(torch.arange(9) % 4, items, feedback), item_titles=tuple(f"Item {j}" for j in range(num_items)),
        item_categories=tuple("abc"[j % 3] for j in range(num_items)),
    )  # fmt: skip
