"""Counter-based random draws: pure functions of a key, so batch size, order and device change nothing.

A key is a 64-bit integer. `session_keys` makes one per session from a seed; `fold` derives a new key from a key and a
number (a step, a purpose); `uniform(keys, n)` gives n independent draws for each key. Nothing here keeps state and
nothing touches torch's or numpy's global generators.

The mixing function is SplitMix64's finaliser. Source: Steele, Lea, Flood (2014), "Fast splittable pseudorandom number
generators", figure 15; constants of David Stafford's variant 13.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15, the odd number nearest 2^64 / golden ratio, as signed
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 by `bits`."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of 64 bits; same shape."""
    x = (x >> 30).bitwise_and_((1 << 34) - 1).bitwise_xor_(x).mul_(_MIX_1)
    x = (x >> 27).bitwise_and_((1 << 37) - 1).bitwise_xor_(x).mul_(_MIX_2)
    return (x >> 31).bitwise_and_((1 << 33) - 1).bitwise_xor_(x)


def session_keys(seed: int, count: int, *, first: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Keys of sessions first .. first + count - 1 under `seed`, (count,) int64."""
    root = _mix(torch.tensor(seed, dtype=torch.int64, device=device) * _GAMMA + 1)
    return fold(root.expand(count), torch.arange(first, first + count, device=device))


def fold(keys: Tensor, data: int | Tensor) -> Tensor:
    """New keys from keys and numbers: same shape as `keys`; `data` is an int or an int64 tensor that broadcasts."""
    if isinstance(data, int):
        data = torch.tensor(data, dtype=torch.int64, device=keys.device)
    return _mix(keys ^ ((data + 1) * _GAMMA))


def bits(keys: Tensor, n: int) -> Tensor:
    """`n` independent 64-bit draws per key: (B,) -> (B, n) int64."""
    return _mix(keys.unsqueeze(-1) + _counter(n, keys.device))


def uniform(keys: Tensor, n: int) -> Tensor:
    """`n` independent U[0, 1) draws per key: (B,) -> (B, n) float32, on a grid of 2^-24."""
    return _shift(bits(keys, n), 40).to(torch.float32) * 2.0**-24


def uniform_at(keys: Tensor, step: Tensor, n: int) -> Tensor:
    """The same for step `step` (B,) of a session, from one stream of 2^32 draws a step: (B,), (B,) -> (B, n) float32.

    It hashes once where `uniform(fold(keys, step), n)` hashes twice: what a simulated step can afford.
    """
    start = torch.add(keys, step << 32, alpha=_GAMMA)  # (B,)
    return _shift(_mix(start.unsqueeze(-1) + _counter(n, keys.device)), 40).to(torch.float32) * 2.0**-24


def gumbel(keys: Tensor, n: int) -> Tensor:
    """`n` standard Gumbel draws per key, (B, n) float32: argmax(logits + gumbel) ~ softmax(logits)."""
    return -torch.log(-torch.log(_open_uniform(keys, n)))


def normal(keys: Tensor, n: int) -> Tensor:
    """`n` standard normal draws per key, (B, n) float32, by the inverse of the normal distribution function."""
    draws: Tensor = torch.special.ndtri(_open_uniform(keys, n))
    return draws


@lru_cache(maxsize=64)
def _counter(n: int, device: torch.device) -> Tensor:
    """1..n times the increment of the sequence, (n,)."""
    return torch.arange(1, n + 1, device=device) * _GAMMA


def _open_uniform(keys: Tensor, n: int) -> Tensor:
    """U(0, 1) without its ends, (B, n) float32, on the odd multiples of 2^-24."""
    return (_shift(bits(keys, n), 41).to(torch.float32) + 0.5) * 2.0**-23
