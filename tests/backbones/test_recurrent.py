"""Recurrent backbones against torch's own layers, a cell by hand, and the formulas of GRU4Rec's authors' code."""

from __future__ import annotations

from dataclasses import replace
from math import log, tanh
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recgym.backbones.backbone import Backbone, BackboneConfig, make_backbone, module_of
from recgym.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from recgym.backbones.objectives import LossConfig, Negatives, loss_of
from recgym.backbones.ragged import Ragged, encode
from recgym.types import DoubleArray

ITEMS, WIDTH = 9, 6
SIZES = torch.tensor([3, 0, 5, 1, 5, 2])


def made(config: BackboneConfig) -> Backbone:
    """A backbone whose parameters are all away from zero."""
    backbone = make_backbone(config, ITEMS, np.ones(2, np.float32))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module_of(backbone).parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return backbone


def history(sizes: Tensor = SIZES) -> Ragged:
    generator = torch.Generator().manual_seed(2)
    steps = int(sizes.sum())
    return Ragged(
        torch.randint(1, ITEMS + 1, (steps,), generator=generator), torch.rand(steps, 2, generator=generator), sizes
    )


@pytest.mark.parametrize("model", ["rnn", "gru", "gru4rec"])
def test_ragged_states_and_their_gradients_are_those_of_torch_s_layers(model: str) -> None:
    backbone, batch = made(BackboneConfig(model=model, width=WIDTH, layers=2, dropout=0.0)), history()
    found = encode(backbone, batch)
    begin, layers = cast("Tensor", backbone.begin), cast("list[nn.GRU]", backbone.layers)  # type: ignore[attr-defined]
    wanted = []
    for items, feedback in zip(batch.items.split(SIZES.tolist()), batch.feedback.split(SIZES.tolist()), strict=True):
        hidden = backbone.table(items, feedback)
        for number, layer in enumerate(layers):
            hidden = layer(hidden, begin[number : number + 1])[0] if len(hidden) else hidden
        wanted.append(hidden)
    torch.testing.assert_close(found, torch.cat(wanted))
    towards = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    parameters = [part for name, part in module_of(backbone).named_parameters() if name != "table.bias"]
    of_found = torch.autograd.grad((found * towards).sum(), parameters)
    torch.testing.assert_close(of_found, torch.autograd.grad((torch.cat(wanted) * towards).sum(), parameters))


def test_an_elman_cell_is_its_formula() -> None:
    backbone = make_backbone(BackboneConfig(model="rnn", width=1, heads=1, layers=1), 2, np.ones(1, np.float32))
    weights = module_of(backbone).state_dict()
    for name, value in {
        "layers.0.weight_ih_l0": 0.7, "layers.0.weight_hh_l0": -1.2, "layers.0.bias_ih_l0": 0.1,
        "layers.0.bias_hh_l0": 0.2, "begin": 0.5, "table.gate.weight": 0.0, "table.feedback.weight": 0.0,
    }.items():  # fmt: skip
        weights[name].fill_(value)
    weights["table.embedding.weight"][1:, 0] = torch.tensor([2.0, -3.0])
    first = tanh(0.7 * 2 + 0.1 - 1.2 * 0.5 + 0.2)
    second = tanh(0.7 * -3 + 0.1 - 1.2 * first + 0.2)
    states = backbone.states(torch.tensor([[0, 1, 2]]), torch.zeros(1, 3, 1))
    assert states.flatten().tolist() == pytest.approx([0.5, first, second])


def sigmoid(x: DoubleArray) -> DoubleArray:
    value: DoubleArray = 1 / (1 + np.exp(-x))
    return value


def gated(x: DoubleArray, h: DoubleArray, weights: list[DoubleArray]) -> DoubleArray:
    """One step as the authors' PyTorch code has it: reset gate, update gate and candidate, in this order."""
    of_x, of_h, b, c = (np.split(part, 3) for part in weights)
    r = sigmoid(of_x[0] @ x + b[0] + of_h[0] @ h + c[0])
    z = sigmoid(of_x[1] @ x + b[1] + of_h[1] @ h + c[1])
    candidate = np.tanh(of_x[2] @ x + b[2] + r * (of_h[2] @ h + c[2]))
    state: DoubleArray = (1 - z) * candidate + z * h
    return state


