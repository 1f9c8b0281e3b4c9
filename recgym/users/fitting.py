"""Fit the heads: feedback and leaving by maximum likelihood on training sessions, early stopping, then calibration.

Where the log has no exposures, the chance that a shown item is consumed is learned against sampled negatives, weighted
so that an item drawn from their distribution is consumed at the stated base rate: the odds then are
base_rate / (1 - base_rate) times the density ratio of consumed to sampled items.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recgym.backbones.backbone import Backbone
from recgym.backbones.encoding import Encoded, encode_sessions
from recgym.logs.sequences import Sequences, Starts
from recgym.logs.splits import TEST, TRAIN, VALIDATION, Roles, sessions_of, training_events
from recgym.random import session_keys
from recgym.trees import take
from recgym.types import IntArray
from recgym.users.calibration import Fit, fit_amount, fit_binary, leaving_scores
from recgym.users.config import UserConfig
from recgym.users.heads import Heads
from recgym.users.learned import LearnedUsers
from recgym.users.linear_start import start_linear
from recgym.users.reading import Reader, happened, in_batches, judge, make_reader
from recgym.users.returning import EDGES, Returning, fit_returning, read_visits
from recgym.users.slates import Slates, read_slates, seen_before

_WEIGHT_OF_LEAVING = 0.3
"""Weight of the hazard's loss beside the feedback's, so that rare endings do not set the pace of early stopping."""


def fit_users(
    sequences: Sequences,
    roles: Roles,
    backbone: Backbone,
    config: UserConfig,
    *,
    progress: bool = False,
) -> LearnedUsers:
    """Learn users from the training sessions of `sequences`; validation sessions stop the fit and calibrate it.

    Args:
        sequences: the log.
        roles: (M,) as from `recgym.logs.splits.temporal`.
        backbone: trained on the same training steps; it is not changed.
        config: how users are learned.
        progress: show progress bars.

    Raises:
        ValueError: no training or no validation session.
    """
    parts = {role: sessions_of(sequences, roles, role) for role in (TRAIN, VALIDATION)}
    if not all(len(sessions) for sessions in parts.values()):
        raise ValueError("users need at least one training session and one validation session")
    generator = torch.Generator().manual_seed(int(session_keys(config.seed, 1)) % 2**32)
    parts[TRAIN] = _thinned(sequences, parts[TRAIN], config.max_slates, generator)
    encoded = {role: encode_sessions(backbone, sequences, parts[role], progress=progress) for role in parts}
    train, held_out = (
        read_slates(
            backbone, sequences, parts[role], censor_seconds=config.censor_seconds,
            propensity_clip=config.propensity_clip, encoded=encoded[role],
        )
        for role in (TRAIN, VALIDATION)
    )  # fmt: skip
    readers = []
    unmet = torch.from_numpy(np.append(False, training_events(sequences, roles) == 0))  # (N + 1,)
    for member in range(1 + config.ensemble):
        reader = make_reader(sequences, roles, backbone, replace(config, seed=config.seed + 1000 * member), train)
        start_linear(reader, train)
        _fit(reader, _resampled(train, generator) if member else train, held_out, generator, progress)
        forget(reader.heads, unmet)
        _calibrate(reader, held_out, generator)
        reader.heads.requires_grad_(False).eval()
        readers.append(reader)
    reader, *others = readers
    return LearnedUsers(
        backbone=backbone,
        heads=reader.heads,
        members=tuple(other.heads for other in others),
        returning=_returning(sequences, roles, config, backbone.config.length, parts, encoded),
        topics=reader.topics,
        kinds=sequences.kinds,
        exposures=sequences.exposures,
        repeats=_repeats(train) > config.repeat_threshold,
        ignored_hazard=config.ignored_hazard,
        starts=_starts(sequences, roles, backbone, config, generator),
        start_megabytes=config.start_megabytes,
        new_user_share=config.new_user_share,
        name=sequences.name,
        item_titles=_column(sequences, "title"),
        item_categories=_column(sequences, "category"),
    )


@torch.no_grad()
def forget(heads: Heads, unmet: Tensor) -> None:
    """Set the free coordinates of items that no training step showed, `unmet` (N + 1,), to 0: those of the average.

    Decay alone keeps them there only where the log has exposures; sampled negatives push them, and only one way.
    """
    heads.item_embedding[unmet] = 0


def losses(reader: Reader, slates: Slates, generator: torch.Generator) -> Tensor:
    """Mean negative log-likelihood of the slates, nats (squared errors for standardised log amounts)."""
    offered = reader.offered(slates, generator)
    shown = reader.show(slates, offered)
    leave = reader.leave(slates, shown)
    total = torch.zeros(())
    for column, kind in enumerate(reader.kinds):
        logit = shown.logits[:, :, column]
        amount = slates.feedback[:, column]
        if column == 0 and not reader.exposures:
            weight = (1 - reader.config.base_rate) / (reader.config.base_rate * reader.config.negatives)
            consumed = nn.functional.logsigmoid(logit[:, 0])
            total = total - (consumed + weight * nn.functional.logsigmoid(-logit[:, 1:]).sum(1)).mean()
            continue
        asked = happened(reader.kinds, column, slates.feedback)
        count = asked.sum().clamp_min(1) if reader.exposures else torch.tensor(len(asked))
        share = asked.sum() / len(asked)
        if kind.type == "binary":
            happens = (amount > 0).float()
            error = nn.functional.binary_cross_entropy_with_logits(
                logit[:, 0], happens, weight=slates.weight, reduction="none"
            )
        else:
            mean, scale = reader.heads.amount[:2, column]
            error = 0.5 * slates.weight * (logit[:, 0] - (amount.clamp_min(1e-9).log() - mean) / scale) ** 2
            asked = asked & (amount > 0)
        total = total + share * (error * asked).sum() / count
    known = slates.known.float()
    ends = nn.functional.binary_cross_entropy_with_logits(leave, slates.leaves, reduction="none")
    return total + _WEIGHT_OF_LEAVING * (ends * known).sum() / known.sum().clamp_min(1)


def _fit(reader: Reader, train: Slates, held_out: Slates, generator: torch.Generator, progress: bool) -> None:
    """Minimise `losses`; the weights of the best validation epoch stay."""
    heads, config = reader.heads, reader.config
    shared = [parameter for name, parameter in heads.named_parameters() if name != "item_embedding"]
    groups = [
        {"params": shared, "weight_decay": config.weight_decay},
        {"params": [heads.item_embedding], "weight_decay": config.item_decay},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    state = generator.get_state()
    best, best_loss, worse = {name: tensor.clone() for name, tensor in heads.state_dict().items()}, np.inf, 0
    with tqdm(total=config.epochs, desc="users", unit="epoch", disable=not progress) as bar:
        for _ in range(config.epochs):
            order = torch.randperm(len(train.item), generator=generator)
            for rows in order.split(config.batch_size):
                optimiser.zero_grad()
                losses(reader, _blurred(take(train, rows), config.state_dropout, generator), generator).backward()
                optimiser.step()
            loss = _held_out_loss(reader, held_out, state)
            bar.update()
            bar.set_postfix(validation=f"{loss:.4f}")
            worse = 0 if loss < best_loss else worse + 1
            if loss < best_loss:
                best, best_loss = {name: tensor.clone() for name, tensor in heads.state_dict().items()}, loss
            if worse >= config.patience:
                break
    heads.load_state_dict(best)


def _blurred(slates: Slates, share: float, generator: torch.Generator) -> Slates:
    """The slates with units of their state dropped."""
    kept = torch.rand(slates.state.shape, generator=generator) >= share
    return slates._replace(state=slates.state * kept / (1 - share))


def _calibrate(reader: Reader, held_out: Slates, generator: torch.Generator) -> None:
    """Set the heads' calibration from held-out slates."""
    judged, heads = judge(reader, held_out, generator), reader.heads
    for column, kind in enumerate(reader.kinds):
        if kind.type == "binary":
            fit = fit_binary(judged.scores(reader, held_out, column), random_effects=reader.config.random_effects)
        else:
            rows = held_out.feedback[:, column] > 0
            mean, scale = heads.amount[:2, column]
            observed = (held_out.feedback[rows, column].log() - mean) / scale
            fit, residual = fit_amount(judged.logits[rows, 0, column], observed, held_out.weight[rows])
            heads.residual[column] = residual * scale
        _set(reader, column, fit)
    scores = leaving_scores(judged.leave, held_out)
    _set(reader, len(reader.kinds), fit_binary(scores, random_effects=reader.config.random_effects))


