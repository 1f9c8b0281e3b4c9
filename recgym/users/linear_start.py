"""Where the heads start: a ridge logistic regression on the features of what was shown, for each binary kind.

A few hundred repeats of an item in a session say plainly that a repeat is not wanted, but small steps from nothing find
that slowly, and early stopping ends before. The linear model is found at once; training goes on from there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recgym.users.reading import Reader, happened, in_batches
from recgym.users.slates import Slates

_RIDGE = 4.0
"""Penalty of half the squared weight of a standardised feature, nats: a normal prior of standard deviation .5."""
_LEAST = 20
"""Cases of either answer below which a kind starts at its mean rate."""


@torch.no_grad()
def start_linear(reader: Reader, slates: Slates) -> None:
    """Set the direct weights and the output biases of `reader`'s heads from training slates with exposures.

    The backbone's score is left out: it was trained on the same steps and promises more than it will keep.
    """
    if not reader.exposures:
        return
    heads = reader.heads
    inputs = torch.cat([reader.show(part, part.item.unsqueeze(1)).inputs[:, 0] for part in in_batches(slates, 8192)])
    features = inputs[:, :-1]  # (M', X)
    for column, kind in enumerate(reader.kinds):
        asked = happened(reader.kinds, column, slates.feedback)
        answer = (slates.feedback[asked, column] > 0).float()
        if kind.type == "binary" and (found := fit_logistic(features[asked], answer)) is not None:
            heads.direct.weight[column, :-1], heads.out.bias[column] = found
            heads.direct.weight[column, -1] = 0
            heads.out.weight[column] *= 0.1
    known = slates.known
    amounts = torch.log1p(slates.feedback)  # (M', F), as the leaving head reads them
    found = fit_logistic(torch.cat([features, amounts], 1)[known], slates.leaves[known])
    if found is not None:
        width = features.shape[1]
        heads.leave_direct.weight[0, :width], heads.leave_out.bias[0] = found[0][:width], found[1]
        heads.leave_direct.weight[0, width] = 0
        heads.leave_direct.weight[0, width + 1 :] = found[0][width:]
        heads.leave_out.weight *= 0.1


@torch.enable_grad()
def fit_logistic(features: Tensor, answer: Tensor, *, ridge: float = _RIDGE) -> tuple[Tensor, Tensor] | None:
    """Weights (X,) and intercept of a logistic regression, (Q, X) and (Q,) 0 or 1; None where one answer is too rare.

    It maximises the log-likelihood less ridge / 2 times the squared weights of the standardised features.
    """
    happened_ = int(answer.sum())
    if min(happened_, len(answer) - happened_) < _LEAST:
        return None
    mean, spread = features.mean(0), features.std(0)
    scale = torch.where(spread > 1e-6, spread, torch.inf)
    standard = ((features - mean) / scale).double()
    target = answer.double()
    free = torch.zeros(features.shape[1] + 1, dtype=torch.float64)
    free[-1] = torch.logit(target.mean())
    free.requires_grad_(True)
    optimiser = torch.optim.LBFGS([free], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        error = binary_cross_entropy_with_logits(standard @ free[:-1] + free[-1], target, reduction="sum")
        value = (error + ridge / 2 * (free[:-1] ** 2).sum()) / len(target)
        value.backward()
        return value

    optimiser.step(closure)
    weight = (free.detach()[:-1].float()) / scale
    return weight, free.detach()[-1].float() - (weight * mean).sum()
