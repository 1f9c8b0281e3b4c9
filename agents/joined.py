"""A supervised network of the next item with a Q head on the same body: what SQN and SA2C train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agents.networks import ItemScorer
from agents.offline import Minibatch, Offline
from agents.task import Task
from agents.updates import cloning_loss, with_logged
from recgym.types import Observation


class Joined(nn.Module):
    """Logits of the next item (B, N) and Q (B, N): two outputs of one scorer, which starts as the backbone's ranking.

    Both share the hidden units, the query and the item vectors; Q is scaled to rewards by a constant.
    """

    def __init__(self, task: Task, data: Offline, *, hidden: int, initial_spread: float) -> None:
        """Draw its weights from torch's generator.

        Args:
            task: gives the backbone's vectors.
            data: its states say how far the backbone's scores spread.
            hidden: units of the MLP.
            initial_spread: standard deviation within a state of the first Q, in reward.
        """
        super().__init__()
        self.scorer = task.scorer(hidden=hidden, outputs=2, slate_size=1)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(data.value_gain(task, initial_spread)))

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Logits and Q."""
        logits, q = self.scorer(observation).unbind(2)
        return logits, self.scale * q

    def supervised_loss(self, batch: Minibatch) -> Tensor:
        """-log of the chance of what was logged, by the supervised head: (n,)."""
        seen = with_logged(self.scorer.layout.unpack(batch.now), batch.action)
        return cloning_loss(self(seen)[0], batch.action, seen.mask)

    def recommender(self) -> ItemScorer:
        """The supervised network alone: what chooses and ranks."""
        config, tensors = self.scorer.config(), dict(self.scorer.state_dict())
        return ItemScorer.restore({**config, "outputs": 1}, _first_output(tensors, self.scorer))


def _first_output(tensors: dict[str, Tensor], scorer: ItemScorer) -> dict[str, Any]:
    """The tensors of a scorer whose one output is the first of two."""
    rows = {"value": 1, "last": 1, "outer": scorer.item_width}  # of one output, by layer
    found = {}
    for name, tensor in tensors.items():
        layer = name.split(".")[0]
        found[name] = (tensor[: rows[layer]] if layer in rows else tensor).detach().clone()
    return found
