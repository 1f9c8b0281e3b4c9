"""Transitions: collected in simulated sessions (the only interaction loop), or read from logged ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recgym.backbones.backbone import Backbone
from recgym.backbones.encoding import encode_sessions
from recgym.env.session import CONTEXT_STEPS, Sessions
from recgym.logs.sequences import Sequences, batches, windows
from recgym.policy import check_fits, recalled
from recgym.random import fold, session_keys
from recgym.trees import take
from recgym.types import FeedbackKind, IntArray, Observation, Policy, Reads, Transitions

_CHOICE = 0x0C401CE
"""Stream of a policy's own draws, apart from the users'."""


def collect(
    sessions: Sessions[Any],
    policy: Policy,
    *,
    num_sessions: int,
    seed: int,
    batch_size: int = 1024,
    keep: tuple[Reads, ...] = (),
    propensities: bool = False,
    progress: bool = False,
) -> Transitions:
    """Let `policy` serve `num_sessions` simulated sessions.

    Session e under `seed` has the key session_keys(seed, ...)[e]: two policies meet the same users with the same luck
    (common random numbers), whatever the batch size.

    Args:
        sessions: the platform and its users.
        policy: chooses slates.
        num_sessions: E.
        seed: of users, their luck, and the policy's own draws.
        batch_size: sessions simulated side by side.
        keep: parts of the observation to store, "state" and "history"; each step's mask is stored with either.
        propensities: store the chance of each first item under the policy (nan otherwise).
        progress: show a progress bar.

    Returns:
        Transitions in the order of the sessions; `user` is the logged user, where the users know it, else
        the session's number.

    Raises:
        PolicyError: the policy was made for another catalogue, or reads other observations.
    """
    check_fits(policy, sessions.sizes, where="these sessions")
    parts = []
    with tqdm(total=num_sessions, desc=policy.name, unit="session", disable=not progress) as bar:
        for rows in batches(num_sessions, batch_size):
            keys = session_keys(seed, rows.stop - rows.start, first=rows.start, device=sessions.device)
            parts.append(_collect_batch(sessions, policy, keys, rows.start, keep, propensities))
            bar.update(rows.stop - rows.start)
    return _join(parts)


class _Steps(NamedTuple):
    """What some sessions met at one step."""

    row: Tensor  # (R,) place of the session in the batch
    context: Tensor
    state: Tensor | None
    items: Tensor | None
    history: Tensor | None
    mask: Tensor | None
    action: Tensor
    feedback: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    propensity: Tensor
    visit: Tensor | None
    day: Tensor | None


@torch.no_grad()
def _collect_batch(
    sessions: Sessions[Any], policy: Policy, keys: Tensor, first: int, keep: tuple[Reads, ...], propensities: bool
) -> Transitions:
    """One batch of sessions, the `first` of them so numbered, from start to end."""
    state = sessions.reset(keys)
    row = torch.arange(len(keys), device=sessions.device)
    found: list[_Steps] = []
    final_context = torch.zeros(len(keys), 1)
    final_state = torch.zeros(len(keys), sessions.state_width) if "state" in keep else None
    user = getattr(state.users, "user", first + row).cpu().numpy().astype(np.int64)
    step, memory = 0, None
    while len(row):
        observation = sessions.observe(state, policy.reads)
        kept = [sessions.observe(state, reads) if reads != policy.reads else observation for reads in keep]
        observation = recalled(policy, observation, memory)
        memory = observation.memory
        action = policy.act(observation, fold(fold(keys[row], step), _CHOICE))
        chance = torch.full((len(row),), torch.nan, dtype=torch.float64, device=sessions.device)
        if propensities:
            chance = policy.probabilities(observation).gather(1, action[:, :1] - 1)[:, 0].double()
        state, outcome = sessions.step(state, action)
        there = Observation(observation.context)
        for part in kept:
            there = there._replace(**{name: value for name, value in part._asdict().items() if value is not None})
        found.append(
            _Steps(
                row, there.context, there.state, there.items, there.feedback, there.mask, action,
                outcome.response.feedback, outcome.reward, outcome.terminated, outcome.truncated, chance,
                outcome.visit, outcome.day,
            )
        )  # fmt: skip
        over = outcome.terminated | outcome.truncated
        if bool(over.any()):
            if final_state is not None:
                after = sessions.observe(state, "state").state
                assert after is not None
                final_state[row[over].cpu()] = after[over].cpu()
            final_context[row[over].cpu()] = sessions.context(state)[over].cpu()
            stay = (~over).nonzero()[:, 0]
            row, state, memory = row[stay], take(state, stay), take(memory, stay)
        step += 1
    return _assemble(found, user, final_context, final_state)


def _assemble(found: list[_Steps], user: IntArray, final_context: Tensor, final_state: Tensor | None) -> Transitions:
    """Sort the steps of a batch by session, then by time."""
    row = torch.cat([part.row for part in found])
    order = torch.argsort(row, stable=True)

    def column(name: str) -> Any:
        values = [getattr(part, name) for part in found]
        return None if values[0] is None else torch.cat(values)[order].cpu().numpy()

    return Transitions(
        context=column("context"),
        state=column("state"),
        items=column("items"),
        history=column("history"),
        mask=column("mask"),
        action=column("action"),
        feedback=column("feedback"),
        reward=column("reward"),
        terminated=column("terminated"),
        truncated=column("truncated"),
        propensity=column("propensity"),
        visit=column("visit"),
        day=column("day"),
        episode=row[order].cpu().numpy(),
        user=user,
        final_context=final_context.numpy(),
        final_state=None if final_state is None else final_state.numpy(),
    )


def _join(parts: list[Transitions]) -> Transitions:
    """Batches one after the other, episodes renumbered."""
    if len(parts) == 1:
        return parts[0]
    first = np.cumsum([0, *(part.num_episodes for part in parts)])

    def column(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if name == "episode":
            values = [value + begin for value, begin in zip(values, first, strict=False)]
        return None if values[0] is None else np.concatenate(values)

    return Transitions(**{name: column(name) for name in Transitions.__dataclass_fields__})


def logged_transitions(
    sequences: Sequences,
    sessions: IntArray,
    backbone: Backbone,
    reward: Mapping[str, float],
    *,
    history: bool = False,
    censor_seconds: float = 1800.0,
    progress: bool = False,
) -> Transitions:
    """Logged sessions in the shape of collected ones, as the platform with this backbone would have seen them.

    Args:
        sequences: the log.
        sessions: (E,) numbers of sessions, as from `recgym.logs.splits.sessions_of`.
        backbone: encodes the states.
        reward: weight of each kind of feedback.
        history: store the items and feedback that policies may read, (T, L) and (T, L, F).
        censor_seconds: sessions active this close to the end of the log are truncated, not terminated.
        progress: show a progress bar.

    Raises:
        ValueError: the reward names a kind that the log does not have.
    """
    steps, before, after = encode_sessions(backbone, sequences, sessions, progress=progress)
    bounds = sequences.session_bounds
    size = np.diff(bounds)[sessions]
    last = np.cumsum(size) - 1
    ends = np.zeros(len(steps), np.bool_)
    cut_off = np.zeros(len(steps), np.bool_)
    over = sequences.time[bounds[sessions + 1] - 1] < int(np.max(sequences.time)) - censor_seconds
    ends[last], cut_off[last] = over, ~over
    feedback = np.asarray(sequences.feedback[steps], np.float32)
    seen = windows(sequences, steps, backbone.config.length) if history else (None, None)
    place = sequences.place[steps]
    return Transitions(
        context=(place / CONTEXT_STEPS).astype(np.float32)[:, None],
        state=before.numpy(),
        items=seen[0],
        history=seen[1],
        mask=None,
        action=sequences.item[steps].astype(np.int64)[:, None],
        feedback=feedback[:, None],
        reward=(feedback @ reward_weights(sequences.kinds, reward)).astype(np.float32),
        terminated=ends,
        truncated=cut_off,
        propensity=np.asarray(sequences.propensity[steps]),
        episode=np.repeat(np.arange(len(sessions)), size),
        user=sequences.user_of_step[bounds[sessions]],
        final_context=(size / CONTEXT_STEPS).astype(np.float32)[:, None],
        final_state=after.numpy(),
    )


def reward_weights(kinds: tuple[FeedbackKind, ...], reward: Mapping[str, float]) -> Any:
    """Weight of each kind in order, (F,) float64.

    Raises:
        ValueError: a weight is for a kind that is not there.
    """
    names = [kind.name for kind in kinds]
    for name in reward:
        if name not in names:
            raise ValueError(f"reward has a weight for {name!r}, but the feedback is {', '.join(names)}")
    return np.array([reward.get(name, 0.0) for name in names])
