"""FPMC's scores by the paper's sums."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from recgym.backbones.backbone import make_backbone
from recgym.backbones.fpmc import FPMC, FPMCConfig


@torch.no_grad()
def test_scores_are_the_paper_s_sums_over_both_pairs_of_factors() -> None:
    model = cast("FPMC", make_backbone(FPMCConfig(width=2, num_users=2), 3, np.ones(1, np.float32)))
    v_ui, everybody = [[1.0, -2.0], [0.5, 3.0]], [0.25, -1.0]  # users
    v_iu, v_il = [[1.0, 2.0], [-1.0, 0.5], [3.0, 1.0]], [[2.0, 0.0], [1.0, -1.0], [0.5, 4.0]]  # items to come
    v_li, b = [[1.0, 1.0], [-2.0, 0.5], [0.0, 3.0]], [0.1, -0.2, 0.3]  # last items
    model.users.common.copy_(torch.tensor(everybody))
    model.users.own.copy_(torch.tensor(v_ui) - torch.tensor(everybody))
    model.items.copy_(torch.cat([torch.tensor(v_iu), torch.tensor(v_il)], 1))
    model.table.vectors().copy_(torch.tensor(v_li))
    model.table.bias.copy_(torch.tensor(b))
    history = torch.tensor([[3, 1], [1, 2], [0, 0]])
    states = model.states(history, torch.ones(3, 2, 1))[:, -1]
    for factors, found in (
        (v_ui, model.scores(model.personal(states[[0, 1]], torch.tensor([0, 1])))),
        ([everybody] * 3, model.scores(states)),
    ):
        for row, v_u in enumerate(factors):
            last = int(history[row, -1])
            for i in range(3):
                x = b[i]
                for f in range(2):
                    x += v_u[f] * v_iu[i][f] + (v_il[i][f] * v_li[last - 1][f] if last else 0.0)
                np.testing.assert_allclose(float(found[row, i]), x, rtol=1e-6)
