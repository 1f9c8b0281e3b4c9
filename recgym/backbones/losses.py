"""Losses of next-item models: pure functions of scores, each the mean over Q predictions, in nats.

`positive` (Q,) holds the score of the item that was chosen, `negative` (Q, K) those of K items drawn for it, and
`clash` (Q, K) says which of these are the chosen item itself: they are left out. The full softmax alone starts from
states and vectors, because the catalogue's scores never exist at once. Half precision is widened before any logarithm.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

_CELLS = 1 << 24
"""Scores held at once at most: rows x items."""
_CACHED = 1 << 20
"""Scores that stay in a CPU's cache."""


def cross_entropy(states: Tensor, targets: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
    """Full softmax: mean_q -log softmax(V h_q + b)[y_q].

    Made in blocks of rows. A block's gradients follow while its scores are at hand, so that nothing is kept or made
    twice; where no gradient is wanted, none is made. Under autocast to bfloat16 the products are in bfloat16, the
    softmax and the sums over blocks in float32. It can be differentiated once.

    Args:
        states: h, (Q, D).
        targets: y, (Q,) int64 rows of `vectors`, 0..N-1.
        vectors: V, (N, D).
        bias: b, (N,).

    Raises:
        ValueError: shapes that do not fit, no row, or (on the CPU) a target outside of 0..N-1.
    """
    if states.ndim != 2 or not len(states):
        raise ValueError(f"states has shape {tuple(states.shape)}, expected (Q, D) with Q of at least 1")
    rows, width, items = *states.shape, len(vectors)
    _expect("targets", targets, (rows,))
    _expect("vectors", vectors, (items, width))
    _expect("bias", bias, (items,))
    if targets.device.type == "cpu" and not 0 <= int(targets.min()) <= int(targets.max()) < items:
        raise ValueError(f"targets reach from {targets.min()} to {targets.max()}, expected 0..{items - 1}")
    if not torch.is_grad_enabled():
        states, vectors, bias = states.detach(), vectors.detach(), bias.detach()
    loss: Tensor = _CrossEntropy.apply(states, targets, vectors, bias)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """With e_qj = exp(s_qj - max_q) and z_q = sum_j e_qj, dL/ds = (e - z 1[j = y_q]) / (Q z): never divided out."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, vectors: Tensor, bias: Tensor) -> Tensor:
        inputs, needed = (states, vectors, bias), [ctx.needs_input_grad[place] for place in (0, 2, 3)]
        narrow = _precision(states)
        wide = torch.promote_types(narrow, torch.float32)
        made = [torch.zeros_like(one, dtype=wide) if need else None for one, need in zip(inputs, needed, strict=True)]
        of_states, of_vectors, of_bias = made
        total, block = torch.zeros((), dtype=wide, device=states.device), _rows(vectors)
        with torch.autocast(states.device.type, enabled=False):
            rows, table, offset = states.to(narrow), vectors.to(narrow), bias.to(narrow)
            for first in range(0, len(rows), block):
                part, own = rows[first : first + block], targets[first : first + block, None]
                scores = torch.addmm(offset, part, table.T).to(wide)  # (R, N)
                top, chosen = scores.amax(1, keepdim=True), scores.gather(1, own)
                mass = scores.sub_(top).exp_().sum(1, keepdim=True)  # z, (R, 1)
                total += (mass.log() + top - chosen).sum()
                if not any(needed):
                    continue
                weight = 1 / (len(rows) * mass)
                slope = scores.scatter_add_(1, own, -mass).to(narrow)  # (R, N)
                if of_states is not None:
                    of_states[first : first + block] = (slope @ table) * weight
                if of_vectors is not None:
                    _add_product(of_vectors, slope.T, (part * weight).to(narrow))
                if of_bias is not None:
                    _add_product(of_bias[:, None], slope.T, weight.to(narrow))
        ctx.needed = needed
        ctx.save_for_backward(*(one.to(x.dtype) for one, x in zip(made, inputs, strict=True) if one is not None))
        return total / len(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        states, vectors, bias = (next(saved) * gradient if need else None for need in ctx.needed)
        return states, None, vectors, bias


def _rows(vectors: Tensor) -> int:
    """Rows of a block; on the CPU as many as its cache holds, and where the catalogue is large, 32 if they may."""
    most = _CELLS // len(vectors)
    return max(1, most if vectors.device.type != "cpu" else min(most, max(32, _CACHED // len(vectors))))


def _precision(states: Tensor) -> torch.dtype:
    """Type of the matrix products; float16 is widened, since gradients over a catalogue vanish in it."""
    device = states.device.type
    cast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    return torch.bfloat16 if cast else torch.promote_types(states.dtype, torch.float32)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a product to a sum that may be of a wider type."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def sampled_softmax(
    positive: Tensor,
    negative: Tensor,
    *,
    log_q_positive: Tensor | None = None,
    log_q_negative: Tensor | None = None,
    clash: Tensor | None = None,
) -> Tensor:
    """Softmax over the chosen item and K draws from q: -log e^s+ / (e^s+ + sum_k e^s_k / (K q_k)).

    The sum over draws estimates the one over all other items without bias, so that the loss tends to the full softmax
    as K grows. Without `log_q_negative`, scores stay as they are.

    Args:
        positive: (Q,).
        negative: (Q, K).
        log_q_positive: (Q,) log of the chosen item's chance in a draw: divides e^s+ by K q too, as Yi et al. do, whose
            chosen items are draws themselves; None: the chosen item is in the sum for certain.
        log_q_negative: (Q, K), or (K,) where all rows share their draws: log of each negative's chance in a draw.
        clash: (Q, K) bool.

    Source: Bengio and Senecal (2008), "Adaptive importance sampling to accelerate training of a neural probabilistic
    language model"; Yi et al. (2019), "Sampling-bias-corrected neural modeling for large corpus item recommendations".
    """
    positive, negative = _checked(positive, negative, clash)
    draws = negative.shape[1]
    if log_q_negative is not None:
        _expect("log_q_negative", log_q_negative, (draws,) if log_q_negative.ndim == 1 else tuple(negative.shape))
        negative = negative - log_q_negative - math.log(draws)
    if log_q_positive is not None:
        if log_q_negative is None:
            raise ValueError("log_q_positive is given without log_q_negative: correct both, or the negatives alone")
        _expect("log_q_positive", log_q_positive, tuple(positive.shape))
        positive = positive - log_q_positive - math.log(draws)
    if clash is not None:
        negative = negative.masked_fill(clash, -torch.inf)
    return -torch.cat([positive[:, None], negative], 1).log_softmax(1)[:, 0].mean()


def in_batch(scores: Tensor, targets: Tensor, *, log_q: Tensor | None = None) -> Tensor:
    """Sampled softmax whose draws are the other targets of the batch; those that equal a row's own are left out.

    Args:
        scores: (Q, Q), of state q with the target of row r.
        targets: (Q,) item ids.
        log_q: (Q,) log of each target's share of all targets; corrects the negatives as in `sampled_softmax`.

    Source: Hidasi et al. (2016), "Session-based recommendations with recurrent neural networks", section 3.2 (other
    targets as negatives); Yi et al. (2019), as above (the correction).
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or not len(scores):
        raise ValueError(f"scores has shape {tuple(scores.shape)}, expected (Q, Q) with Q of at least 1")
    _expect("targets", targets, (len(scores),))
    if log_q is not None:
        _expect("log_q", log_q, (len(scores),))
        log_q = log_q + math.log(max(len(scores) - 1, 1) / len(scores))  # Q - 1 of the Q columns are draws
    clash = targets[:, None] == targets
    return sampled_softmax(scores.diagonal(), scores, log_q_negative=log_q, clash=clash)


def bpr(positive: Tensor, negative: Tensor, *, clash: Tensor | None = None) -> Tensor:
    """Bayesian personalised ranking: mean_k -log sigmoid(s+ - s_k).

    Source: Rendle et al. (2009), "BPR: Bayesian personalized ranking from implicit feedback".
    """
    positive, negative = _checked(positive, negative, clash)
    terms = -logsigmoid(positive[:, None] - negative)  # (Q, K)
    return (_sum(terms, clash) / _count(negative, clash).clamp(min=1)).mean()


def bpr_max(positive: Tensor, negative: Tensor, *, regularisation: float = 1.0, clash: Tensor | None = None) -> Tensor:
    """-log sum_k w_k sigmoid(s+ - s_k) + regularisation sum_k w_k s_k^2, with w the softmax of the negatives' scores.

    Source: Hidasi and Karatzoglou (2018), "Recurrent neural networks with top-k gains for session-based
    recommendations".
    """
    if not 0 <= regularisation < math.inf:
        raise ValueError(f"regularisation is {regularisation}, expected a finite number of at least 0")
    positive, negative = _checked(positive, negative, clash)
    weight = _log_weight(negative, clash)
    gain = (weight + logsigmoid(positive[:, None] - negative)).logsumexp(1)
    loss = regularisation * _sum(weight.exp() * negative**2, clash) - gain
    return (loss if clash is None else loss.masked_fill(clash.all(1), 0)).mean()


def top1_max(positive: Tensor, negative: Tensor, *, clash: Tensor | None = None) -> Tensor:
    """sum_k w_k (sigmoid(s_k - s+) + sigmoid(s_k^2)), with w the softmax of the negatives' scores.

    Source: Hidasi and Karatzoglou (2018), as `bpr_max`.
    """
    positive, negative = _checked(positive, negative, clash)
    terms = (negative - positive[:, None]).sigmoid() + (negative**2).sigmoid()
    return _sum(_log_weight(negative, clash).exp() * terms, clash).mean()


def binary_cross_entropy(positive: Tensor, negative: Tensor, *, clash: Tensor | None = None) -> Tensor:
    """-(log sigmoid(s+) + sum_k log(1 - sigmoid(s_k))) / (K + 1).

    Source: Kang and McAuley (2018), "Self-attentive sequential recommendation", with K = 1 and without the division.
    """
    return _binary(positive, negative, clash, 1.0)


def gbce(
    positive: Tensor, negative: Tensor, *, num_items: int, calibration: float = 0.75, clash: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy with sigmoid(s+)^beta: beta = alpha (t (1 - 1 / alpha) + 1 / alpha) = 1 - t (1 - alpha).

    alpha = K / (N - 1) is the share of the negatives that were drawn, at most 1. With t = 0 this is binary
    cross-entropy; with t = 1 the probabilities are calibrated.

    Args:
        positive: (Q,).
        negative: (Q, K), of uniform draws.
        num_items: items of the catalogue, N.
        calibration: t, in [0, 1].
        clash: (Q, K) bool.

    Source: Petrov and Macdonald (2023), "gSASRec: reducing overconfidence in sequential recommendation trained with
    negative sampling".
    """
    if not 0 <= calibration <= 1:
        raise ValueError(f"calibration is {calibration}, expected a number in [0, 1]")
    if num_items < 2:
        raise ValueError(f"num_items is {num_items}, expected at least 2")
    drawn = min(1.0, negative.shape[-1] / (num_items - 1))
    return _binary(positive, negative, clash, 1 - calibration * (1 - drawn))


def _binary(positive: Tensor, negative: Tensor, clash: Tensor | None, power: float) -> Tensor:
    positive, negative = _checked(positive, negative, clash)
    terms = -power * logsigmoid(positive) - _sum(logsigmoid(-negative), clash)  # 1 - sigmoid(s) = sigmoid(-s)
    return (terms / (1 + _count(negative, clash))).mean()


def _sum(terms: Tensor, clash: Tensor | None) -> Tensor:
    """Sum over the negatives that do not clash, (Q, K) -> (Q,)."""
    return (terms if clash is None else terms.masked_fill(clash, 0)).sum(1)


def _count(negative: Tensor, clash: Tensor | None) -> Tensor:
    """Negatives that do not clash, (Q,)."""
    return (torch.zeros_like(negative, dtype=torch.bool) if clash is None else clash).logical_not().sum(1)


def _log_weight(negative: Tensor, clash: Tensor | None) -> Tensor:
    """Log softmax over the negatives that do not clash, (Q, K): finite even where all of them do."""
    least = torch.finfo(negative.dtype).min
    return (negative if clash is None else negative.masked_fill(clash, least)).log_softmax(1)


def _checked(positive: Tensor, negative: Tensor, clash: Tensor | None) -> tuple[Tensor, Tensor]:
    """The scores in float32 at least, if their shapes fit."""
    if positive.ndim != 1 or not len(positive):
        raise ValueError(f"positive has shape {tuple(positive.shape)}, expected (Q,) with Q of at least 1")
    if negative.ndim != 2 or len(negative) != len(positive) or not negative.shape[1]:
        raise ValueError(f"negative has shape {tuple(negative.shape)}, expected ({len(positive)}, K), K at least 1")
    if clash is not None:
        _expect("clash", clash, tuple(negative.shape))
        if clash.dtype != torch.bool:
            raise ValueError(f"clash is {clash.dtype}, expected bool")
    wide = torch.promote_types(negative.dtype, torch.float32)
    return positive.to(wide), negative.to(wide)


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