@pytest.mark.parametrize("embedding", ["constrained", "separate"])
def test_gru4rec_scores_as_its_authors_code_does(embedding: str) -> None:
    backbone = made(GRU4RecConfig(width=WIDTH, embedding=embedding))
    weights = {name: part.double().numpy() for name, part in module_of(backbone).state_dict().items()}
    cell = [weights[f"layers.0.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    of_output = weights["table.embedding.weight"][1:] if embedding == "constrained" else weights["table.output"]
    state, wanted = weights["begin"][0], []
    for item in (4, 2, 7):
        state = gated(weights["table.embedding.weight"][item], state, cell)
        wanted.append(of_output @ state + weights["table.bias"])
    states = backbone.states(torch.tensor([[4, 2, 7]]), torch.zeros(1, 3, 2))  # no feedback: x is the item's vector
    np.testing.assert_allclose(backbone.scores(states[0]).detach().numpy(), wanted, atol=1e-5)


def learning(**fields: object) -> GRU4Rec:
    """GRU4Rec as training meets it."""
    config = replace(GRU4RecConfig(width=WIDTH, layers=2, dropout=0.0), **fields)  # type: ignore[arg-type]
    return cast("GRU4Rec", module_of(made(config)).train())


@pytest.mark.parametrize("through_time", [False, True])
def test_without_dropout_gru4rec_trains_on_the_states_that_it_serves(through_time: bool) -> None:
    model = learning(through_time=through_time)
    torch.testing.assert_close(model.packed(history()), model.eval().packed(history()))


def test_gru4rec_learns_from_the_step_itself_unless_through_time() -> None:
    batch = history(torch.tensor([4]))._replace(items=torch.tensor([1, 2, 3, 4]))
    for through_time in (False, True):
        model = learning(through_time=through_time)
        model.packed(batch)[-1].sum().backward()
        met = model.table.embedding.weight.grad
        assert met is not None
        assert bool(met[4].any()) and bool(met[1:4].any()) == through_time
    cut, below, above = learning(), [], []
    cut.packed(batch)[-1].sum().backward()
    with torch.no_grad():
        state, over = cut.begin.unsqueeze(1)
        for step in cut.table(batch.items, batch.feedback).unsqueeze(1):
            below.append(state)
            above.append(over)
            state = torch.gru_cell(step, state, *cut._weights[0])
            over = torch.gru_cell(state, over, *cut._weights[1])
    found = [part.grad.clone() for weights in cut._weights for part in weights if part.grad is not None]
    cut.zero_grad()
    x = cut.table(batch.items[-1:], batch.feedback[-1:])
    lower = torch.gru_cell(x, below[-1], *cut._weights[0])
    torch.gru_cell(lower, above[-1], *cut._weights[1]).sum().backward()
    torch.testing.assert_close(found, [part.grad for weights in cut._weights for part in weights])


def test_gru4rec_reads_its_state_as_dropout_left_it() -> None:
    model, batch = learning(layers=1, dropout=0.5), history(torch.tensor([40]))
    states = model.packed(batch)
    before = torch.cat([model.begin, states[:-1]])
    whole = torch.gru_cell(model.table(batch.items, batch.feedback), before, *model._weights[0])
    dropped = states == 0
    assert 0.3 < float(dropped.float().mean()) < 0.7
    torch.testing.assert_close(states, torch.where(dropped, 0.0, 2 * whole))


def test_gru4rec_starts_as_its_authors_code_does() -> None:
    model = cast("GRU4Rec", make_backbone(GRU4RecConfig(width=20, embedding="separate"), 100, np.ones(1, np.float32)))
    output = model.table.output
    assert output is not None
    items, units = (6 / 120) ** 0.5, (6 / 40) ** 0.5
    for part, bound in [(model.table.inputs(), items), (output, items), (model._weights[0][0], units)]:
        assert 0.95 * bound < float(part.detach().abs().max()) <= bound
        assert float(part.detach().square().mean()) == pytest.approx(bound**2 / 3, rel=0.1)
    assert not model._weights[0][2].any() and not model.table.embedding.weight[0].any()


def test_bpr_max_after_elu_is_the_authors_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = made(GRU4RecConfig(width=WIDTH))
    states = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(4))
    targets, drawn = torch.tensor([1, 5, 9]), torch.tensor([1, 2, 6, 7])  # drawn are rows: items 2, 3, 7 and 8
    monkeypatch.setattr(Negatives, "draw", lambda self, *shape: drawn)
    config = LossConfig(name="bpr-max", negatives=4, shared=True, regularisation=1.95, elu=0.5)
    found = loss_of(backbone, states, targets, config, Negatives.of(torch.ones(ITEMS), config))
    every = backbone.scores(states).detach().double().numpy()
    assert (every < 0).any() and (every > 0).any()
    total = 0.0
    for row, target in zip(np.where(every < 0, 0.5 * (np.exp(every) - 1), every), targets - 1, strict=True):
        negative = row[drawn]
        weight = np.exp(negative) / np.exp(negative).sum()
        total += -log(float(weight @ sigmoid(row[target] - negative))) + 1.95 * float(weight @ negative**2)
    assert float(found.detach()) == pytest.approx(total / 3, rel=1e-5)
    plain = loss_of(backbone, states, targets, replace(config, elu=0.0), Negatives.of(torch.ones(ITEMS), config))
    assert float(plain.detach()) != pytest.approx(float(found.detach()), rel=1e-3)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="embedding is 'one-hot', expected one of constrained, separate"):
        GRU4RecConfig(embedding="one-hot")
    with pytest.raises(ValueError, match="embedding_dropout is 1.0, expected a share"):
        GRU4RecConfig(embedding_dropout=1.0)
    with pytest.raises(ValueError, match="elu is 0.5, expected 0 for the loss 'cross-entropy'"):
        LossConfig(elu=0.5)
