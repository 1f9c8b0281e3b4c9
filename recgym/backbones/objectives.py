"""What training asks of a backbone: which states predict which items, against which others, by which loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from recgym.backbones import losses
from recgym.backbones.backbone import Backbone, personal_states
from recgym.backbones.ragged import Ragged, encode, places
from recgym.gathering import rows_at

_PAIRWISE = ("bpr", "bpr-max", "top1-max")
LOSSES = ("cross-entropy", "sampled-softmax", "bpr", "bpr-max", "top1-max", "bce", "gbce", "in-batch")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which loss, and how its negatives are drawn."""

    name: str = "cross-entropy"
    """One of `LOSSES`; all but "cross-entropy" and "in-batch" draw negatives."""
    negatives: int = 256
    """Items drawn for each target, or for the whole minibatch if `shared`, K."""
    shared: bool = False
    """One draw of negatives for all targets of a minibatch: one matrix product instead of K gathered rows a target."""
    popularity: float = 0.0
    """Negatives are drawn with probability proportional to (training steps + 1) to this power; 0: uniformly."""
    correct: bool = True
    """Subtract log q from the scores of softmax losses, so that they estimate the full softmax (logQ correction)."""
    calibration: float = 0.75
    """gBCE's t: 0 is binary cross-entropy, 1 gives unbiased probabilities."""
    regularisation: float = 1.0
    """BPR-max's weight of the negatives' squared scores."""
    penalty: float = 0.0
    """lambda of BPR's penalty: lambda / 2 times the squared lengths of the state, the target's vector and (in the mean)
    the negatives' are added to the loss; 0: none. Unlike AdamW's decay, it touches what a minibatch holds alone."""
    elu: float = 0.0
    """Final activation of BPR, BPR-max and TOP1-max: a score s below 0 enters as elu (e^s - 1); 0: as it is."""

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.name not in LOSSES:
            raise ValueError(f"loss is called {self.name!r}, expected one of {', '.join(LOSSES)}")
        if self.negatives < 1:
            raise ValueError(f"negatives is {self.negatives}, expected at least 1")
        if not 0 <= self.calibration <= 1:
            raise ValueError(f"calibration is {self.calibration}, expected a number in [0, 1]")
        if self.popularity and self.name == "gbce":
            raise ValueError(
                f"popularity is {self.popularity}, expected 0 for the loss 'gbce', whose draws are uniform"
            )
        for name in ("popularity", "regularisation", "penalty", "elu"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number of at least 0")
        if self.elu and self.name not in _PAIRWISE:
            raise ValueError(f"elu is {self.elu}, expected 0 for the loss {self.name!r}")


class Negatives(NamedTuple):
    """The distribution that negatives are drawn from."""

    upto: Tensor | None  # (N,) float64: probability of items 0..j; None: uniform
    log_q: Tensor  # (N,) float32: log probability of each

    @classmethod
    def of(cls, events: Tensor, config: LossConfig) -> Negatives:
        """From the training steps of each item, (N,); for "in-batch" from its targets."""
        power = 1.0 if config.name == "in-batch" else config.popularity  # a batch's targets come as often as items do
        weight = (events.double() + 1) ** power
        share = weight / weight.sum()
        return cls(share.cumsum(0) if power else None, share.log().float())

    def draw(self, *shape: int) -> Tensor:
        """Items 0..N-1 from torch's generator, with replacement."""
        if self.upto is None:
            return torch.randint(len(self.log_q), shape, device=self.log_q.device)
        chance = torch.rand(shape, dtype=torch.float64, device=self.log_q.device)
        return torch.searchsorted(self.upto, chance).clamp_max(len(self.log_q) - 1)


def pairs(backbone: Backbone, window: Ragged, wanted: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """States and the items that they should predict, (Q, D) and (Q,) ids 1..N.

    The state before a step predicts it, unless the backbone trains in a way of its own (`training_pairs`).

    Args:
        backbone: what is trained.
        window: B windows of history.
        wanted: (P,) bool: steps that count as targets.
        begins: (B,) bool, on the CPU: windows that start with a user's first step, which the start state predicts.
    """
    own = cast("Callable[..., tuple[Tensor, Tensor]] | None", getattr(backbone, "training_pairs", None))
    if own is not None:
        return own(window, wanted)
    device = window.items.device
    place = places(window.sizes).to(device)
    row = torch.repeat_interleave(torch.arange(len(window.sizes)), window.sizes).to(device)
    last = place + 1 == window.sizes.to(device)[row]
    time = None if window.time is None else window.time[~last]
    states = encode(
        backbone, Ragged(window.items[~last], window.feedback[~last], (window.sizes - 1).clamp_min(0), time)
    )
    later = wanted & (place > 0)
    first = wanted & (place == 0) & begins.to(device)[row]
    before = (torch.arange(len(place), device=device) - 1 - row)[later]  # every earlier window gave one step away
    states = states.index_select(0, before)
    if bool(first.any()):
        states = torch.cat([states, backbone.start_state().expand(int(first.sum()), -1).to(states.dtype)])
    if window.users is not None:
        states = personal_states(backbone, states, window.users[torch.cat([row[later], row[first]])])
    return states, torch.cat([window.items[later], window.items[first]])


def loss_of(backbone: Backbone, states: Tensor, targets: Tensor, config: LossConfig, negatives: Negatives) -> Tensor:
    """Mean loss of predicting `targets` (Q,) ids 1..N from `states` (Q, D), in nats for softmax losses.

    Source of the penalty: Rendle et al. (2009), "BPR: Bayesian personalized ranking from implicit feedback", section 4.
    """
    vectors, bias, target = backbone.item_vectors(), backbone.item_bias(), targets - 1
    own = vectors.index_select(0, target)
    held = [states, own]
    if config.name == "cross-entropy":
        loss = losses.cross_entropy(states, target, vectors, bias)
    elif config.name == "in-batch":
        scores = torch.addmm(bias.index_select(0, target), states, own.T)
        loss = losses.in_batch(scores, targets, log_q=negatives.log_q[target] if config.correct else None)
    else:
        positive = (states * own).sum(1) + bias.index_select(0, target)  # (Q,)
        drawn = negatives.draw(config.negatives) if config.shared else negatives.draw(len(target), config.negatives)
        rows = vectors.index_select(0, drawn.flatten())  # (K, D) or (Q K, D)
        if config.shared:
            negative = torch.addmm(bias.index_select(0, drawn), states, rows.T)
        else:
            negative = torch.bmm(rows.view(*drawn.shape, -1), states.unsqueeze(2)).squeeze(2)
            negative = negative + rows_at(bias, drawn)
        loss = _against(positive, negative, drawn, drawn == target.unsqueeze(1), config, negatives)
        held.append(rows)
    return loss + _penalty(config, held) if config.penalty else loss


def _against(
    positive: Tensor, negative: Tensor, drawn: Tensor, clash: Tensor, config: LossConfig, negatives: Negatives
) -> Tensor:
    """Of the scores of targets (Q,) and of the items `drawn` (K,) or (Q, K), which are (Q, K)."""
    if config.name == "sampled-softmax":
        log_q = negatives.log_q[drawn] if config.correct else None
        return losses.sampled_softmax(positive, negative, log_q_negative=log_q, clash=clash)
    if config.elu:  # monotone: ranks are those of the scores
        positive, negative = (nn.functional.elu(part, config.elu) for part in (positive, negative))
    if config.name == "bpr":
        return losses.bpr(positive, negative, clash=clash)
    if config.name == "bpr-max":
        return losses.bpr_max(positive, negative, regularisation=config.regularisation, clash=clash)
    if config.name == "top1-max":
        return losses.top1_max(positive, negative, clash=clash)
    if config.name == "bce":
        return losses.binary_cross_entropy(positive, negative, clash=clash)
    num_items = len(negatives.log_q)
    return losses.gbce(positive, negative, num_items=num_items, calibration=config.calibration, clash=clash)


def _penalty(config: LossConfig, held: list[Tensor]) -> Tensor:
    """Half of lambda times the sum of the mean squared lengths of what is `held`, each (..., D)."""
    return config.penalty / 2 * torch.stack([part.float().square().sum(-1).mean() for part in held]).sum()
