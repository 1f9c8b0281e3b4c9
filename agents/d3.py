"""d3rlpy's discrete CQL with an item-scoring head, through its own hook for Q-functions.

Minibatches are drawn by us, not by d3rlpy's buffer: so a truncated session keeps its last step (d3rlpy would drop it),
and a resumed run draws what it would have drawn. d3rlpy knows no masks and scores the whole catalogue.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import d3rlpy
import numpy as np
import structlog
from d3rlpy.dataset import TransitionMiniBatch
from d3rlpy.models.torch.q_functions.base import DiscreteQFunction, QFunctionOutput
from d3rlpy.models.torch.q_functions.mean_q_function import DiscreteMeanQFunctionForwarder
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from agents.layout import Layout
from agents.networks import ItemScorer
from agents.offline import Minibatch


def discrete_cql(layout: Layout, make_scorer: Callable[[], ItemScorer] | None, **fields: Any) -> Any:
    """d3rlpy's algorithm for rows of `layout`, ready for `update`.

    Args:
        layout: of the rows.
        make_scorer: makes the Q-function; None: d3rlpy's plain head, a linear layer of N outputs.
        **fields: of d3rlpy's `DiscreteCQLConfig`.
    """
    if make_scorer is not None:
        fields["q_func_factory"] = _ItemQFactory(make_scorer=make_scorer)
        fields["encoder_factory"] = d3rlpy.models.VectorEncoderFactory(hidden_units=[1])  # insisted on, not used
    algorithm = d3rlpy.algos.DiscreteCQLConfig(**fields).create(device="cpu")
    logging = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))  # d3rlpy says what we do already
    algorithm.create_impl((layout.width,), layout.num_items)
    structlog.configure(**logging)
    return algorithm


def minibatch(batch: Minibatch) -> TransitionMiniBatch:
    """The transitions as d3rlpy takes them."""
    action, reward, going = (
        part.unsqueeze(1).numpy().astype(np.float32) for part in (batch.action, batch.reward, batch.going)
    )
    return TransitionMiniBatch(
        observations=batch.now.numpy(),
        actions=action,
        rewards=reward,
        next_observations=batch.after.numpy(),
        next_actions=action,  # not read by Q-learning
        terminals=1 - going,
        intervals=np.ones_like(going),
        transitions=[],
    )


class _ItemQ(DiscreteQFunction):  # type: ignore[misc]
    """d3rlpy's Q-function protocol around an item scorer; the encoder it insists on is not used."""

    def __init__(self, encoder: Any, scorer: ItemScorer) -> None:
        super().__init__()
        self._unused, self.scorer = encoder, scorer

    def forward(self, x: Tensor) -> QFunctionOutput:
        return QFunctionOutput(q_value=self.scorer(self.scorer.layout.unpack(x)), quantiles=None, taus=None)

    def among(self, x: Tensor, numbers: Tensor) -> Tensor:
        found: Tensor = self.scorer(self.scorer.layout.unpack(x), numbers)
        return found

    @property
    def encoder(self) -> Any:
        return self._unused


class _ItemForwarder(DiscreteMeanQFunctionForwarder):  # type: ignore[misc]
    """Scores single items alone where d3rlpy asks for those: theirs scores all and multiplies by one-hot rows."""

    def compute_error(
        self,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        target: Tensor,
        terminals: Tensor,
        gamma: Any = 0.99,
        reduction: str = "mean",
    ) -> Tensor:
        y = rewards + gamma * target * (1 - terminals)
        found = self._q_func.among(observations, actions.view(-1, 1))
        return smooth_l1_loss(found, y, reduction=reduction)

    def compute_target(self, x: Tensor, action: Tensor | None = None) -> Tensor:
        found: Tensor = self._q_func(x).q_value if action is None else self._q_func.among(x, action.view(-1, 1))
        return found


@dataclasses.dataclass()
class _ItemQFactory(d3rlpy.models.QFunctionFactory):  # type: ignore[misc]
    """Makes item scorers for d3rlpy."""

    make_scorer: Any = None

    def create_discrete(self, encoder: Any, hidden_size: int, action_size: int) -> Any:  # noqa: ARG002
        q_function = _ItemQ(encoder, self.make_scorer())
        return q_function, _ItemForwarder(q_function, action_size)

    def create_continuous(self, encoder: Any, hidden_size: int) -> Any:
        raise NotImplementedError("items are discrete actions")

    @staticmethod
    def get_type() -> str:
        return "recgym-items"
