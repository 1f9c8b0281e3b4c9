"""Slates for users who tire of a topic: two planners that know the hidden state of `simulators.boredom`.

Both score every item; the best K in order are the slate.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def members_of_topics(topic: Tensor, num_topics: int) -> Tensor:
    """Items of each topic, (C, M) int64 with ids 0..N-1, padded with N, from the items' main topics (N,)."""
    most = int(topic.bincount(minlength=num_topics).max())
    members = torch.full((num_topics, most), len(topic), device=topic.device)
    for one in range(num_topics):
        mine = torch.nonzero(topic == one)[:, 0]
        members[one, : len(mine)] = mine
    return members


def capped(value: Tensor, members: Tensor, room: Tensor, slots: int) -> Tensor:
    """`value` (B, N) in [-1, 1], less 2 for all but the best `room` items of each topic.

    Args:
        value: worth of every item, (B, N).
        members: items of each topic, (C, M).
        room: clicks that each topic still takes before it bores, (B, C).
        slots: items a slate, K.
    """
    best, item = _best_of_topics(value, members, slots)  # (B, C, R + 1)
    fits = torch.arange(best.shape[2], device=value.device) < room.unsqueeze(2)
    scores = _with_padding(value - 2)
    return scores.scatter_(1, item.flatten(1), torch.where(fits, best, best - 2).flatten(1))[:, :-1]


def filled(
    relevance: Tensor,
    worth: Tensor,
    members: Tensor,
    counts: Tensor,
    propensity: Tensor,
    threshold: int,
    *,
    cost: float,
    spare: float,
) -> Tensor:
    """Scores (B, N) of slates filled greedily: slot k takes the topic with the highest worth propensity_k (1 - price).

    The worth is that of the topic's best item left; price = cost P(the topic is one click short of boring) + spare
    E[its clicks]. Clicks on the items already chosen are independent, so the number of a topic's clicks is
    Poisson-binomial, and its distribution grows slot by slot.

    Args:
        relevance: chance of a click in a slot that is surely seen, (B, N).
        worth: what a look at the item earns, (B, N): its relevance, or less.
        members: items of each topic, (C, M).
        counts: clicks by topic that will still be remembered after this step, (B, C) int64.
        propensity: chance that slot k is seen, (K,).
        threshold: clicks on one topic that bore.
        cost: clicks that a period of boredom costs.
        spare: clicks that one more click on a topic costs later, for each remembered; both 0 if none ever bores.
    """
    slots, rows = len(propensity), torch.arange(len(relevance), device=relevance.device)
    best, item = _best_of_topics(worth, members, slots)  # (B, C, R + 1)
    chances = _with_padding(relevance)  # (B, N + 1)
    odds = one_hot(counts.clamp(max=threshold), threshold + 1).to(relevance.dtype)  # (B, C, threshold + 1)
    level = torch.arange(threshold + 1, device=relevance.device)
    used = torch.zeros_like(counts)
    scores = chances.clone()
    for slot in range(slots):
        left = best.gather(2, used.unsqueeze(2))[..., 0]  # (B, C), -inf where the topic has no item left
        price = cost * odds[..., -2] + spare * (odds * level).sum(2)
        gain = torch.where(left.isinf(), left, left * propensity[slot] * (1 - price))
        topic = gain.argmax(1)  # (B,)
        chosen = item[rows, topic, used[rows, topic]]  # (B,)
        scores[rows, chosen] = float(1 + slots - slot)  # above any relevance
        q = (chances[rows, chosen] * propensity[slot]).unsqueeze(1)
        before = odds[rows, topic]  # (B, threshold + 1)
        after = before * (1 - q)
        after[:, 1:] += before[:, :-1] * q
        after[:, -1] += before[:, -1] * q[:, 0]
        odds[rows, topic] = after
        used[rows, topic] += 1
    return scores[:, :-1]


def _best_of_topics(value: Tensor, members: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Values and items of each topic's best R = min(K, M), best first, then one of padding: (B, C, R + 1) each."""
    padded = torch.cat([value, torch.full_like(value[:, :1], -torch.inf)], 1)
    best, place = padded[:, members].topk(min(slots, members.shape[1]), dim=2)
    item = members.expand(len(value), -1, -1).gather(2, place)
    last = torch.full_like(item[..., :1], value.shape[1])
    return torch.cat([best, torch.full_like(best[..., :1], -torch.inf)], 2), torch.cat([item, last], 2)


def _with_padding(scores: Tensor) -> Tensor:
    """Scores (B, N + 1): a last column for the padded item, which the caller drops."""
    return torch.cat([scores, scores[:, :1]], 1)
