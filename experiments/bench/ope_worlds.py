"""Small worlds whose values are known exactly, their logs, and policies at known distances from the logger.

One kind of world serves for all: S states, N items, clicks by chance, and at most H steps a session. With one step the
states are contexts and the world is a bandit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recgym.types import BoolArray, DoubleArray, IntArray

SHIFTS = ("mild", "medium", "severe")
_STRENGTH = 3.0
"""Rows that the overall rate counts for in each cell of a fitted world."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """T steps of E sessions, episode after episode; every session is a user of its own."""

    state: IntArray  # (T,) 0..S-1
    item: IntArray  # (T,) column of the item, 0..N-1
    reward: DoubleArray  # (T,) 0 or 1
    after: IntArray  # (T,) the next state, S where the user left
    place: IntArray  # (T,) step within the session
    episode: IntArray  # (T,)

    @property
    def sessions(self) -> int:
        """Sessions E."""
        return int(self.episode[-1]) + 1


@dataclass(frozen=True, kw_only=True)
class World:
    """Clicks and moves of a user who is in one of S states."""

    start: DoubleArray  # (S,) chance of the first state
    click: DoubleArray  # (S, N) chance of reward 1
    move: DoubleArray  # (S, N, S) chance of the next state; what is missing to 1 is the chance to leave
    category: IntArray  # (N,) category of each item
    horizon: int
    """Steps after which a session is over."""

    def action_values(self, policy: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
        """Q_t(s, a) and V_t(s) of a policy (S, N), (H, S, N) and (H + 1, S + 1), by backward induction.

        The last row and the last column of V are the sessions that are over, worth 0.
        """
        states, items = self.click.shape
        q, v = np.zeros((self.horizon, states, items)), np.zeros((self.horizon + 1, states + 1))
        for step in reversed(range(self.horizon)):
            q[step] = self.click + self.move @ v[step + 1, :-1]
            v[step, :-1] = (policy * q[step]).sum(axis=1)
        return q, v

    def value(self, policy: DoubleArray) -> float:
        """Expected reward of a session."""
        return float(self.start @ self.action_values(policy)[1][0, :-1])

    def draw(self, policy: DoubleArray, sessions: int, rng: np.random.Generator) -> Log:
        """Sessions served by a policy (S, N)."""
        shape = (sessions, self.horizon)
        state, item, after = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        reward, alive = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
        here, there = _pick(np.tile(self.start, (sessions, 1)), rng), np.ones(sessions, dtype=np.bool_)
        for step in range(self.horizon):
            shown = _pick(policy[here], rng)
            following = _pick(self.move[here, shown], rng)
            state[:, step], item[:, step], after[:, step], alive[:, step] = here, shown, following, there
            reward[:, step] = rng.random(sessions) < self.click[here, shown]
            there = there & (following < len(self.start))
            here = np.minimum(following, len(self.start) - 1)
        episode, place = np.nonzero(alive)
        return Log(
            state=state[alive], item=item[alive], reward=reward[alive], after=after[alive], place=place, episode=episode
        )

    def fitted(self, log: Log, rows: BoolArray) -> World:
        """The world as the given steps (T,) of a log count it, leaning on the rates of the item and of all."""
        (states, items), k = self.click.shape, _STRENGTH
        cell = log.state[rows] * items + log.item[rows]
        reward, size = log.reward[rows], np.bincount(cell, minlength=states * items).reshape(states, items)
        clicks = np.bincount(cell, weights=reward, minlength=states * items).reshape(states, items)
        by_item = (clicks.sum(axis=0) + k * reward.mean()) / (size.sum(axis=0) + k)  # (N,)
        moves = np.bincount(cell * (states + 1) + log.after[rows], minlength=states * items * (states + 1))
        moves = moves.reshape(states, items, states + 1)
        overall = moves.sum(axis=(0, 1)) / moves.sum()
        return World(
            start=self.start, click=(clicks + k * by_item) / (size + k), category=self.category, horizon=self.horizon,
            move=((moves + k * overall) / (size + k)[:, :, None])[:, :, :-1],
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A world, who logs in it, and who is asked about."""

    name: str
    world: World
    logger: DoubleArray  # (S, N)
    targets: dict[str, DoubleArray]
    """A policy (S, N) at each of `SHIFTS`."""
    policies: DoubleArray  # (P, S, N) of known value, to rank


def settings() -> tuple[Setting, ...]:
    """The bandit, the sessions, and the sessions with a logger that shows what the user likes least."""
    bandit, sessions = _world(0, 20, 20, 1, 0.0), _world(1, 4, 6, 8, 0.12)
    return (
        _setting("bandit", bandit, seed=2, taste=0.0, shifts=(0.5, 1.2, 4.0), spread=0.6, noise=1.2),
        _setting("sessions", sessions, seed=3, taste=0.0, shifts=(0.2, 0.6, 1.5), spread=0.4),
        _setting("sessions, poor logger", sessions, seed=4, taste=-0.5, shifts=(0.2, 0.6, 1.5), spread=0.4),
    )


def long_sessions() -> Setting:
    """Sessions of 20 steps that nobody leaves, for speed."""
    return _setting("long", _world(5, 4, 6, 20, 0.0), seed=6, taste=0.0, shifts=(0.1, 0.2, 0.4), spread=0.3)


def softmax(logits: DoubleArray) -> DoubleArray:
    """Rows (..., N) of probabilities."""
    mass = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probability: DoubleArray = mass / mass.sum(axis=-1, keepdims=True)
    return probability


def _world(seed: int, states: int, items: int, horizon: int, leave: float) -> World:
    rng = np.random.default_rng(seed)
    category = np.arange(items) % max(2, items // 5)
    taste = rng.normal(size=(states, category.max() + 1))[:, category]
    click = 1 / (1 + np.exp(1.2 - 0.9 * taste - 0.3 * rng.normal(size=(states, items))))
    move = (1 - leave) * softmax(rng.normal(size=(states, items, states)))
    return World(
        start=softmax(0.3 * rng.normal(size=states)), click=click, move=move, category=category, horizon=horizon
    )


def _setting(
    name: str, world: World, *, seed: int, taste: float, shifts: tuple[float, ...], spread: float, noise: float = 0.6,
    policies: int = 12,
) -> Setting:  # fmt: skip
    """Softmax policies: the logger's logits, plus a multiple of what pays, plus noise where policies are ranked."""
    rng = np.random.default_rng(seed)
    uniform = np.full(world.click.shape, 1 / world.click.shape[1])
    worth = world.action_values(uniform)[0][0]
    worth = (worth - worth.mean(axis=1, keepdims=True)) / worth.std(axis=1, keepdims=True)
    logits = noise * rng.normal(size=world.click.shape) + taste * worth
    other = 0.6 * spread * rng.normal(size=(policies, *world.click.shape))
    steps = spread * np.linspace(-0.5, 1.0, policies)[:, None, None]
    return Setting(
        name=name, world=world, logger=softmax(logits), policies=softmax(logits + steps * worth + other),
        targets={shift: softmax(logits + by * worth) for shift, by in zip(SHIFTS, shifts, strict=True)},
    )  # fmt: skip


def _pick(chance: DoubleArray, rng: np.random.Generator) -> IntArray:
    """A column of each row (n, N), N where the chances of the row leave something to 1."""
    bound = np.cumsum(chance, axis=1)
    bound[:, -1] = np.where(np.abs(bound[:, -1] - 1) < 1e-9, 1.0, bound[:, -1])
    column: IntArray = (rng.random(len(chance))[:, None] >= bound).sum(axis=1)
    return column
