"""Counter-based draws: known vectors, independence of the batch, distribution."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recgym.random import bits, fold, gumbel, normal, session_keys, uniform, uniform_at

_MASK = (1 << 64) - 1


def _mix(x: int) -> int:
    """SplitMix64's finaliser in exact integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def test_bits_are_the_published_splitmix64_stream() -> None:
    """Seed 1234567: the first outputs that the reference C code of SplitMix64 prints."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    ours = bits(torch.tensor([1234567]), 4)[0].tolist()
    assert [value & _MASK for value in ours] == published


@pytest.mark.parametrize("data", [0, 1, 7, 2**40])
def test_fold_is_the_finaliser_in_exact_arithmetic(data: int) -> None:
    key = 987654321
    expected = _mix(key ^ (((data + 1) * 0x9E3779B97F4A7C15) & _MASK))
    assert int(fold(torch.tensor([key]), data).item()) & _MASK == expected
    assert int(fold(torch.tensor([key]), torch.tensor([data])).item()) & _MASK == expected


def test_a_session_keeps_its_draws_whatever_the_batch() -> None:
    keys = session_keys(3, 100)
    alone = torch.cat([uniform(keys[i : i + 1], 5) for i in range(100)])
    assert torch.equal(uniform(keys, 5), alone)
    assert torch.equal(session_keys(3, 10, first=90), keys[90:])
    assert torch.equal(uniform(keys.flip(0), 5), alone.flip(0))


def test_seeds_steps_and_streams_give_different_draws() -> None:
    keys = torch.cat([session_keys(seed, 1000) for seed in range(5)])
    assert keys.unique().numel() == 5000
    folded = torch.stack([fold(keys, step) for step in range(5)])
    assert folded.unique().numel() == 25_000


def test_global_generators_are_left_alone() -> None:
    torch_before, numpy_before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    normal(session_keys(0, 10), 3)
    assert torch.equal(torch_before, torch.get_rng_state())
    assert numpy_before == str(np.random.get_state())  # noqa: NPY002


def test_distributions() -> None:
    """Moments within five standard errors: a false alarm about once in a million."""
    keys, n = session_keys(11, 250_000), 4
    size = 250_000 * n
    u, z, g = uniform(keys, n), normal(keys, n), gumbel(keys, n)
    assert u.min() >= 0.0
    assert u.max() < 1.0
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / size) ** 0.5
    assert abs(z.mean()) < 5 / size**0.5
    assert abs(z.var() - 1) < 5 * (2 / size) ** 0.5
    assert abs(g.mean() - np.euler_gamma) < 5 * (np.pi**2 / 6 / size) ** 0.5
    assert torch.isfinite(z).all()
    assert torch.isfinite(g).all()
    correlation = torch.corrcoef(u.T) - torch.eye(n)
    assert correlation.abs().max() < 5 / 250_000**0.5


def test_gumbel_max_is_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    draws = (logits + gumbel(session_keys(2, 200_000), 3)).argmax(-1)
    share = torch.bincount(draws, minlength=3) / 200_000
    expected = logits.softmax(-1)
    assert ((share - expected).abs() < 5 * (expected * (1 - expected) / 200_000).sqrt()).all()


@pytest.mark.parametrize("n", [1, 3])
def test_few_and_many_draws_are_the_same(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number is mixed by Python, a few by numpy, many by torch: each gives the bits of the others."""
    keys, steps = session_keys(5, 200), torch.arange(200)
    drawn: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "fold": fold,
        "number": lambda k, _: fold(k, -3),
        "bits": lambda k, _: bits(k, n),
        "uniform": lambda k, _: uniform(k, n),
        "step": lambda k, s: uniform_at(k, s, n),
        "normal": lambda k, _: normal(k, n),
        "gumbel": lambda k, _: gumbel(k, n),
    }
    few = {name: draw(keys, steps) for name, draw in drawn.items()}
    alone = {
        name: torch.cat([draw(keys[i : i + 1], steps[i : i + 1]) for i in range(200)]) for name, draw in drawn.items()
    }
    monkeypatch.setattr("recgym.random._SMALL", 0)
    for name, draw in drawn.items():
        many = draw(keys, steps)
        assert many.dtype == few[name].dtype == alone[name].dtype
        exact = name not in ("normal", "gumbel")  # whose logarithms may differ in the last bit between batches
        torch.testing.assert_close(few[name], many, rtol=0 if exact else 1e-6, atol=0 if exact else 1e-6)
        torch.testing.assert_close(alone[name], many, rtol=0 if exact else 1e-6, atol=0 if exact else 1e-6)
