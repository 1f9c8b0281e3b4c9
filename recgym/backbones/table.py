"""The item table: what a backbone reads of a step, and what its states are multiplied with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from recgym.types import FloatArray


class ItemTable(nn.Module):
    """Item vectors, and what feedback does to them as they are read: x = E[item] * (1 + G a) + W a.

    a = log2(1 + f / scale): a clicked item can enter the state in another way than one that was passed over.

    `scale` is the mean of each kind where it happened, so that an average amount counts as 1, like a click.

    The vectors that states are multiplied with are those that are read (tied), or of their own if `separate`.
    """

    def __init__(self, num_items: int, width: int, feedback_scale: FloatArray, *, separate: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_items + 1, width, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        with torch.no_grad():
            self.embedding.weight[0] = 0
        self.feedback = nn.Linear(len(feedback_scale), width, bias=False)
        self.gate = nn.Linear(len(feedback_scale), width, bias=False)
        with torch.no_grad():
            self.gate.weight.zero_()[:, 0] = 1  # items that were chosen count twice from the start
        self.bias = nn.Parameter(torch.zeros(num_items))
        self.output = nn.Parameter(torch.randn(num_items, width) * width**-0.5) if separate else None
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(np.asarray(feedback_scale), dtype=torch.float32))

    def forward(self, items: Tensor, feedback: Tensor) -> Tensor:
        """Embed steps: (...,) and (..., F) -> (..., D)."""
        amount = torch.log2(1 + feedback / self.scale)
        vector = nn.functional.embedding(items, self.embedding.weight, padding_idx=0)
        own = vector + nn.functional.linear(amount, self.feedback.weight)
        return torch.addcmul(own, vector, nn.functional.linear(amount, self.gate.weight))

    def start_small(self, std: float | None = None) -> None:
        """Let fresh vectors, and what feedback adds to them, have this standard deviation, far less than 1 / sqrt(D).

        None: sqrt(2 / (N + 1 + D)), the source's for a layer of N + 1 inputs and D outputs.

        Rare items are seldom moved; where they start short, they stay out of the way of those that training has met.

        Source: Glorot and Bengio (2010), "Understanding the difficulty of training deep feedforward neural networks",
        equation 16.
        """
        rows, width = self.embedding.weight.shape
        std = (2 / (rows + width)) ** 0.5 if std is None else std
        with torch.no_grad():
            for part in self._tables():
                part.mul_(std * width**0.5)
            self.feedback.weight.normal_(std=std)

    def start_from_groups(self, groups: Tensor) -> None:
        """Let items of one group, such as a category, start near each other; `groups` (N,) int64 from 0.

        A fresh vector is the sum of one of its group and one of its own, of equal length; training moves it from there.
        """
        with torch.no_grad():
            for part in self._tables():
                centre = torch.randn(int(groups.max()) + 1, part.shape[1]) * part.square().mean().sqrt()
                part.add_(centre[groups]).div_(2**0.5)

    def inputs(self) -> Tensor:
        """Vectors as they are read, (N, D)."""
        return self.embedding.weight[1:]

    def vectors(self) -> Tensor:
        """Vectors that states are multiplied with, (N, D)."""
        return self.inputs() if self.output is None else self.output

    def scores(self, state: Tensor) -> Tensor:
        """(..., D) -> (..., N)."""
        return nn.functional.linear(state, self.vectors(), self.bias)

    def _tables(self) -> list[Tensor]:
        """Vectors as they are read, and those of their own that states are multiplied with: one or two of (N, D)."""
        return [self.inputs()] if self.output is None else [self.inputs(), self.output]