def _set(reader: Reader, column: int, fit: Fit) -> None:
    heads = reader.heads
    heads.slope[column], heads.intercept[column], heads.effect_scale[column] = fit


@torch.no_grad()
def _held_out_loss(reader: Reader, held_out: Slates, state: Tensor) -> float:
    """Mean validation loss against the same negatives each time."""
    generator = torch.Generator()
    generator.set_state(state)
    total = 0.0
    for part in in_batches(held_out, 4096):
        total += float(losses(reader, part, generator)) * len(part.item)
    return total / len(held_out.item)


def _thinned(sequences: Sequences, sessions: IntArray, max_slates: int, generator: torch.Generator) -> IntArray:
    """Sessions drawn at random until they hold `max_slates` steps, in order."""
    size = np.diff(sequences.session_bounds)[sessions]
    if size.sum() <= max_slates:
        return sessions
    order = torch.randperm(len(sessions), generator=generator).numpy()
    kept = order[np.cumsum(size[order]) <= max_slates]
    return np.sort(sessions[kept])


def _repeats(slates: Slates) -> float:
    """Share of consumed items that had been consumed before, as far as the history reaches."""
    consumed = slates.feedback[:, 0] > 0
    seen = seen_before(slates.history, slates.consumed, slates.item.unsqueeze(1))[:, 0]
    return float(seen[consumed].mean()) if bool(consumed.any()) else 0.0


