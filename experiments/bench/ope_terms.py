"""What every estimator makes of one log: terms of users whose sums, or ratios of sums, are the estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from experiments.bench.ope_worlds import Log, Setting, World
from recgym.ope.doubly_robust import doubly_robust
from recgym.ope.fqe import Values
from recgym.ope.importance import per_decision, weighted_per_decision_terms
from recgym.ope.marginalised import category_weights
from recgym.ope.occupancy import double_reinforcement, state_ratios, weighted_marginal_terms
from recgym.ope.one_step import clipped_weights, ips, self_normalised
from recgym.ope.one_step_models import (
    direct_method,
    doubly_robust_terms,
    optimistic_doubly_robust,
    self_normalised_doubly_robust,
    switch_doubly_robust,
)
from recgym.ope.views import first_steps
from recgym.ope.weighted_dr import weighted_doubly_robust_terms
from recgym.ope.weights import SupportError
from recgym.types import DoubleArray, IntArray

BIASED = ("clipped IPS", "DM", "Switch-DR", "DRos", "MIPS")
"""Estimators whose error does not vanish with data alone, or later than any interval of one log can tell."""
LIMIT = 10.0
"""Weights are clipped, and Switch-DR leaves them to the model, above this; DRos has its square as strength."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """An estimate as sum_h [sum_e above_eh / sum_e below_eh]."""

    above: DoubleArray  # (E, H)
    below: DoubleArray | None = None  # (E, H); None: ones, the estimate is a mean
    reach: tuple[float, float] | None = None
    """The range that the design gives the terms, where it gives one."""
    redo: Callable[[DoubleArray], DoubleArray] | None = None
    """Estimates (R,) from how often each session is drawn (R, E), where sessions share what is estimated."""


Estimator = Callable[["Asked"], Terms]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One log and one target policy."""

    setting: Setting
    log: Log
    target: DoubleArray  # (S, N)
    ratios: DoubleArray  # (T,) pi / mu
    values: Values
    """Q of each half of the sessions by the world that the other half counts."""
    top: float
    """The greatest pi / mu that any item has."""

    @property
    def half(self) -> IntArray:
        """0 or 1, (E,): which half a session is in."""
        return np.arange(self.log.sessions) % 2


def asked(setting: Setting, log: Log, target: DoubleArray, models: tuple[World, World]) -> Asked:
    """A question with its weights and its cross-fitted model."""
    table = target / setting.logger
    values = Values(*(np.empty(len(log.state)) for _ in Values._fields))
    for half, model in enumerate(models):
        q, v = model.action_values(target)
        rows = log.episode % 2 == half
        place, state = log.place[rows], log.state[rows]
        values.q[rows], values.v[rows] = q[place, state, log.item[rows]], v[place, state]
        values.v_next[rows] = v[place + 1, log.after[rows]]
    return Asked(
        setting=setting, log=log, target=target, ratios=table[log.state, log.item], values=values,
        top=float(table.max()),
    )  # fmt: skip


def models_of(setting: Setting, log: Log) -> tuple[World, World]:
    """The world as the other half of the sessions counts it, for each half."""
    return setting.world.fitted(log, log.episode % 2 == 1), setting.world.fitted(log, log.episode % 2 == 0)


def estimators(setting: Setting) -> dict[str, Estimator]:
    """Those for one step, or those for sessions."""
    return ONE_STEP if setting.world.horizon == 1 else SESSIONS


def all_terms(question: Asked) -> dict[str, Terms | None]:
    """The terms of each estimator; None where the log gives it no estimate."""
    found: dict[str, Terms | None] = {}
    for name, estimator in estimators(question.setting).items():
        try:
            found[name] = estimator(question)
        except SupportError:
            found[name] = None
    return found


def estimate(terms: Terms) -> float:
    """The value that terms come to."""
    below = len(terms.above) if terms.below is None else terms.below.sum(axis=0)
    return float((terms.above.sum(axis=0) / below).sum())


def _mean(terms: DoubleArray, reach: tuple[float, float] | None = None) -> Terms:
    return Terms(above=terms[:, None], reach=reach)


def _ratio(pair: tuple[DoubleArray, DoubleArray]) -> Terms:
    above, below = (part.reshape(len(part), -1) for part in pair)
    return Terms(above=above, below=below)


def _mips(asked: Asked) -> Terms:
    """Weights of categories, of each state and item once, then read along the log."""
    states, items = asked.target.shape
    state, item = np.divmod(np.arange(states * items), items)
    table = category_weights(
        asked.target[state], asked.setting.logger[state], asked.setting.world.category, item + 1
    ).reshape(states, items)
    return _mean(ips(table[asked.log.state, asked.log.item], asked.log.reward), (0.0, float(table.max())))


