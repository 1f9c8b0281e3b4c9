"""The logging policy as a small multinomial model of the context, item by item: bias_a + (W x) . E_a."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recgym.ope.behaviour import Choices, check_amount, check_some, item_frequencies, log_propensities
from recgym.ope.views import chunks
from recgym.types import IntArray


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How `fit_scores` learns."""

    rank: int = 16
    """Numbers an item, R; at least D, or N - 1, leaves a linear multinomial model unrestricted."""
    penalty: float = 1.0
    """L2: minus the log of a normal prior of variance 1 / penalty on W (of standardised features) and E."""
    smoothing: float = 1.0
    """Of the context-free frequencies from which the biases start; above 0."""
    learning_rate: float = 0.02
    """Of Adam; a quarter after each round that did not help users held out."""
    batch_size: int = 512
    """Rows a gradient step; one (batch, N) array of scores is held."""
    rounds: int = 60
    """Looks at the users held out, at most: one after each pass over the training rows."""
    updates: int = 40
    """Gradient steps between looks, at least; a small log is passed over several times."""
    patience: int = 4
    """Rounds that do not help, before it stops."""

    def __post_init__(self) -> None:
        """Refuse numbers that fit nothing."""
        for name in ("rank", "batch_size", "rounds", "updates", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("smoothing", "learning_rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        check_amount("penalty", self.penalty)


@dataclass(frozen=True, kw_only=True)
class ItemScores:
    """Multinomial model in item-scoring form: score of item a is bias_a + (W x) . E_a, x standardised."""

    mean: Tensor  # (D,) float32
    spread: Tensor  # (D,) float32
    bias: Tensor  # (N,) float32
    weight: Tensor  # (D, R) float32, W
    items: Tensor  # (N, R) float32, E

    def logits(self, seen: Choices) -> Tensor:
        """Scores, (B, N) float32."""
        features = (torch.from_numpy(seen.features).float() - self.mean) / self.spread
        return torch.addmm(self.bias, features @ self.weight, self.items.T)


def fit_scores(
    choices: Choices, train: IntArray, held_out: IntArray, *, seed: int, config: ScoreConfig | None = None
) -> ItemScores:
    """Penalised maximum likelihood of bias_a + (W x) . E_a, stopped early.

    min over (bias, W, E) of -mean_i log mu(a_i | x_i) + penalty / (2 n) (|W|^2 + |E|^2). It starts at the context-free
    frequencies and keeps the round that was best for the held-out users: context counts only where it helped them.

    Args:
        choices: the log.
        train: rows to learn from.
        held_out: rows of other users, to stop by.
        seed: of the first weights and the order of the rows.
        config: how it learns.

    Raises:
        ValueError: There is no row to learn from or to stop by.
    """
    config = config or ScoreConfig()
    check_some(train)
    check_some(held_out)
    generator = torch.Generator().manual_seed(seed)
    shown = choices.features[train].astype(np.float64)
    mean, spread = shown.mean(axis=0), shown.std(axis=0)
    start = item_frequencies(choices.item[train], num_items=choices.num_items, smoothing=config.smoothing)

    def draw(rows: int, size: float) -> Tensor:
        return (torch.randn(rows, config.rank, generator=generator) * size).requires_grad_()

    model = ItemScores(
        mean=torch.from_numpy(mean).float(),
        spread=torch.from_numpy(np.where(spread > 1e-6, spread, 1.0)).float(),
        bias=torch.from_numpy(start).log().float().requires_grad_(),
        weight=draw(shown.shape[1], shown.shape[1] ** -0.5),
        items=draw(choices.num_items, 0.0),
    )
    learned = (model.bias, model.weight, model.items)
    passes = math.ceil(config.updates * min(config.batch_size, len(train)) / len(train))
    optimiser = torch.optim.Adam(learned, lr=config.learning_rate)
    best, kept, patience = np.inf, [part.detach().clone() for part in learned], config.patience
    for number in range(config.rounds + 1):
        for _ in range(passes if number else 0):
            _learn_once(
                model, choices, train[torch.randperm(len(train), generator=generator).numpy()], optimiser, config
            )
        with torch.no_grad():
            loss = -float(log_propensities(model, choices, held_out).mean())
            if loss < best:
                best, kept = loss, [part.clone() for part in learned]
                continue
            for part, good in zip(learned, kept, strict=True):
                part.copy_(good)
        patience -= 1
        optimiser.param_groups[0]["lr"] /= 4
        if not patience:
            break
    return ItemScores(mean=model.mean, spread=model.spread, bias=kept[0], weight=kept[1], items=kept[2])


def _learn_once(
    model: ItemScores, choices: Choices, rows: IntArray, optimiser: torch.optim.Optimizer, config: ScoreConfig
) -> None:
    """One pass over the training rows in the given order."""
    for part in chunks(len(rows), config.batch_size):
        seen = choices.take(rows[part])
        scores = model.logits(seen)
        if seen.mask is not None:
            scores = scores.masked_fill(~torch.from_numpy(seen.mask), -torch.inf)
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(seen.item) - 1)
        size = (model.weight**2).sum() + (model.items**2).sum()
        optimiser.zero_grad()
        (loss + config.penalty / (2 * len(rows)) * size).backward()
        optimiser.step()
