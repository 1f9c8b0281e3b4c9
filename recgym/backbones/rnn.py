"""RNN: a simple recurrent network over the history, scored against all items.

h_t = tanh(W x_t + b + U h_{t-1} + c), with x_t the item that was met and h_t what scores the next one.

Source: Elman (1990), "Finding structure in time"; as a recommender: Hidasi et al. (2016), "Session-based
recommendations with recurrent neural networks", who found that gates do better.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from recgym.backbones.gru import GRU4Rec
from recgym.backbones.recurrence import Cell


class RNN(GRU4Rec):
    """Elman's network: the page of `gru`, without gates."""

    layer: ClassVar[type[nn.GRU | nn.RNN]] = nn.RNN
    cell: ClassVar[Cell] = staticmethod(torch.rnn_tanh_cell)
