"""Puts logged slates before the heads, with sampled negatives where the log has no exposures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone
from recgym.logs.sequences import Sequences
from recgym.logs.splits import TRAIN, Roles
from recgym.random import fold, session_keys
from recgym.trees import take
from recgym.types import FeedbackKind
from recgym.users import recent as memory
from recgym.users.calibration import Scores
from recgym.users.config import UserConfig
from recgym.users.heads import Heads, HeadShape, Shown
from recgym.users.slates import Slates, topics_of


@dataclass(frozen=True, eq=False)
class Reader:
    """Puts logged slates before the heads; with sampled negatives where the log has no exposures."""

    heads: Heads
    vectors: Tensor  # (N + 1, D) of the backbone, 0 for padding
    bias: Tensor  # (N + 1,)
    topics: Tensor  # (N + 1,)
    popularity: Tensor  # (N,) training consumptions
    kinds: tuple[FeedbackKind, ...]
    exposures: bool
    config: UserConfig

    def offered(self, slates: Slates, generator: torch.Generator) -> Tensor:
        """The logged item, and the negatives where there are any, (B, 1 + negatives)."""
        if self.exposures:
            return slates.item.unsqueeze(1)
        return torch.cat([slates.item.unsqueeze(1), self._negatives(slates, generator)], 1)

    def show(self, slates: Slates, offered: Tensor) -> Shown:
        """What the heads say about `offered` (B, K)."""
        topics = self.topics[offered]
        lately = memory.features(slates.recent, topics, memory.trace_weights())
        usually = memory.habits(self.topics[slates.history], slates.consumed.to(torch.float32), topics)
        length = slates.history.shape[1]
        here = (torch.arange(length) >= length - slates.recent.depth.unsqueeze(1)).float()  # (B, L) in this session
        itself = memory.met_before(slates.history, slates.consumed.float(), here, offered)
        features = torch.cat([lately, usually, itself], 2)
        rows = self.heads.rows(offered, self.vectors[offered], self.bias[offered])
        slots = slates.slot.unsqueeze(1).expand_as(offered)
        shown = self.heads.weights().show(slates.state, rows, features, slots)
        offsets = self.heads.offsets(slates.context)[:, None, : len(self.kinds)]  # (B, 1, F)
        return shown._replace(logits=shown.logits + offsets)

    def leave(self, slates: Slates, shown: Shown) -> Tensor:
        """Log-odds of leaving after the feedback to the logged item, which `shown` has first, (B,)."""
        own = Shown(shown.logits[:, :1], shown.hidden[:, :1], shown.inputs[:, :1], shown.leave_state)
        offset = self.heads.offsets(slates.context)[:, len(self.kinds)]
        return self.heads.weights().leave(own, slates.feedback.unsqueeze(1)) + offset

    def _negatives(self, slates: Slates, generator: torch.Generator) -> Tensor:
        shape = (len(slates.item), self.config.negatives)
        popular = torch.multinomial(self.popularity + 1e-9, shape[0] * shape[1], replacement=True, generator=generator)
        uniform = torch.randint(len(self.popularity), shape, generator=generator)
        choose = torch.rand(shape, generator=generator) < self.config.popularity_weight
        return torch.where(choose, popular.view(shape), uniform) + 1


def make_reader(sequences: Sequences, roles: Roles, backbone: Backbone, config: UserConfig, slates: Slates) -> Reader:
    """Fresh heads in front of `backbone`, scaled to the slates they will be fitted on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(fold(session_keys(config.seed, 1), 1)) % 2**32)
        heads = Heads(
            HeadShape(
                num_items=sequences.num_items,
                state_width=backbone.width,
                num_kinds=len(sequences.kinds),
                slots=int(slates.slot.max()) + 1,
                width=config.width,
                leave_width=config.leave_width,
                item_width=config.item_width,
                context_width=slates.context.shape[1],
            )
        )
    with torch.no_grad():
        vectors, bias = (part.detach().cpu() for part in (backbone.item_vectors(), backbone.item_bias()))
        some = slates.state[:: max(1, len(slates.state) // 512)]
        scores = torch.addmm(bias, some, vectors.T)
        heads.score_scale.copy_(torch.stack([scores.mean(), scores.std().clamp_min(1e-3)]))
        for column, kind in enumerate(sequences.kinds):
            amount = slates.feedback[:, column]
            amount = amount[amount > 0]
            if kind.type == "real" and len(amount):
                logs = amount.log()
                spread = logs.std() if len(logs) > 1 else torch.ones(())
                parts = (logs.mean(), spread.clamp_min(1e-3), amount.min(), amount.max(), _step_of(amount))
                heads.amount[:, column] = torch.stack(parts)
        _start_at_rates(heads, sequences, slates, config)
    return reader_of(heads, sequences, roles, backbone, config)


def reader_of(heads: Heads, sequences: Sequences, roles: Roles, backbone: Backbone, config: UserConfig) -> Reader:
    """The given heads in front of `backbone`."""
    vectors, bias = backbone.item_vectors().detach().cpu(), backbone.item_bias().detach().cpu()
    train = np.asarray((roles == TRAIN) & sequences.targets)
    counts = np.bincount(sequences.item[train], minlength=sequences.num_items + 1)[1:]
    return Reader(
        heads=heads,
        vectors=torch.cat([torch.zeros(1, backbone.width), vectors]),
        bias=torch.cat([torch.zeros(1), bias]),
        topics=topics_of(sequences),
        popularity=torch.from_numpy(counts.astype(np.float32)),
        kinds=sequences.kinds,
        exposures=sequences.exposures,
        config=config,
    )


class Judged(NamedTuple):
    """What the heads say about M' logged slates, before calibration."""

    logits: Tensor  # (M', 1 + negatives, F); column 0 is the logged item
    leave: Tensor  # (M',)

    def scores(self, reader: Reader, slates: Slates, column: int) -> Scores:
        """Questions of one binary kind and their answers; weights are the base rate's where negatives are sampled."""
        if column == 0 and not reader.exposures:
            logit = self.logits[:, :, 0]  # (M', 1 + negatives)
            consumed = torch.zeros_like(logit)
            consumed[:, 0] = 1
            rate = reader.config.base_rate
            weight = torch.full_like(logit, (1 - rate) / (rate * reader.config.negatives))
            weight[:, 0] = 1
            session = slates.session.unsqueeze(1).expand_as(logit)
            parts = (logit.flatten(), consumed.flatten(), weight.flatten() * rate, session.flatten())
            return Scores(*parts)
        asked = happened(reader.kinds, column, slates.feedback)
        logit, amount = self.logits[asked, 0, column], slates.feedback[asked, column]
        return Scores(logit, (amount > 0).float(), slates.weight[asked], slates.session[asked])


@torch.no_grad()
def judge(reader: Reader, slates: Slates, generator: torch.Generator) -> Judged:
    """Put all slates before the heads, in batches."""
    logits, leave = [], []
    for part in in_batches(slates, 4096):
        shown = reader.show(part, reader.offered(part, generator))
        logits.append(shown.logits)
        leave.append(reader.leave(part, shown))
    return Judged(torch.cat(logits), torch.cat(leave))


def happened(kinds: tuple[FeedbackKind, ...], column: int, feedback: Tensor) -> Tensor:
    """Whether the kind that this one is conditional on happened, (B,) bool; True where there is none."""
    given = kinds[column].given
    names = [kind.name for kind in kinds]
    if given is None or given not in names:
        return torch.ones(len(feedback), dtype=torch.bool)
    return feedback[:, names.index(given)] > 0


def in_batches(slates: Slates, size: int) -> Iterator[Slates]:
    """The slates in order, at most `size` at once."""
    for rows in torch.arange(len(slates.item)).split(size):
        yield take(slates, rows)


def _step_of(amount: Tensor) -> Tensor:
    """The grid that all amounts lie on: whole numbers, halves, or none (0)."""
    for step in (1.0, 0.5):
        if bool(((amount / step).round() * step == amount).all()):
            return torch.tensor(step)
    return torch.tensor(0.0)


def _start_at_rates(heads: Heads, sequences: Sequences, slates: Slates, config: UserConfig) -> None:
    """Output biases at the log-odds of the mean rates."""
    for column, kind in enumerate(sequences.kinds):
        if kind.type == "real":
            continue
        asked = happened(sequences.kinds, column, slates.feedback)
        rate = (slates.feedback[asked, column] > 0).float().mean() if bool(asked.any()) else torch.tensor(0.5)
        if column == 0 and not sequences.exposures:
            rate = torch.tensor(config.base_rate)
        heads.out.bias[column] = torch.logit(rate.clamp(1e-4, 1 - 1e-4))
    ends = slates.leaves[slates.known].mean() if bool(slates.known.any()) else torch.tensor(0.1)
    heads.leave_out.bias[0] = torch.logit(ends.clamp(1e-4, 1 - 1e-4))
