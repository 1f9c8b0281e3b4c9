"""A platform's own encoder beside simulated users: it reads what the platform could log, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone


@torch.no_grad()
def begin(encoder: Backbone, items: Tensor, feedback: Tensor) -> Any:
    """The cache after as much of the visible history (B, L), (B, L, F) as the encoder reads."""
    length = min(encoder.config.length, items.shape[1])
    return encoder.prefill(items[:, -length:], feedback[:, -length:])


@torch.no_grad()
def follow(encoder: Backbone, cache: Any, items: Tensor, feedback: Tensor, *, exposures: bool) -> Any:
    """The cache after a slate (B, K) and its feedback (B, K, F).

    Logs without `exposures` do not say what was ignored, so there only consumed items are read.
    """
    entering = items if exposures else items * (feedback[:, :, 0] > 0)
    for slot in range(items.shape[1]):
        cache, _ = encoder.advance(cache, entering[:, slot], feedback[:, slot])
    return cache