def _marginal(asked: Asked) -> Terms:
    log = asked.log
    weights = state_ratios(asked.ratios, log.state, log.episode) * asked.ratios
    terms = _ratio(weighted_marginal_terms(weights, log.reward, log.episode, 1.0))
    return Terms(above=terms.above, below=terms.below, redo=lambda times: marginal_draws(asked, times))


def marginal_draws(asked: Asked, times: DoubleArray) -> DoubleArray:
    """The weighted marginal estimate of each resample, (R, E) -> (R,), its weights estimated again.

    All that it needs of a step are sums over sessions, by state and next state, of counts, ratios and rewards.
    """
    log, states = asked.log, len(asked.target)
    weight, over, total = np.ones((len(times), states)), np.zeros(len(times)), np.zeros(len(times))
    flow = np.empty(0)
    for step in range(int(log.place.max()) + 1):
        rows = np.flatnonzero(log.place == step)
        who, state, ratio = log.episode[rows], log.state[rows], asked.ratios[rows]
        columns = np.zeros((log.sessions, 3 + states, states))  # (E, ..., S): met, earned, then ratio by next state
        columns[who, 0, state], columns[who, 1, state] = 1.0, ratio * log.reward[rows]
        columns[who, 2 + log.after[rows], state] = ratio
        sums = (times @ columns.reshape(log.sessions, -1)).reshape(len(times), 3 + states, states)
        if step:
            weight = flow / np.where(sums[:, 0] > 0, sums[:, 0], np.inf)  # (R, S) w_t(s)
        moved = np.einsum("rus,rs->ru", sums[:, 2:], weight)  # (R, S + 1), the last to the end
        total += (weight * sums[:, 1]).sum(axis=1) / (over + moved.sum(axis=1))
        flow, over = moved[:, :-1], over + moved[:, -1]
    return total


def _double(asked: Asked) -> Terms:
    """Each half's weights from the states that the other half met."""
    log, weights = asked.log, np.empty(len(asked.ratios))
    for half in (0, 1):
        rows = log.episode % 2 == half
        found = state_ratios(asked.ratios, log.state, log.episode, counted=asked.half != half)
        weights[rows] = (found * asked.ratios)[rows]
    return _mean(double_reinforcement(weights, log.reward, asked.values, log.episode, 1.0))


def _corrected(largest: float) -> tuple[float, float]:
    """Range of v + w (r - q) with v, r, q in [0, 1] and w up to `largest`."""
    return -largest, 1.0 + largest


ONE_STEP: dict[str, Estimator] = {
    "IPS": lambda a: _mean(ips(a.ratios, a.log.reward), (0.0, a.top)),
    "clipped IPS": lambda a: _mean(ips(clipped_weights(a.ratios, LIMIT), a.log.reward), (0.0, min(a.top, LIMIT))),
    "SNIPS": lambda a: _ratio(self_normalised(a.ratios, a.log.reward)),
    "DM": lambda a: _mean(direct_method(a.values.v), (0.0, 1.0)),
    "DR": lambda a: _mean(doubly_robust_terms(a.ratios, a.log.reward, a.values.q, a.values.v), _corrected(a.top)),
    "SNDR": lambda a: _ratio(self_normalised_doubly_robust(a.ratios, a.log.reward, a.values.q, a.values.v)),
    "Switch-DR": lambda a: _mean(
        switch_doubly_robust(a.ratios, a.log.reward, a.values.q, a.values.v, threshold=LIMIT),
        _corrected(min(a.top, LIMIT)),
    ),
    "DRos": lambda a: _mean(
        optimistic_doubly_robust(a.ratios, a.log.reward, a.values.q, a.values.v, strength=LIMIT**2),
        _corrected(min(a.top, LIMIT / 2)),
    ),
    "MIPS": _mips,
}
SESSIONS: dict[str, Estimator] = {
    "PDIS": lambda a: _mean(
        per_decision(a.ratios, a.log.reward, a.log.episode, 1.0),
        (0.0, float((a.top ** np.arange(1, a.setting.world.horizon + 1)).sum())),
    ),
    "weighted PDIS": lambda a: _ratio(weighted_per_decision_terms(a.ratios, a.log.reward, a.log.episode, 1.0)),
    "DM": lambda a: _mean(direct_method(a.values.v[first_steps(a.log.episode)])),
    "DR": lambda a: _mean(doubly_robust(a.ratios, a.log.reward, a.values, a.log.episode, 1.0)),
    "WDR": lambda a: _ratio(weighted_doubly_robust_terms(a.ratios, a.log.reward, a.values, a.log.episode, 1.0)),
    "marginal": _marginal,
    "DRL": _double,
}
