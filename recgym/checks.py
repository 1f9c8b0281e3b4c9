"""Checks of the contracts, for tests and for third parties: each raises AssertionError that says what is broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgym.backbones.backbone import Backbone
from recgym.random import session_keys
from recgym.trees import leaves, take
from recgym.types import Estimator, Observation, Policy, RemembersSessions, Transitions
from recgym.users.model import UserModel


def check_user_model(
    users: UserModel[Any], *, seed: int = 0, batch: int = 16, steps: int = 8, slate_size: int = 1
) -> None:
    """Run sessions of random slates and check shapes, ranges, determinism and independence of the batch.

    Args:
        users: the model.
        seed: of sessions and slates.
        batch: sessions.
        steps: steps of each (users who leave go on being shown items: states must stay valid).
        slate_size: items a slate.

    Raises:
        AssertionError: the contract of `recgym.users.model.UserModel` is broken; the message says where.
    """
    generator = torch.Generator().manual_seed(seed)
    keys = session_keys(seed, batch)
    slates = torch.randint(1, users.num_items + 1, (steps, batch, slate_size), generator=generator)
    first = _play(users, keys, slates)
    before = torch.get_rng_state()
    _same("the same keys and slates again", first, _play(users, keys, slates))
    assert torch.equal(before, torch.get_rng_state()), "step or reset draws from torch's global generator"
    order = torch.randperm(batch, generator=generator)
    _same("another order of the batch", [part[:, order] for part in first], _play(users, keys[order], slates[:, order]))
    half = slice(0, batch // 2)
    _same("half of the batch", [part[:, half] for part in first], _play(users, keys[half], slates[:, half]))
    other = _play(users, session_keys(seed + 1, batch), slates)
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True)), "the keys change nothing"


def _play(users: UserModel[Any], keys: Tensor, slates: Tensor) -> list[Tensor]:
    """Feedback (T, B, K, F), leaving (T, B), visible vectors (T, B, D) and histories (T, B, L) of sessions."""
    batch, slots, kinds = len(keys), slates.shape[2], users.kinds
    state = users.reset(keys)
    for leaf in leaves(state):
        assert len(leaf) == batch, f"a tensor of the state has leading dimension {len(leaf)}, expected B = {batch}"
    feedback, left, vectors, histories = [], [], [], []
    for slate in slates:
        state, response = users.step(state, slate)
        assert response.feedback.shape == (batch, slots, len(kinds)), f"feedback has shape {response.feedback.shape}"
        assert response.leaves.shape == (batch,), f"leaves has shape {response.leaves.shape}"
        assert response.leaves.dtype == torch.bool, f"leaves is {response.leaves.dtype}, expected bool"
        assert bool((response.feedback >= 0).all()) and bool(response.feedback.isfinite().all()), "feedback below 0"
        names = [kind.name for kind in kinds]
        for column, kind in enumerate(kinds):
            amount = response.feedback[..., column]
            if kind.type == "binary":
                assert bool(((amount == 0) | (amount == 1)).all()), f"binary kind {kind.name!r} is not 0 or 1"
            if kind.given in names:
                needed = response.feedback[..., names.index(kind.given)]
                assert not bool(((amount > 0) & (needed == 0)).any()), f"{kind.name!r} happened without {kind.given!r}"
        items, reaction = users.history(state)
        assert items.shape[0] == batch and reaction.shape == (*items.shape, len(kinds)), "history has another shape"
        padding = items == 0
        assert not bool((padding[:, 1:] & ~padding[:, :-1]).any()), "padding of the history does not stand on the left"
        feedback.append(response.feedback)
        left.append(response.leaves)
        vectors.append(users.visible(state).vector.clone())
        histories.append(items.clone())
    return [torch.stack(feedback), torch.stack(left), torch.stack(vectors), torch.stack(histories)]


def _same(what: str, expected: list[Tensor], found: list[Tensor]) -> None:
    for name, one, other in zip(("feedback", "leaves", "visible vector", "history"), expected, found, strict=True):
        close = torch.allclose(one, other, atol=1e-5) if one.is_floating_point() else torch.equal(one, other)
        assert close, f"{what} gives another {name}"


@torch.no_grad()
def check_backbone(backbone: Backbone, *, seed: int = 0, batch: int = 6, tolerance: float = 1e-5) -> None:
    """Check that incremental steps equal the full pass, that padding is invisible, and that the cache does not grow.

    Raises:
        AssertionError: the contract of `recgym.backbones.backbone.Backbone` is broken; the message says where.
    """
    generator = torch.Generator().manual_seed(seed)
    length = backbone.config.length
    items = torch.randint(1, backbone.num_items + 1, (batch, 2 * length), generator=generator)
    feedback = torch.rand(batch, 2 * length, backbone.num_feedback, generator=generator)
    full = backbone.states(items, feedback)
    assert full.shape == (batch, 2 * length, backbone.width), f"states have shape {tuple(full.shape)}"
    cache = backbone.start(batch)
    shapes = [leaf.shape for leaf in leaves(cache)]
    for step in range(2 * length):
        cache, state = backbone.advance(cache, items[:, step], feedback[:, step])
        gap = float((state - full[:, step]).abs().max())
        assert gap <= tolerance, f"advance differs from the full pass by {gap:.2g} at step {step}"
    assert [leaf.shape for leaf in leaves(cache)] == shapes, "the cache grows with the history"
    first = slice(0, length // 2)
    padded = torch.cat([torch.zeros_like(items[:, : length - length // 2]), items[:, first]], 1)
    nothing = torch.zeros(batch, length - length // 2, backbone.num_feedback)
    filled = backbone.prefill(padded, torch.cat([nothing, feedback[:, first]], 1)).state
    if length // 2:
        gap = float((filled - full[:, length // 2 - 1]).abs().max())
        assert gap <= tolerance, f"padding on the left changes the state by {gap:.2g}"
    expected = filled @ backbone.item_vectors().T + backbone.item_bias()
    assert torch.allclose(backbone.scores(filled), expected, atol=1e-4), "scores are not state . vector + bias"


def check_estimator(estimator: Estimator, logged: Transitions, policy: Policy) -> None:
    """Check that an estimate is a function of its arguments, lies in its interval, and that none has no value.

    Raises:
        AssertionError: the contract of `recgym.types.Estimator` is broken; the message says where.
    """
    found, again = (estimator.estimate(logged, policy) for _ in range(2))
    assert repr(found) == repr(again), "the same log and policy give another estimate"
    known = found.value == found.value
    assert known or found.verdict == "cannot say", "the value is nan, but the verdict is not 'cannot say'"
    assert not known or found.low <= found.value <= found.high, "the value lies outside of its interval"
    assert found.verdict == "supported" or found.warnings, "a doubtful verdict gives no reason"
    blind = replace(logged, propensity=np.full(logged.num_steps, np.nan))
    assert estimator.estimate(blind, policy).verdict != "supported", "a log without propensities is called supported"


def check_policy(policy: Policy, observation: Observation, *, seed: int = 0) -> None:
    """Check shapes, probabilities and the mask of a policy on one observation of B sessions.

    Raises:
        AssertionError: the contract of `recgym.types.Policy` is broken; the message says where.
    """
    batch = len(observation.context)
    keys = session_keys(seed, batch)
    scores = policy.scores(observation)
    assert scores.shape[0] == batch and scores.ndim == 2, f"scores have shape {tuple(scores.shape)}, expected (B, N)"
    chance = policy.probabilities(observation)
    assert chance.shape == scores.shape, (
        f"probabilities have shape {tuple(chance.shape)}, expected {tuple(scores.shape)}"
    )
    assert torch.allclose(chance.sum(1), torch.ones(batch), atol=1e-4), "probabilities do not sum to one"
    slate = policy.act(observation, keys)
    assert slate.shape[0] == batch and slate.ndim == 2, f"slates have shape {tuple(slate.shape)}, expected (B, K)"
    assert bool(((slate >= 1) & (slate <= scores.shape[1])).all()), "item ids reach outside of 1..N"
    ordered = slate.sort(1).values
    assert not bool((ordered[:, 1:] == ordered[:, :-1]).any()), "a slate shows an item twice"
    assert bool((chance.gather(1, slate[:, :1] - 1) > 0).all()), "an item was shown whose probability is 0"
    assert torch.equal(slate, policy.act(observation, keys)), "the same keys give another slate"
    if observation.mask is not None:
        assert bool(observation.mask.gather(1, slate - 1).all()), "a masked item was shown"
        assert not bool(((chance > 0) & ~observation.mask).any()), "a masked item has a probability above 0"
    alone = policy.act(take(observation, torch.arange(1)), keys[:1])
    assert torch.equal(alone, slate[:1]), "the slate depends on the other sessions of the batch"
    if isinstance(policy, RemembersSessions):
        _check_memory(policy, observation, keys)


def _check_memory(policy: RemembersSessions, observation: Observation, keys: Tensor) -> None:
    """Two steps of a policy that remembers: shapes, determinism, no change in place, independence of the batch."""
    batch, first = len(keys), policy.recall(observation, None)
    kept = [leaf.clone() for leaf in leaves(first)]
    assert all(len(leaf) == batch for leaf in kept), (
        f"a tensor of the memory has another leading dimension than {batch}"
    )
    second, again = policy.recall(observation, first), policy.recall(observation, first)
    assert all(map(torch.equal, leaves(first), kept)), "recall changes the memory that it is given"
    assert all(map(torch.equal, leaves(second), leaves(again))), "the same observation and memory give another memory"
    assert [leaf.shape for leaf in leaves(second)] == [leaf.shape for leaf in kept], "the memory grows with the session"
    slate = policy.act(observation._replace(memory=second), keys)
    one = torch.arange(1)
    seen = take(observation._replace(memory=first), one)
    alone = policy.act(seen._replace(memory=policy.recall(seen, seen.memory)), keys[:1])
    assert torch.equal(alone, slate[:1]), "the remembered slate depends on the other sessions of the batch"
    now = policy.probabilities(observation)
    shown = policy.probabilities(observation._replace(memory=first))
    assert torch.allclose(now, shown, atol=1e-5), "without memory, a policy does not act as at a session's first step"
