"""Score one policy: what its sessions earn, how it ranks held-out choices, what it shows, how fast it decides."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgym import metrics
from recgym.backbones.backbone import Backbone
from recgym.backbones.ranking import rank_targets
from recgym.env.session import CONTEXT_STEPS, Sessions
from recgym.logs.sequences import Sequences
from recgym.policy import check_fits
from recgym.random import fold, session_keys
from recgym.types import DoubleArray, FeedbackKind, IntArray, Observation, Policy, Transitions

CUTOFFS = (5, 10, 20)
"""Lengths of the lists for HR and NDCG."""


@dataclass(frozen=True, eq=False)
class SessionOutcomes:
    """What each of E sessions brought; arrays (E,) float64."""

    reward: DoubleArray
    discounted: DoubleArray
    depth: DoubleArray
    """Steps."""
    left: DoubleArray
    """1 where the user left, 0 where the session was cut."""
    feedback: Mapping[str, DoubleArray]
    """Sum of each kind over the session."""
    user: IntArray


def session_outcomes(sessions: Transitions, kinds: tuple[FeedbackKind, ...], *, discount: float) -> SessionOutcomes:
    """Sum transitions over their sessions.

    Args:
        sessions: T steps of E sessions.
        kinds: of feedback, F.
        discount: per step, for `discounted`.
    """
    count, episode = sessions.num_episodes, sessions.episode

    def summed(values: DoubleArray) -> DoubleArray:
        return np.bincount(episode, values, minlength=count).astype(np.float64)

    reward = sessions.reward.astype(np.float64)
    amounts = sessions.feedback.sum(1).astype(np.float64)  # (T, F)
    return SessionOutcomes(
        reward=summed(reward),
        discounted=summed(reward * discount**sessions.step),
        depth=np.bincount(episode, minlength=count).astype(np.float64),
        left=summed(sessions.terminated.astype(np.float64)),
        feedback={kind.name: summed(amounts[:, column]) for column, kind in enumerate(kinds)},
        user=sessions.user,
    )


@dataclass(frozen=True)
class Exposure:
    """What a policy shows."""

    coverage: float
    """Share of the catalogue shown at least once."""
    gini: float
    """Inequality of exposure: 0 equal, near 1 one item only."""
    novelty: float
    """Mean self-information of the items shown, bits."""
    diversity: float
    """Mean chance that two items of a session differ in category (or 1 - cosine of item vectors)."""
    popularity: float
    """Mean popularity percentile of the items shown, 0 to 1."""


def exposure(
    sessions: Transitions, popularity: IntArray, *, categories: IntArray | None, vectors: DoubleArray | None
) -> Exposure:
    """Measure what `sessions` showed.

    Args:
        sessions: T steps with slates (T, K).
        popularity: (N,) training interactions of each item.
        categories: (N,) for diversity by category; None: by `vectors` (N, D).
        vectors: item vectors, used where there are no categories.
    """
    counts = metrics.exposure_counts(sessions.action, len(popularity))
    slots = sessions.action.shape[1]
    groups, items = np.repeat(sessions.episode, slots), sessions.action.ravel()
    use = {"categories": categories} if categories is not None else {"vectors": vectors}
    differences = metrics.diversity(groups, items, **use)
    known = differences[np.isfinite(differences)]
    return Exposure(
        coverage=metrics.coverage(counts),
        gini=metrics.gini(counts),
        novelty=metrics.novelty(sessions.action, popularity),
        diversity=float(known.mean()) if len(known) else float("nan"),
        popularity=metrics.popularity_percentile(sessions.action, popularity),
    )


def rank_policy(
    policy: Policy,
    backbone: Backbone,
    sequences: Sequences,
    steps: IntArray,
    *,
    mask_seen: bool = False,
    negatives: int | None = None,
    seed: int = 0,
) -> DoubleArray:
    """Rank of the item of each given step (Q,) among all items, by the policy's scores; see `rank_targets`.

    The context is that of the step's place in its logged session.

    Raises:
        PolicyError: the policy was made for another catalogue, or reads other observations.
    """
    sizes = {"items": backbone.num_items, "state": backbone.width, "feedback": backbone.num_feedback}
    check_fits(policy, sizes, where="the backbone's")

    def ranker(items: Tensor, feedback: Tensor, asked: IntArray) -> Tensor:
        context = torch.from_numpy((sequences.place[asked] / CONTEXT_STEPS).astype(np.float32)).unsqueeze(1)
        seen = Observation(context)
        if policy.reads != "history":
            seen = seen._replace(state=backbone.prefill(items, feedback).state)
        if policy.reads != "state":
            seen = seen._replace(items=items, feedback=feedback)
        return policy.scores(seen)

    return rank_targets(
        ranker, sequences, steps, length=backbone.config.length, mask_seen=mask_seen, negatives=negatives, seed=seed
    )


def ranking_metrics(ranks: DoubleArray) -> dict[str, DoubleArray]:
    """HR and NDCG of each question, named "hr@5", "ndcg@5", ...: (Q,) -> a dict of (Q,)."""
    both = {"hr": metrics.hit_rate, "ndcg": metrics.ndcg}
    return {f"{name}@{k}": metric(ranks, k) for name, metric in both.items() for k in CUTOFFS}


def latency(sessions: Sessions[Any], policy: Policy, *, seed: int = 0, decisions: int = 200) -> dict[str, float]:
    """Milliseconds of one decision for one user, from the observation to the slate, on this machine and its threads.

    Returns:
        "p50" and "p99" over `decisions` decisions, after 20 that warm up.
    """
    state = sessions.reset(session_keys(seed, 1))
    observation = sessions.observe(state, policy.reads)
    key = fold(session_keys(seed, 1, device=sessions.device), 1)
    times = []
    with torch.no_grad():
        for _ in range(decisions + 20):
            begin = time.perf_counter()
            policy.act(observation, key)
            times.append((time.perf_counter() - begin) * 1e3)
    low, high = np.percentile(times[20:], [50, 99])
    return {"p50": float(low), "p99": float(high)}
