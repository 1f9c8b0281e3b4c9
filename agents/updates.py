"""What agents that learn from logs share: the cloning loss, a run of updates, and sessions held out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from agents.choice import allow
from agents.learning import Row
from agents.offline import Minibatch, Offline
from recgym.types import Observation

Network = TypeVar("Network", bound=nn.Module)


def cloning_loss(scores: Tensor, action: Tensor, mask: Tensor | None) -> Tensor:
    """-log softmax(scores)[action] over the allowed items: (n, N), (n,), (n, N) -> (n,)."""
    return -allow(scores, mask).log_softmax(1).gather(1, action.unsqueeze(1))[:, 0]


def with_logged(observation: Observation, action: Tensor) -> Observation:
    """The observation, with logged items (n,) or (n, K) allowed: a log may show again what these sessions would not."""
    if observation.mask is None:
        return observation
    return observation._replace(mask=observation.mask.scatter(1, action.view(len(action), -1), True))


def learn(learner: Any, last: int) -> Row:
    """Updates `learner.done` to `last` of `learner.update(number)`, and the mean of each term for the curve."""
    sums: dict[str, Tensor] = {}
    count = max(1, last - learner.done)
    for number in range(learner.done, last):
        for name, term in learner.update(number).items():
            sums[name] = sums.get(name, torch.zeros(())) + term.cpu()
    learner.done = last
    return {f"train/{name}": float(total) / count for name, total in sums.items()}


class HeldOut:
    """Sessions held out of the training, and the network that predicted them best."""

    def __init__(self, data: Offline, share: float, patience: int) -> None:
        """Hold a share out of `data` (0: none); after `patience` judgements without a better one it is `over`."""
        self.training = data
        self.test: Offline | None = None
        if share:
            self.training, self.test = data.split(share)
        self.patience, self.waited, self.lowest = patience, 0, float("inf")
        self.tensors: dict[str, Tensor] | None = None

    @property
    def over(self) -> bool:
        """Whether more updates would not help."""
        return 0 < self.patience <= self.waited

    def judge(self, network: nn.Module, loss: Callable[[Minibatch], Tensor], batch_size: int = 1024) -> Row:
        """Note the mean of `loss` (n,) over what is held out, and keep the network where it is the lowest so far."""
        if self.test is None or self.over:
            return {}
        with torch.no_grad():
            found = torch.cat([loss(self.test.at(steps)) for steps in self.test.drawn.split(batch_size)])
        mean = float(found.mean())
        self.waited += 1
        if mean < self.lowest:
            self.lowest, self.waited, self.tensors = mean, 0, copy.deepcopy(network.state_dict())
        return {"held_out_loss": mean}

    def pick(self, network: Network) -> Network:
        """The network of the lowest loss; `network` itself where nothing is held out."""
        if self.tensors is None:
            return network
        best = copy.deepcopy(network)
        best.load_state_dict(self.tensors)
        return best

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; who is held out follows from the seed."""
        return {"waited": self.waited, "lowest": self.lowest, "tensors": self.tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.waited, self.lowest, self.tensors = state["waited"], state["lowest"], state["tensors"]
