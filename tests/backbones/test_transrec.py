"""TransRec's rankings by the paper's distances, within the ball; a line is learned, and a circle cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch

from recgym.backbones.backbone import make_backbone
from recgym.backbones.objectives import LossConfig
from recgym.backbones.ranking import rank_targets, ranker_of
from recgym.backbones.training import TrainingConfig, train_backbone
from recgym.backbones.transrec import TransRec, TransRecConfig, into_ball
from recgym.metrics import hit_rate
from tests.backbones.test_ranking import sequences


@torch.no_grad()
def test_scores_differ_as_the_paper_s_distances_do() -> None:
    model = cast("TransRec", make_backbone(TransRecConfig(width=2, num_users=2), 4, np.ones(1, np.float32)))
    free = [[0.5, -0.5], [3.0, 4.0], [-0.1, 0.2], [0.0, -2.0]]  # the second and the last lie outside of the ball
    g = [[0.5, -0.5], [0.6, 0.8], [-0.1, 0.2], [0.0, -1.0]]
    t, t_u, b = [0.3, -0.2], [[1.0, 0.5], [-0.7, 0.1]], [0.1, -0.2, 0.3, 0.0]
    model.table.vectors().copy_(torch.tensor(free))
    model.table.bias.copy_(torch.tensor(b))
    model.users.common.copy_(torch.tensor(t))
    model.users.own.copy_(torch.tensor(t_u))
    last, user = [2, 3, 1], [0, 1, 1]
    states = model.states(torch.tensor(last).unsqueeze(1), torch.ones(3, 1, 1))[:, 0]
    known = model.scores(model.personal(states, torch.tensor(user)))
    unknown = model.scores(states)
    for row in range(3):
        for found, own in ((known, t_u[user[row]]), (unknown, [0.0, 0.0])):
            x = [b[i] - sum((g[last[row] - 1][f] + t[f] + own[f] - g[i][f]) ** 2 for f in range(2)) for i in range(4)]
            np.testing.assert_allclose(found[row] - found[row, 0], np.array(x) - x[0], rtol=1e-5, atol=1e-6)


def test_points_leave_the_ball_at_no_step_and_slopes_along_its_edge_stay() -> None:
    points = torch.tensor([[0.3, 0.4], [3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    inside = into_ball(points)
    torch.testing.assert_close(inside, torch.tensor([[0.3, 0.4], [0.6, 0.8], [0.0, 0.0]]))
    (inside @ torch.tensor([0.6, 0.8])).sum().backward()
    assert points.grad is not None
    torch.testing.assert_close(points.grad, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, 0.8]]))


def test_a_line_is_learned(tmp_path: Path) -> None:
    line = sequences([list(range(1, 6))] * 30, 5)
    roles = np.repeat(np.array([0, 1, 2], np.int8), [26 * 5, 2 * 5, 2 * 5])
    roles[::5] = 0
    training = TrainingConfig(epochs=12, batch_size=4, learning_rate=3e-2, loss=LossConfig(name="bpr", negatives=4))
    trained = train_backbone(line, roles, TransRecConfig(width=16, length=6), training, folder=tmp_path)
    ranks = rank_targets(ranker_of(trained.backbone, line), line, np.flatnonzero(roles == 2), length=6)
    assert hit_rate(ranks, 1).mean() == 1.0


@torch.no_grad()
def test_a_circle_scores_alike_both_ways() -> None:
    model = make_backbone(TransRecConfig(width=4), 7, np.ones(1, np.float32), seed=3)
    items = torch.arange(7)
    scores = model.scores(model.states(items.unsqueeze(1) + 1, torch.ones(7, 1, 1))[:, 0])
    forward, back = (scores[items, (items + way) % 7] for way in (1, -1))
    assert not torch.allclose(forward, back, atol=0.1)
    torch.testing.assert_close(forward.sum(), back.sum())
