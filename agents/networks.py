"""Networks that score every item at once: an encoder of the observation, and a head of one dot product per item.

    x     = [state, context, bags of the history]                       what is known of the session
    h     = MLP(x)                                                       (B, H)
    q     = s + W_o h + bags W_b                                         (B, E), s the backbone's state or 0
    score = gain * (q . E_j + b_j) + 10 w_r . past_j + v(h)               items of a fixed catalogue
    score = w . gelu(A x + C c_j + d * (s W_s . c_j)) + v(h)             candidates with features c_j

So the cost hardly grows with the catalogue: D E + H (D + E) + N E weights, against H N of a plain MLP. With a backbone
the last layers start at zero and W at the identity: the head starts as the backbone's own ranking. `outputs` above 1
gives that many scores of every item (atoms or quantiles of a return). `past_j` is what the history's bags weigh item j
itself with: whether it was shown, how lately, and what came of it; the 10 lets steps of Adam reach "not again".
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from agents.encoders import Encoder, History
from agents.layout import Layout
from recgym.gathering import rows_at
from recgym.types import Observation

_PACE = 10.0
"""Scale of what an item's own past adds to its score."""


class ItemScorer(nn.Module):
    """Scores of all N items: from (state, context, history, candidates) to (B, N), or (B, N, Z) with `outputs` Z."""

    def __init__(
        self,
        layout: Layout,
        item_vectors: Tensor | None = None,
        item_bias: Tensor | None = None,
        *,
        hidden: int = 64,
        item_width: int = 32,
        gain: float = 1.0,
        train_items: bool = True,
        outputs: int = 1,
        dueling: bool = False,
        memory: int = 0,
    ) -> None:
        """Build the network.

        Args:
            layout: what an observation holds.
            item_vectors: (N, D) of the backbone whose states it reads, with its `item_bias`; or (N, E) to start from;
                None: drawn from torch's generator. Copied.
            item_bias: (N,) of the backbone; None: there is no backbone. Copied.
            hidden: units of the MLP, H.
            item_width: width of item vectors where none are given, E.
            gain: scale of the scores; a constant.
            train_items: learn E and b too, or keep those given.
            outputs: scores of each item, Z.
            dueling: subtract the mean advantage over the allowed items, so that v is the state's value.
            memory: units of a recurrent memory that the observation brings (`agents.recurrence`); 0: none.

        Raises:
            ValueError: the shapes do not fit.

        Source of `dueling`: Wang et al. (2016), "Dueling network architectures", equation 9.
        """
        super().__init__()
        self.layout, self.hidden, self.train_items, self.outputs = layout, hidden, train_items, outputs
        self.dueling, self.from_backbone, self.memory = dueling, item_bias is not None, memory
        self.gain: Tensor
        self.register_buffer("gain", torch.tensor(float(gain)))
        if layout.candidate_width:
            self._build_candidates(layout)
        else:
            self._build_catalogue(layout, item_vectors, item_bias, item_width)
        layers = 1 if self.from_backbone else 2
        self.encoder = Encoder(layout, hidden=hidden, item_width=self.item_width, layers=layers, memory=memory)
        if self.encoder.history is not None:
            self.recall = _silent(nn.Linear(self.encoder.bags_width, self.item_width, bias=False))
            self.again = nn.Parameter(torch.zeros(self.encoder.history.views))
        self.value = _silent(nn.Linear(hidden, outputs))

    def _build_candidates(self, layout: Layout) -> None:
        self.features = nn.Linear(layout.candidate_width, self.hidden, bias=False)
        self.match = nn.Linear(layout.state_width, layout.candidate_width, bias=False)
        self.matched = nn.Parameter(torch.randn(self.hidden) / self.hidden**0.5)
        self.last = _silent(nn.Linear(self.hidden, self.outputs))

    def _build_catalogue(self, layout: Layout, vectors: Tensor | None, bias: Tensor | None, item_width: int) -> None:
        if vectors is None:
            vectors = torch.randn(layout.num_items, item_width) / item_width**0.5
        expected = (layout.num_items, layout.state_width if self.from_backbone else vectors.shape[1])
        if vectors.shape != expected:
            raise ValueError(f"item_vectors {tuple(vectors.shape)} should be (N, D) = {expected}")
        bias = torch.zeros(len(vectors)) if bias is None else bias
        self.items = nn.Parameter(vectors.detach().clone(), requires_grad=self.train_items)  # (N, E)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=self.train_items)  # (N,)
        self.outer = _silent(nn.Linear(self.hidden, self.outputs * self.item_width))
        if self.from_backbone:
            self.query = nn.Linear(layout.state_width, layout.state_width, bias=False)
            nn.init.eye_(self.query.weight)

    @property
    def num_items(self) -> int:
        """Size of the catalogue, or candidates a step, N."""
        return self.layout.num_items

    @property
    def item_width(self) -> int:
        """Width of the item vectors, E; 0 where each step brings new candidates."""
        return 0 if self.layout.candidate_width else self.items.shape[1]

    def forward(self, observation: Observation, chosen: Tensor | None = None) -> Tensor:
        """Scores (B, N), or (B, N, Z); of the `chosen` items alone: (B, K), or (K,) for all rows, numbered from 0.

        The mask forbids nothing here, it only says which advantages are averaged.
        """
        items = None if self.layout.candidate_width else self.items
        hidden, state, bags = self.encoder(observation, items)
        few = None if items is None or self.dueling else chosen  # a mean needs all
        if items is None:
            scores = self._of_candidates(observation, hidden, state)  # (B, N, Z)
        else:
            query = self.outer(hidden).view(len(hidden), self.outputs, self.item_width)  # (B, Z, E)
            if self.from_backbone:
                query = query + self.query(state).unsqueeze(1)
            if bags is not None:
                query = query + self.recall(bags).unsqueeze(1)
            bias = self.bias if few is None else rows_at(self.bias, few)
            query, bias = self.gain * query, self.gain * bias
            if few is None:  # one pass over (B Z, N), which is what a large catalogue costs
                products = torch.addmm(bias, query.flatten(0, 1), items.T).view(*query.shape[:2], -1)
            else:
                added = bias if few.ndim == 1 else bias.unsqueeze(1)
                products = query @ rows_at(items, few).mT + added  # (B, Z, K)
            scores = products.transpose(1, 2)
            if self.encoder.history is not None:
                past = self._of_past(self.encoder.history, observation)  # (B, N)
                scores = scores + (past if few is None else past.gather(1, few.expand(len(past), -1))).unsqueeze(2)
        if self.dueling:
            scores = scores - _mean_allowed(scores, observation.mask)
        if chosen is not None and few is None:
            scores = scores.gather(1, chosen.expand(len(scores), -1).unsqueeze(2).expand(-1, -1, self.outputs))
        scores = scores + self.value(hidden).unsqueeze(1)
        found: Tensor = scores.squeeze(2) if self.outputs == 1 else scores
        return found

    def _of_past(self, history: History, observation: Observation) -> Tensor:
        """What an item's own past in this history adds to its score, (B, N)."""
        ids, weights = history.weigh(observation)
        own = torch.einsum("bvl,v->bl", weights, _PACE * self.again)
        return torch.zeros(len(ids), self.num_items + 1, device=ids.device).scatter_add(1, ids, own)[:, 1:]

    def _of_candidates(self, observation: Observation, hidden: Tensor, state: Tensor) -> Tensor:
        features = observation.candidates
        assert features is not None
        match = torch.einsum("bx,bnx->bn", self.match(state), features).unsqueeze(2)  # (B, N, 1)
        units = gelu(hidden.unsqueeze(1) + self.features(features) + match * self.matched)  # (B, N, H)
        scores: Tensor = self.gain * self.last(units)
        return scores

    def config(self) -> dict[str, Any]:
        """Arguments of `restore` besides the tensors."""
        return {
            "layout": dataclasses.asdict(self.layout),
            "hidden": self.hidden,
            "train_items": self.train_items,
            "outputs": self.outputs,
            "dueling": self.dueling,
            "memory": self.memory,
            "from_backbone": self.from_backbone,
        }

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> ItemScorer:
        """The network whose `config` and `state_dict` these are."""
        rest = {name: value for name, value in config.items() if name not in ("layout", "from_backbone")}
        bias = tensors["bias"] if config["from_backbone"] else None
        scorer = cls(Layout(**config["layout"]), tensors.get("items"), bias, **rest)
        scorer.load_state_dict(tensors)
        return scorer


