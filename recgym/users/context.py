"""What is known before a session begins, other than the history: hour, weekday, and the user's profile."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLOCK_WIDTH = 11
"""Columns of `clock_features`."""
_DAY = 86_400


def clock_features(time: Tensor) -> Tensor:
    """Hour of the day as two harmonics, weekday as zeros and ones: (B,) seconds since the epoch, UTC -> (B, 11)."""
    angle = (time.double().remainder(_DAY) * (2 * math.pi / _DAY)).unsqueeze(1)  # (B, 1)
    waves = torch.cat([angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], 1)
    weekday = (time.double() / _DAY + 3).floor().remainder(7).unsqueeze(1)  # (B, 1), 0 is Monday
    return torch.cat([waves, weekday == torch.arange(7, device=time.device)], 1).float()


def context_of(time: Tensor, profile: Tensor | None) -> Tensor:
    """Clock and profile side by side: (B,) and (B, P) or None -> (B, 11 + P)."""
    clock = clock_features(time)
    return clock if profile is None else torch.cat([clock, profile.to(clock.dtype)], 1)