def _resampled(slates: Slates, generator: torch.Generator) -> Slates:
    """As many sessions, drawn with replacement. Source: Efron (1979), the bootstrap, by session."""
    count = int(slates.session[-1]) + 1
    times = torch.bincount(torch.randint(count, (count,), generator=generator), minlength=count)
    return take(slates, torch.repeat_interleave(torch.arange(len(slates.item)), times[slates.session]))


def _returning(
    sequences: Sequences,
    roles: Roles,
    config: UserConfig,
    length: int,
    parts: dict[int, IntArray],
    encoded: dict[int, Encoded],
) -> Returning | None:
    """The model of returns: fitted on what was known when the training part ended, calibrated on the next part.

    `parts` are the sessions of the two, `encoded` their states; a session's last `length` slates are summed up.
    """
    first = sequences.session_bounds[:-1]
    begin = {role: sequences.time[first[roles[first] == role]] for role in (TRAIN, VALIDATION, TEST)}
    end = float(np.max(sequences.time))
    visits = []
    for role, following in ((TRAIN, VALIDATION), (VALIDATION, TEST)):
        later = begin[following]
        in_time = len(later) > 0 and int(begin[role].max()) <= int(later.min())  # not so under leave-one-out
        until = float(later.min()) if in_time else end
        visits.append(read_visits(sequences, parts[role], encoded[role], until=until, length=length))
    most = min(config.churn_days, (end - float(np.min(sequences.time))) / 86_400)
    edges = tuple(edge for edge in EDGES if edge < most)
    return fit_returning(*visits, seed=config.seed, length=length, edges=(*edges, most))


def _starts(
    sequences: Sequences, roles: Roles, backbone: Backbone, config: UserConfig, generator: torch.Generator
) -> Starts:
    """Starts of sessions before the test part, drawn at random where there are too many."""
    sessions = np.flatnonzero(roles[sequences.session_bounds[:-1]] != TEST)
    kept = torch.randperm(len(sessions), generator=generator)[: config.max_starts].sort().values.numpy()
    return Starts.of(sequences, sessions[kept], backbone.config.length)


def _column(sequences: Sequences, name: str) -> tuple[str, ...] | None:
    if name not in sequences.items.columns:
        return None
    return tuple("" if value is None else str(value) for value in sequences.items[name].to_list())