class Critic(nn.Module):
    """V(o) of an observation, (B,), or (B, Z) with `outputs` Z: an MLP of its own, which reads no candidates."""

    def __init__(
        self, layout: Layout, *, hidden: int = 64, item_width: int = 16, outputs: int = 1, memory: int = 0
    ) -> None:
        """Build it; `item_width` is that of its own item vectors, which a history is read with; `memory` as above."""
        super().__init__()
        table = torch.randn(layout.num_items, item_width) / item_width**0.5
        self.layout, self.hidden, self.memory = layout, hidden, memory
        self.items = nn.Parameter(table) if layout.history else None
        self.encoder = Encoder(layout, hidden=hidden, item_width=item_width, layers=2, memory=memory)
        self.top = nn.Linear(hidden, outputs)

    def forward(self, observation: Observation) -> Tensor:
        """Values (B,), or (B, Z)."""
        values: Tensor = self.top(self.encoder(observation, self.items)[0])
        return values.squeeze(1) if values.shape[1] == 1 else values


def spread_gain(state: Tensor, item_vectors: Tensor, item_bias: Tensor, spread: float) -> float:
    """The gain at which the backbone's scores of these states (S, D) deviate by `spread` within a state, on average.

    It is 1 where the backbone scores all items alike, as an untrained one does of an empty history.
    """
    with torch.no_grad():
        deviation = float(torch.addmm(item_bias, state, item_vectors.T).std(1).mean())
    return spread / deviation if deviation > 1e-3 else 1.0


def _mean_allowed(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the allowed items, (B, 1, Z) of (B, N, Z)."""
    if mask is None:
        return scores.mean(1, keepdim=True)
    weight = mask.to(scores.dtype).unsqueeze(2)
    return (scores * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)


def _silent(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and bias of zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
