"""Losses over the catalogue, in pieces that fit in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recgym.backbones.backbone import Backbone

_CELLS = 1 << 24
"""Scores held at once: rows x items."""


def cross_entropy_step(backbone: Backbone, states: Tensor, targets: Tensor) -> float:
    """Add the gradient of mean_q -log softmax(scores(states_q))[targets_q] to `.grad`; return the loss, in nats.

    The catalogue's scores are made and dropped in blocks, so that memory stays bounded whatever N.

    Args:
        backbone: whose item table scores.
        states: (Q, D) with the graph that made them.
        targets: (Q,) item ids 1..N.
    """
    leaf = states.detach().requires_grad_()
    block = max(1, _CELLS // backbone.num_items)
    total = 0.0
    for rows, wanted in zip(leaf.split(block), targets.split(block), strict=True):
        loss = nn.functional.cross_entropy(backbone.scores(rows), wanted - 1, reduction="sum") / len(targets)
        loss.backward()
        total += float(loss.detach())
    assert leaf.grad is not None
    torch.autograd.backward(states, leaf.grad)
    return total
