"""The full softmax in blocks is the plain one: loss, gradients, bounded memory, and types."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from recgym.backbones import losses
from recgym.backbones.losses import cross_entropy

ROWS, WIDTH, ITEMS = 7, 3, 11


def catalogue(kind: torch.dtype = torch.float64, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, targets (with a repeated one), vectors and bias."""
    draw = torch.Generator().manual_seed(0)
    sizes = ((ROWS, WIDTH), (ITEMS, WIDTH), (ITEMS,))
    made = [torch.randn(size, generator=draw).to(device, kind).requires_grad_() for size in sizes]
    return made[0], torch.tensor([3, 0, 10, 3, 3, 7, 1], device=device), made[1], made[2]


def plain_cross_entropy(states: Tensor, targets: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(linear(states, vectors, bias), targets)


@pytest.mark.parametrize("cells", [1, 2 * ITEMS, 3 * ITEMS + 5, 1 << 24])
@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def test_cross_entropy_is_the_plain_one_in_any_blocks(cells: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_CELLS", cells)
    states, targets, vectors, bias = catalogue(device=device)
    inputs = (states, vectors, bias)
    found, expected = cross_entropy(states, targets, vectors, bias), plain_cross_entropy(states, targets, vectors, bias)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(3 * expected, inputs)
    torch.testing.assert_close(torch.autograd.grad(3 * found, inputs), wanted)


def test_cross_entropy_has_the_slope_of_its_finite_differences() -> None:
    states, targets, vectors, bias = catalogue()
    assert torch.autograd.gradcheck(lambda h, v, b: cross_entropy(h, targets, v, b), (states, vectors, bias))


class Sizes(TorchDispatchMode):
    """Remembers the largest tensor that any operation made, and the operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest, self.seen = 0, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.largest = max(self.largest, made.numel() if isinstance(made, Tensor) else 0)
        self.seen.add(f"{func.overloadpacket.__name__} {made.dtype}" if isinstance(made, Tensor) else "")
        return made


def test_the_scores_of_all_rows_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_CELLS", 2 * ITEMS)
    arguments = catalogue()
    with Sizes() as sizes:
        cross_entropy(*arguments).backward()
    assert sizes.largest == ITEMS * WIDTH  # the gradient of the vectors; two rows of scores are smaller
    with Sizes() as sizes:
        plain_cross_entropy(*arguments).backward()
    assert sizes.largest == ROWS * ITEMS


def test_a_large_catalogue_still_gets_several_rows_to_a_block() -> None:
    assert losses._rows(torch.empty(12_000, 0)) == losses._CACHED // 12_000
    assert losses._rows(torch.empty(200_000, 0)) == 32
    assert losses._rows(torch.empty(1_000_000, 0)) == losses._CELLS // 1_000_000
    assert losses._rows(torch.empty(100_000_000, 0)) == 1


@pytest.mark.parametrize("frozen", [0, 2, 3])
def test_gradients_that_nobody_wants_are_not_made(frozen: int) -> None:
    arguments = catalogue()
    arguments[frozen].requires_grad_(False)
    trained = [one for one in arguments if one.requires_grad]
    found = torch.autograd.grad(cross_entropy(*arguments), trained)
    torch.testing.assert_close(found, torch.autograd.grad(plain_cross_entropy(*arguments), trained))
    with torch.no_grad(), Sizes() as sizes:
        loss = cross_entropy(*arguments)
    assert not loss.requires_grad and not any(name.startswith(("scatter", "mm")) for name in sizes.seen)
    torch.testing.assert_close(loss, plain_cross_entropy(*arguments).detach())


def test_autocast_multiplies_in_bfloat16_and_adds_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_CELLS", 2 * ITEMS)
    states, targets, vectors, bias = catalogue(torch.float32)
    inputs = (states, vectors, bias)
    with torch.autocast("cpu", torch.bfloat16), Sizes() as sizes:
        found = cross_entropy(states, targets, vectors, bias)
    assert {"addmm torch.bfloat16", "mm torch.bfloat16", "exp_ torch.float32"} <= sizes.seen
    expected = plain_cross_entropy(states, targets, vectors, bias)
    assert found.dtype == torch.float32 and float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-2)
    for one, other in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert one.dtype == torch.float32 and float((one - other).norm() / other.norm()) < 1e-2


def test_gradients_shared_by_many_rows_do_not_vanish_in_half_precision() -> None:
    states, targets, vectors, bias = catalogue(torch.float16)
    (found,) = torch.autograd.grad(
        cross_entropy(states.repeat(30_000, 1), targets.repeat(30_000), vectors, bias), vectors
    )
    wide = plain_cross_entropy(states.float(), targets, vectors.float(), bias.float())
    (expected,) = torch.autograd.grad(wide, vectors)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-2)


def test_cross_entropy_of_scores_of_ten_thousand_is_exact() -> None:
    states, vectors = torch.tensor([[1e4], [1e4]]).requires_grad_(), torch.tensor([[1.0], [0.0], [-1.0]])
    loss = cross_entropy(states, torch.tensor([0, 2]), vectors, torch.zeros(3))
    assert float(loss.detach()) == 1e4  # no loss in the first row, 2e4 in the second
    (slope,) = torch.autograd.grad(loss, states)
    assert slope.tolist() == [[0.0], [1.0]]  # (V of the top item - V of the target) / 2


def test_a_common_shift_of_scores_changes_nothing() -> None:
    states, targets, vectors, bias = catalogue()
    torch.testing.assert_close(
        cross_entropy(states, targets, vectors, bias + 7), cross_entropy(states, targets, vectors, bias)
    )


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(0, WIDTH), r"states has shape \(0, 3\)"),
        (0, torch.zeros(ROWS), r"states has shape \(7,\)"),
        (1, torch.zeros(2, dtype=torch.int64), r"targets has shape \(2,\), expected \(7,\)"),
        (1, torch.full((ROWS,), ITEMS), r"targets reach from 11 to 11, expected 0..10"),
        (1, torch.full((ROWS,), -1), r"targets reach from -1 to -1"),
        (2, torch.zeros(ITEMS, 4), r"vectors has shape \(11, 4\), expected \(11, 3\)"),
        (3, torch.zeros(4), r"bias has shape \(4,\), expected \(11,\)"),
    ],
)
def test_cross_entropy_names_what_does_not_fit(place: int, value: Tensor, message: str) -> None:
    arguments = list(catalogue())
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        cross_entropy(*arguments)
