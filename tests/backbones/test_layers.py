"""SASRec's, eSASRec's and the decoder's layers: their sources' equations, head by head and key by key."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, silu

from recgym.backbones.attention import Layer
from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.decoder import Decoder, DecoderConfig, PostNorm
from recgym.backbones.esasrec import ESASRec, ESASRecConfig, LiGR
from recgym.backbones.sasrec import Original, PreNorm, SASRec, SASRecConfig

WIDTH, HEADS, LENGTH, STEPS, ITEMS = 8, 2, 4, 7, 12
SIZE = {"width": WIDTH, "heads": HEADS, "layers": 2, "length": LENGTH, "dropout": 0.5}
MODELS: dict[str, tuple[type[SASRec], BackboneConfig]] = {
    "pre-norm": (SASRec, SASRecConfig(**SIZE, expansion=3)),  # type: ignore[arg-type]
    "original": (SASRec, SASRecConfig(**SIZE, layer="original", expansion=1)),  # type: ignore[arg-type]
    "ligr": (ESASRec, ESASRecConfig(**SIZE)),  # type: ignore[arg-type]
    "post-norm": (Decoder, DecoderConfig(**SIZE)),  # type: ignore[arg-type]
}


def by_hand(norm: nn.Module, row: Tensor) -> Tensor:
    """A norm with weights."""
    assert isinstance(norm, nn.LayerNorm)
    spread = (row.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return (row - row.mean(-1, keepdim=True)) / spread * norm.weight + norm.bias


def attention(query: Tensor, key: Tensor, value: Tensor, by_distance: Tensor) -> Tensor:
    """Softmax over the last L steps with a bias by distance, three of (T, D) -> (T, D)."""
    part = WIDTH // HEADS
    out = torch.zeros_like(query)
    for head in range(HEADS):
        here = slice(head * part, (head + 1) * part)
        for i in range(len(query)):
            seen = range(max(0, i - LENGTH + 1), i + 1)
            weights = [
                math.exp(query[i, here] @ key[j, here] / math.sqrt(part) + by_distance[head, i - j]) for j in seen
            ]
            out[i, here] = sum(weight * value[j, here] for weight, j in zip(weights, seen, strict=True)) / sum(weights)
    return out


def by_equations(layer: Layer, hidden: Tensor) -> Tensor:
    """One layer, without dropout, (T, D) -> (T, D)."""
    if isinstance(layer, Original):  # Kang and McAuley (2018), section 3.2, as in the authors' code
        asked = by_hand(layer.before_attention, hidden)
        key, value = layer.offer(hidden).chunk(2, -1)
        found = asked + layer.join(attention(layer.ask(asked), key, value, layer.by_distance))
        read = by_hand(layer.before_mlp, found)
        more: Tensor = layer.mlp[3](relu(layer.mlp[0](read)))
        return read + more
    if isinstance(layer, PostNorm):  # Vaswani et al. (2017), section 3.1
        query, key, value = layer.project(hidden).chunk(3, -1)
        found = by_hand(layer.after_attention, hidden + layer.join(attention(query, key, value, layer.by_distance)))
        return by_hand(layer.after_mlp, found + layer.mlp[2](relu(layer.mlp[0](found))))
    assert isinstance(layer, PreNorm | LiGR)
    query, key, value = layer.project(by_hand(layer.before_attention, hidden)).chunk(3, -1)
    gathered: Tensor = layer.join(attention(query, key, value, layer.by_distance))
    if isinstance(layer, PreNorm):  # Xiong et al. (2020), figure 1b
        found = hidden + gathered
        more = layer.mlp[2](gelu(layer.mlp[0](by_hand(layer.before_mlp, found))))
        return found + more
    found = hidden + torch.sigmoid(layer.attention_gate(hidden)) * gathered  # Borisyuk et al. (2025)
    gate, up = layer.widen(by_hand(layer.before_mlp, found)).chunk(2, -1)
    more = layer.narrow(silu(gate) * up)
    return found + torch.sigmoid(layer.mlp_gate(found)) * more


def made(name: str) -> SASRec:
    """Two layers whose weights, norms and biases too, are far from where they start."""
    kind, config = MODELS[name]
    model = kind(config, ITEMS, np.ones(1, np.float32)).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_states_are_what_the_equations_say_also_beyond_the_window(name: str) -> None:
    model = made(name)
    items = torch.randint(1, ITEMS + 1, (3, STEPS), generator=torch.Generator().manual_seed(1))
    feedback = torch.rand(3, STEPS, 1, generator=torch.Generator().manual_seed(2))
    found = model.states(items, feedback)
    for row in range(3):
        hidden = model.table(items[row], feedback[row])
        for layer in model.layers:
            assert isinstance(layer, Layer)
            hidden = by_equations(layer, hidden)
        expected = hidden if name == "post-norm" else by_hand(model.norm, hidden)
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["pre-norm", "ligr", "post-norm"])
def test_with_all_units_dropped_a_layer_adds_nothing(name: str) -> None:
    layer = made(name).train().layers[0]
    assert isinstance(layer, Layer)
    for module in layer.modules():
        if isinstance(module, nn.Dropout):
            module.p = 1.0
    hidden, gathered = torch.randn(2, STEPS, WIDTH, generator=torch.Generator().manual_seed(3))
    expected = hidden
    if isinstance(layer, PostNorm):
        expected = by_hand(layer.after_mlp, by_hand(layer.after_attention, hidden))
    torch.testing.assert_close(layer.finish(hidden, gathered), expected)
