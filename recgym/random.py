"""Counter-based random draws: pure functions of a key, so batch size, order and device change nothing.

A key is a 64-bit integer. `session_keys` makes one per session from a seed; `fold` derives a new key from a key and a
number (a step, a purpose); `uniform(keys, n)` gives n independent draws for each key. Nothing here keeps state and
nothing touches torch's or numpy's global generators.

The mixing function is SplitMix64's finaliser. Source: Steele, Lea, Flood (2014), "Fast splittable pseudorandom number
generators", figure 15; constants of David Stafford's variant 13.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15, the odd number nearest 2^64 / golden ratio, as signed
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


_MODULUS = 2**64
_SMALL = 2048
"""Numbers up to which numpy is faster than torch, whose every operation costs microseconds whatever its size."""
_Words = npt.NDArray[np.uint64]
_COUNTS = np.arange(1, _SMALL + 1, dtype=np.uint64) * np.uint64(_GAMMA % _MODULUS)
"""1, 2, ... times the increment of the sequence."""
_WORD_1, _WORD_2 = np.uint64(_MIX_1 % _MODULUS), np.uint64(_MIX_2 % _MODULUS)
_BITS_27, _BITS_30, _BITS_31 = np.uint64(27), np.uint64(30), np.uint64(31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 by `bits`."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of 64 bits; same shape."""
    x = (x >> 30).bitwise_and_((1 << 34) - 1).bitwise_xor_(x).mul_(_MIX_1)
    x = (x >> 27).bitwise_and_((1 << 37) - 1).bitwise_xor_(x).mul_(_MIX_2)
    return (x >> 31).bitwise_and_((1 << 33) - 1).bitwise_xor_(x)


def _mix_words(x: _Words) -> _Words:
    """The same in numpy; `x` has at least one dimension."""
    y = x >> _BITS_30
    y ^= x
    y *= _WORD_1
    x = y >> _BITS_27
    x ^= y
    x *= _WORD_2
    y = x >> _BITS_31
    y ^= x
    return y


def _mix_one(x: int) -> Tensor:
    """The same for one number in exact integers, as a tensor (1,)."""
    x %= _MODULUS
    x = (x >> 30 ^ x) * _MIX_1 % _MODULUS
    x = (x >> 27 ^ x) * _MIX_2 % _MODULUS
    x ^= x >> 31
    return torch.tensor([x - _MODULUS if x >> 63 else x])


def _is_one(x: Tensor) -> bool:
    """Whether `x` is one number here, which Python mixes fastest."""
    return x.is_cpu and x.shape == (1,)


def _is_small(keys: Tensor, n: int = 1) -> bool:
    """Whether numpy should draw `n` numbers for each of `keys`."""
    return keys.is_cpu and keys.dim() > 0 and keys.numel() * n <= _SMALL


def _words(x: Tensor) -> _Words:
    """`x` int64 as unsigned words, in the same memory."""
    words: _Words = x.numpy().view(np.uint64)
    return words


def session_keys(seed: int, count: int, *, first: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Keys of sessions first .. first + count - 1 under `seed`, (count,) int64."""
    root = _mix(torch.tensor(seed, dtype=torch.int64, device=device) * _GAMMA + 1)
    return fold(root.expand(count), torch.arange(first, first + count, device=device))


def fold(keys: Tensor, data: int | Tensor) -> Tensor:
    """New keys from keys and numbers: same shape as `keys`; `data` is an int or an int64 tensor that broadcasts."""
    if isinstance(data, int):
        number = (data + 1) * _GAMMA % _MODULUS
        if _is_one(keys):
            return _mix_one(int(keys.item()) ^ number)
        if _is_small(keys):
            return torch.from_numpy(_mix_words(_words(keys) ^ np.uint64(number)).view(np.int64))
        return _mix(keys ^ (number - _MODULUS if number >> 63 else number))
    if _is_one(keys) and _is_one(data):
        return _mix_one(int(keys.item()) ^ ((int(data.item()) + 1) * _GAMMA))
    if _is_small(keys) and _is_small(data):
        return torch.from_numpy(_mix_words(_words(keys) ^ _words((data + 1) * _GAMMA)).view(np.int64))
    return _mix(keys ^ ((data + 1) * _GAMMA))


def bits(keys: Tensor, n: int) -> Tensor:
    """`n` independent 64-bit draws per key: (B,) -> (B, n) int64."""
    if _is_small(keys, n):
        return torch.from_numpy(_drawn(_words(keys), n).view(np.int64))
    return _mix(keys.unsqueeze(-1) + _counter(n, keys.device))


def uniform(keys: Tensor, n: int) -> Tensor:
    """`n` independent U[0, 1) draws per key: (B,) -> (B, n) float32, on a grid of 2^-24."""
    if _is_small(keys, n):
        return torch.from_numpy(_on_grid(_drawn(_words(keys), n)))
    return _shift(bits(keys, n), 40).to(torch.float32) * 2.0**-24


def uniform_at(keys: Tensor, step: Tensor, n: int) -> Tensor:
    """The same for step `step` (B,) of a session, from one stream of 2^32 draws a step: (B,), (B,) -> (B, n) float32.

    It hashes once where `uniform(fold(keys, step), n)` hashes twice: what a simulated step can afford.
    """
    start = torch.add(keys, step << 32, alpha=_GAMMA)  # (B,)
    if _is_small(start, n):
        return torch.from_numpy(_on_grid(_drawn(_words(start), n)))
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


def _drawn(words: _Words, n: int) -> _Words:
    """What `bits` draws, in numpy: (B,) -> (B, n)."""
    return _mix_words(words[..., None] + _COUNTS[:n])


def _on_grid(words: _Words) -> npt.NDArray[np.float32]:
    """Words as float32 in [0, 1), by their first 24 bits; same shape."""
    draws: npt.NDArray[np.float32] = (words >> np.uint64(40)).astype(np.float32)
    draws *= np.float32(2.0**-24)
    return draws


def _open_uniform(keys: Tensor, n: int) -> Tensor:
    """U(0, 1) without its ends, (B, n) float32, on the odd multiples of 2^-24."""
    if _is_small(keys, n):
        draws = (_drawn(_words(keys), n) >> np.uint64(41)).astype(np.float32)
        draws += np.float32(0.5)
        draws *= np.float32(2.0**-23)
        return torch.from_numpy(draws)
    return (_shift(bits(keys, n), 41).to(torch.float32) + 0.5) * 2.0**-23
