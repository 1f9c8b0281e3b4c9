"""Vectors of the users that training knew, for backbones that learn who somebody is beside what they did."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class UserVectors(nn.Module):
    """v_u = v + o_u: one vector for everybody, and an offset for each of U known users; an unknown user has v alone.

    Offsets start at 0 and decay (AdamW), so that a user of few steps stays near everybody.
    """

    def __init__(self, num_users: int, width: int) -> None:
        super().__init__()
        self.common = nn.Parameter(torch.zeros(width))
        self.own = nn.Parameter(torch.zeros(num_users, width))

    def offsets(self, users: Tensor) -> Tensor:
        """o_u of users by their number in the training log: (Q,) -> (Q, D); zeros where no user is known (U = 0).

        Raises:
            ValueError: a number is not one of the known users'.
        """
        num_users, width = self.own.shape
        if not num_users:
            return self.own.new_zeros(len(users), width)
        outside = users[(users < 0) | (users >= num_users)]
        if len(outside):
            raise ValueError(f"users holds {int(outside[0])}, expected numbers of the training log, 0..{num_users - 1}")
        return nn.functional.embedding(users.to(self.own.device), self.own)
