"""The head that scores items: q(s) = gain * (W h(s)) . E + b + v(s), one dot product per item of the catalogue."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recgym.types import Observation


def features_of(observation: Observation) -> Tensor:
    """State and context side by side, (B, D + 1), as the environment's "state" observation lays them out.

    Raises:
        ValueError: the observation has no state.
    """
    if observation.state is None:
        raise ValueError("the observation has no state; ask the environment for observation='state'")
    return torch.cat([observation.state, observation.context], 1)


class ItemScorer(nn.Module):
    """q(s) = gain * ((W h(s)) . E + b) + v(s), for all N items at once.

    h(s) = s + MLP(s, context), and the MLP's and v's last layers start at zero and W at the identity, so that the head
    starts as the backbone's own ranking, s . E + b. Weights: D^2 + 2 H D + N (D + 1), against H N of a plain MLP.
    """

    def __init__(
        self,
        state_width: int,
        item_vectors: Tensor,
        item_bias: Tensor,
        *,
        hidden: int = 64,
        gain: float = 1.0,
        train_items: bool = True,
    ) -> None:
        """Build the head.

        Args:
            state_width: D.
            item_vectors: (N, D) of the backbone; copied.
            item_bias: (N,) of the backbone; copied.
            hidden: units of the MLP, H.
            gain: scale of the scores; a constant.
            train_items: learn E and b too, or keep the backbone's.

        Raises:
            ValueError: the shapes do not fit.
        """
        super().__init__()
        if item_vectors.shape != (len(item_bias), state_width):
            raise ValueError(
                f"item_vectors {tuple(item_vectors.shape)} should be (N, D) = ({len(item_bias)}, {state_width})"
            )
        self.state_width, self.hidden, self.train_items = state_width, hidden, train_items
        self.items = nn.Parameter(item_vectors.detach().clone(), requires_grad=train_items)  # (N, D)
        self.bias = nn.Parameter(item_bias.detach().clone(), requires_grad=train_items)  # (N,)
        self.gain: Tensor
        self.register_buffer("gain", torch.tensor(float(gain)))
        self.inner = nn.Linear(state_width + 1, hidden)
        self.outer = nn.Linear(hidden, state_width)
        self.query = nn.Linear(state_width, state_width, bias=False)
        self.value = nn.Linear(hidden, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        nn.init.eye_(self.query.weight)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return len(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Scores (B, N) of state-and-context rows (B, D + 1)."""
        hidden = torch.nn.functional.gelu(self.inner(features))  # (B, H)
        query = self.query(features[:, : self.state_width] + self.outer(hidden))  # (B, D)
        scores: Tensor = self.gain * torch.addmm(self.bias, query, self.items.T) + self.value(hidden)
        return scores

    def config(self) -> dict[str, Any]:
        """Arguments of `restore` besides the tensors."""
        return {"state_width": self.state_width, "hidden": self.hidden, "train_items": self.train_items}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> ItemScorer:
        """The head whose `config` and `state_dict` these are."""
        scorer = cls(item_vectors=tensors["items"], item_bias=tensors["bias"], **config)
        scorer.load_state_dict(tensors)
        return scorer


def spread_gain(state: Tensor, item_vectors: Tensor, item_bias: Tensor, spread: float) -> float:
    """The gain at which the backbone's scores of these states (S, D) deviate by `spread` within a state, on average.

    It is 1 where the backbone scores all items alike, as an untrained one does of an empty history.
    """
    with torch.no_grad():
        deviation = float(torch.addmm(item_bias, state, item_vectors.T).std(1).mean())
    return spread / deviation if deviation > 1e-3 else 1.0
