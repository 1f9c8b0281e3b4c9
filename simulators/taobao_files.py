"""Reads the published networks of VirtualTB-v0, as weights alone: a file can bring numbers, never code.

Each is a perceptron x -> W_n(... leaky(W_1 x + b_1)) + b_n with slope 0.01. Source: Shi et al. (2019),
"Virtual-Taobao", and its published code.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu_

ATTRIBUTES = [8, 8, 11, 11, 11, 11, 2, 2, 3, 18, 3]
"""Values of each attribute of a customer."""
CUSTOMER, PAGE, SEED = 88, 27, 128
"""Dimensions of a customer (the sum of those), of an action, and of the generator's noise."""
CLICKS, PURCHASES, PAGES = 11, 10, 100
"""Values of clicks and of purchases on one page; pages of the longest session."""

NETWORKS = {
    "generator_model.pt": (SEED, 128, CUSTOMER),
    "action_model.pt": (CUSTOMER + 1 + PAGE, 128, 256, CLICKS + PURCHASES),
    "leave_model.pt": (CUSTOMER, 128, 256, PAGES + 1),
}
"""Widths of the layers, input first."""

Layers = list[tuple[Tensor, Tensor]]
"""Weight (out, in) and bias (out,) of each layer."""


def read_networks(path: Path | str, device: torch.device) -> tuple[Layers, Layers, Layers]:
    """Layers of the generator, the action and the leave network in the folder `path`.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: the path is empty, or a file holds no network or one of another shape.
    """
    if str(path) == "":
        raise ValueError(
            f"VirtualTaobaoConfig.path is empty, expected the folder of {', '.join(NETWORKS)}: download"
            " VirtualTB-v0 and pass path=..."
        )
    generator, action, leave = (_layers(Path(path) / name, widths, device) for name, widths in NETWORKS.items())
    return generator, action, leave


def forward(layers: Layers, x: Tensor, *, entered: bool = False) -> Tensor:
    """The perceptron of `x` (..., in) -> (..., out); `entered`: x is what a layer gave, and is squashed in place."""
    for at, (weight, bias) in enumerate(layers):
        if at or entered:
            leaky_relu_(x)
        x = torch.nn.functional.linear(x, weight, bias)
    return x


def _layers(path: Path, widths: tuple[int, ...], device: torch.device) -> Layers:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; VirtualTaobaoConfig.path should be the folder of {', '.join(NETWORKS)}"
        )
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a file that is no network fails wherever its bytes lead the reader
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} holds no torch weights: {reason}; use the published file") from None
    names = [f"{2 * at}.{part}" for at in range(len(widths) - 1) for part in ("weight", "bias")]
    if not isinstance(found, dict) or sorted(found) != sorted(names):
        held = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{path} holds {held}, expected the tensors {', '.join(names)}")
    layers = []
    for at, (inputs, outputs) in enumerate(pairwise(widths)):
        weight, bias = found[f"{2 * at}.weight"], found[f"{2 * at}.bias"]
        for name, part, shape in (("weight", weight, (outputs, inputs)), ("bias", bias, (outputs,))):
            if not isinstance(part, Tensor) or part.shape != shape or not part.is_floating_point():
                size = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise ValueError(f"{path}: {2 * at}.{name} is {size}, expected floats of shape {shape}")
            if not bool(part.isfinite().all()):
                raise ValueError(f"{path}: {2 * at}.{name} has a value that is not finite; use the published file")
        layers.append((weight.to(torch.float32), bias.to(torch.float32)))
    return layers
