"""A few items in place of the catalogue: drawn from a known distribution, and sums over all items estimated from them.

    p(a)                  = share * (how often the log shows a) + (1 - share) / N
    sum over a of exp q_a ~ exp q_l + 1/C sum over drawn c, c not l, of exp(q_c) / p(c),    c ~ p, l the logged item

The right side is unbiased for every C, so its logarithm is consistent.

Source: Bengio and Senecal (2008), "Adaptive importance sampling to accelerate training of a neural probabilistic
language model", equation 5, with the logged item summed exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Proposal:
    """Draws items in proportion to a mixture of the log's popularity and the uniform distribution."""

    def __init__(self, action: Tensor, num_items: int, popular_share: float) -> None:
        """Count the logged items `action` (T,), from 0."""
        counts = torch.bincount(action, minlength=num_items).double()
        chance = popular_share * counts / counts.sum() + (1 - popular_share) / num_items
        self.log_chance = chance.log().float()  # (N,)
        self._upto = chance.cumsum(0) / chance.sum()

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Items (C,) with replacement, with torch's global generator, and log(C p) of each (C,)."""
        share = torch.rand(count, dtype=torch.float64).to(self._upto.device)
        items = torch.searchsorted(self._upto, share, right=True).clamp_max(len(self._upto) - 1)
        return items, self.log_chance[items] + math.log(count)


def estimated_logsumexp(logged: Tensor, drawn: Tensor, log_expected: Tensor, counts: Tensor) -> Tensor:
    """Estimate log of the sum over the allowed items of exp(q), (B,).

    Args:
        logged: (B,) q of the logged item.
        drawn: (B, C) q of drawn items.
        log_expected: (C,) log(C p) of each.
        counts: (B, C) whether a drawn item counts: it is allowed and not the logged one.
    """
    corrected = (drawn - log_expected).masked_fill(~counts, -torch.inf)
    return torch.cat([logged.unsqueeze(1), corrected], 1).logsumexp(1)
