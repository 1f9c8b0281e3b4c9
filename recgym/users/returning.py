"""When a user comes back: a discrete-time survival model of the days between sessions, from the whole session.

After a session the chance to return within each span of days, given that the user has not returned before, is a
sigmoid of a small network over the backbone's state, the session's length and what was done in it. Who survives the
last span has churned. Within a span returns are spread evenly, so that a session whose sequel the log cannot show any
more counts as far as it was followed: through a share s of a span with hazard h it was survived with chance 1 - s h.

Source: Gensheimer and Narasimhan (2019), "A scalable discrete-time survival model for neural networks", equation 3,
which counts a cut span whole from its middle on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recgym.backbones.encoding import Encoded
from recgym.logs.sequences import Sequences
from recgym.types import IntArray

EDGES = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 14.0, 21.0, 30.0)
"""Ends of the spans, days; a user away for longer than the last has churned."""
LEAST_RETURNS = 100
"""Observed returns below which a log says nothing about them."""
_WIDTH, _EPOCHS, _PATIENCE, _BATCH = 32, 40, 4, 256
_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True)
class ReturnShape:
    """Sizes of the model."""

    state_width: int
    num_kinds: int
    length: int = 50
    """Slates that a summary looks back on at most, L."""
    edges: tuple[float, ...] = EDGES


class Visits(NamedTuple):
    """S' ended sessions and what is known of the user's next one."""

    state: Tensor  # (S', D) of the backbone, after the session
    depth: Tensor  # (S',) slates
    sums: Tensor  # (S', F) feedback over the session's last L slates
    days: Tensor  # (S',) float64 until the next session began (0: before this one ended), or nothing more is known
    returned: Tensor  # (S',) bool: whether it began


class Returning(nn.Module):
    """Hazards of returning in each span of days."""

    shape: ReturnShape
    edges: Tensor  # (J + 1,) days
    centre: Tensor  # (X,) mean of the summaries
    spread: Tensor  # (X,) their standard deviation
    calibration: Tensor  # (2,): slope and intercept of every log-odds

    def __init__(self, shape: ReturnShape) -> None:
        super().__init__()
        self.shape = shape
        spans, inputs = len(shape.edges) - 1, shape.num_kinds + 2
        self.read = nn.Linear(shape.state_width + inputs, _WIDTH)
        self.out = nn.Linear(_WIDTH, spans)
        self.direct = nn.Linear(inputs, spans, bias=False)
        self.register_buffer("edges", torch.tensor(shape.edges))
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))

    def log_odds(self, state: Tensor, depth: Tensor, sums: Tensor) -> Tensor:
        """Log-odds of returning in each span, given not before: (B, D), (B,), (B, F) -> (B, J)."""
        inputs = (self.summary(depth, sums) - self.centre) / self.spread  # (B, X)
        hidden = torch.relu(self.read(torch.cat([state, inputs], 1)))
        raw: Tensor = self.out(hidden) + self.direct(inputs)
        return raw * self.calibration[0] + self.calibration[1]

    def summary(self, depth: Tensor, sums: Tensor) -> Tensor:
        """What a session was, as log(1 + x): length, amounts a slate, total of the first: (B,), (B, F) -> (B, X)."""
        each = sums / depth.clamp(min=1, max=self.shape.length).unsqueeze(1)
        return torch.cat([depth.unsqueeze(1), each, sums[:, :1]], 1).log1p()

    def draw(self, log_odds: Tensor, draws: Tensor) -> Tensor:
        """Days until the return, inf where the user has churned: (B, J), uniform draws (B, 2) -> (B,)."""
        gone = torch.cat([torch.ones_like(log_odds[:, :1]), (1 - torch.sigmoid(log_odds)).cumprod(1)], 1)  # (B, J + 1)
        span = (draws[:, :1] < gone[:, 1:]).sum(1)  # (B,) spans survived
        inside = span.clamp(max=len(self.edges) - 2)
        low, high = self.edges[inside], self.edges[inside + 1]
        days = low + (high - low) * draws[:, 1]
        return torch.where(span < len(self.edges) - 1, days, torch.inf)

    def chance_within(self, log_odds: Tensor, days: float) -> Tensor:
        """P(return within `days`), (B,); `days` between edges counts the share of its span."""
        gone = torch.cat([torch.ones_like(log_odds[:, :1]), (1 - torch.sigmoid(log_odds)).cumprod(1)], 1)
        edges = self.edges.double()
        place = min(int(torch.searchsorted(edges, days, right=True)), len(edges) - 1)
        share = min(1.0, float((days - edges[place - 1]) / (edges[place] - edges[place - 1])))
        return 1 - gone[:, place - 1] * (1 - share) - gone[:, place] * share


def read_visits(sequences: Sequences, sessions: IntArray, encoded: Encoded, *, until: float, length: int) -> Visits:
    """What followed each of `sessions` (S',), as known at time `until` (seconds since the epoch).

    Args:
        sequences: the log.
        sessions: numbers of sessions.
        encoded: the same sessions, as `encode_sessions` gives them.
        until: sessions that begin later are unknown.
        length: of a session, as many last slates are summed up, L: what a simulated user's history holds.
    """
    bounds = sequences.session_bounds
    first, last = bounds[sessions], bounds[sessions + 1] - 1
    user = sequences.user_of_step[first]
    following = np.minimum(last + 1, sequences.num_steps - 1)
    same = (last + 1 < sequences.num_steps) & (sequences.user_of_step[following] == user)
    begin = sequences.time[following]
    returned = same & (begin <= until)
    end = np.asarray(sequences.time[last], np.float64)
    kept = end <= until  # sessions that reach beyond `until` say nothing
    days = np.where(returned, np.maximum(begin - end, 0), until - end) / _SECONDS
    size = last - first + 1  # (S',)
    begin_of = np.append(0, np.cumsum(size)[:-1])  # (S',) first step of each session among those encoded
    recent = np.arange(len(encoded.steps)) >= np.repeat(begin_of + size - length, size)
    amounts = np.asarray(sequences.feedback[encoded.steps], np.float32) * recent[:, None]
    sums = np.add.reduceat(amounts, begin_of, axis=0) if len(size) else amounts
    return Visits(
        state=encoded.after[torch.from_numpy(kept)],
        depth=torch.from_numpy(size[kept].astype(np.float32)),
        sums=torch.from_numpy(sums[kept]),
        days=torch.from_numpy(days[kept]),
        returned=torch.from_numpy(returned[kept]),
    )


def fit_returning(
    train: Visits, held_out: Visits, *, seed: int, length: int = 50, edges: tuple[float, ...] = EDGES
) -> Returning | None:
    """Maximum likelihood on `train`, early stopping and calibration on `held_out`; None where the log has too little.

    Args:
        train: sessions to learn from.
        held_out: later sessions.
        seed: of initial weights and minibatches.
        length: slates that a session is summed up over at most.
        edges: ends of the spans, days, from 0.
    """
    if int(train.returned.sum()) < LEAST_RETURNS:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width, kinds = train.state.shape[1], train.sums.shape[1]
        model = Returning(ReturnShape(state_width=width, num_kinds=kinds, length=length, edges=edges))
    inputs = model.summary(train.depth, train.sums)
    model.centre.copy_(inputs.mean(0))
    model.spread.copy_(inputs.std(0).clamp_min(1e-3))
    with torch.no_grad():
        model.out.bias.copy_(torch.logit(_mean_hazards(model.edges, train)))
        model.out.weight.mul_(0.1)
        model.direct.weight.zero_()
    judge = held_out if len(held_out.days) else train
    with torch.no_grad():
        best, best_loss, worse = _copy(model), float(log_loss(model, judge)), 0
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(train.days), generator=generator).split(_BATCH):
            optimiser.zero_grad()
            log_loss(model, Visits(*(part[rows] for part in train))).backward()
            optimiser.step()
        with torch.no_grad():
            loss = float(log_loss(model, judge))
        worse = 0 if loss < best_loss else worse + 1
        if loss < best_loss:
            best, best_loss = _copy(model), loss
        if worse >= _PATIENCE:
            break
    model.load_state_dict(best)
    _calibrate(model, judge)
    return model.requires_grad_(False).eval()


def spans_of(edges: Tensor, visits: Visits) -> tuple[Tensor, Tensor]:
    """For each session and span: the share of it that was lived through, and whether the user returned in it.

    Both (S', J) float32. A span in which the user returned counts as a whole one; one that was cut by the end of the
    log, before anything happened, as far as it was seen.
    """
    days, low, high = visits.days.unsqueeze(1), edges[:-1].double(), edges[1:].double()
    ends = visits.returned.unsqueeze(1) & (days >= low) & (days < high)
    lived = ((days - low) / (high - low)).clamp(0, 1)
    return torch.where(ends, 1.0, lived).float(), ends.float()


def log_loss(model: Returning, visits: Visits) -> Tensor:
    """Mean negative log-likelihood a session, nats."""
    return _surprise(model.log_odds(visits.state, visits.depth, visits.sums), *spans_of(model.edges, visits))


def _surprise(log_odds: Tensor, lived: Tensor, ends: Tensor) -> Tensor:
    """-log h where the user returned, else -log(1 - lived h), with h = sigmoid(log_odds): (S', J) -> mean a session."""
    still_away = nn.functional.softplus(log_odds + (-lived).log1p())  # log(1 + (1 - lived) exp(log_odds))
    return (nn.functional.softplus(log_odds) - torch.where(ends > 0, log_odds, still_away)).sum() / max(len(lived), 1)


def _mean_hazards(edges: Tensor, visits: Visits) -> Tensor:
    """Hazard of each span over all sessions, (J,), drawn towards the mean rate a day by one session's worth."""
    lived, ends = spans_of(edges, visits)
    width = edges.diff()
    typical = 1 - torch.exp(-width * ends.sum() / (lived * width).sum())
    return ((ends.sum(0) + typical) / (lived.sum(0) + 1)).clamp(1e-4, 1 - 1e-4)


def _copy(model: Returning) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _calibrate(model: Returning, held_out: Visits) -> None:
    """Set slope and intercept from held-out sessions, where they show enough returns."""
    if int(held_out.returned.sum()) < LEAST_RETURNS // 2:
        return
    with torch.no_grad():
        raw = model.log_odds(held_out.state, held_out.depth, held_out.sums)
    lived, ends = spans_of(model.edges, held_out)
    free = torch.tensor([1.0, 0.0], requires_grad=True)
    optimiser = torch.optim.LBFGS([free], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = _surprise(raw * free[0] + free[1], lived, ends)
        value.backward()
        return value

    optimiser.step(closure)
    if float(free.detach()[0]) > 0:
        model.calibration.copy_(free.detach())
