"""Runs a learner in segments: each ends with a row of the curve, a judgement where one is asked for, a checkpoint.

A segment starts from what the checkpoint holds and from a seed of its own, so a run resumed after a kill ends with the
numbers it would have had. Stable-Baselines3's algorithms run the same way, in `agents.sb3`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm import tqdm

from agents.checkpoints import load_checkpoint, save_checkpoint
from agents.learning import (
    LearningCurve,
    Row,
    describe,
    isolated_randomness,
    seed_segment,
)
from agents.task import Task
from recgym.files import write_bytes
from recgym.policy import StoredPolicy

_LONGEST = 10.0
"""Length of a gradient beyond which it is cut, where an agent asks for that."""
_JUDGE_SEED = 1 << 20
"""Added to a run's seed: the users that judge are not those of the training."""


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Early stopping on evaluated reward: the policy of the best judgement is the run's result."""

    sessions: int = 0
    """Sessions that judge the policy after each segment; 0: none, and the last policy is the result."""
    patience: int = 0
    """Segments without a better judgement after which training stops; 0: it never does."""

    def __post_init__(self) -> None:
        """Check the fields."""
        if min(self.sessions, self.patience) < 0:
            raise ValueError(f"sessions {self.sessions} and patience {self.patience}: expected at least 0")
        if self.patience and not self.sessions:
            raise ValueError(f"patience is {self.patience}, but no sessions judge: give Stopping(sessions=...) too")


class Judgement:
    """The best policy so far, by its mean reward on users of its own."""

    def __init__(self, stopping: Stopping, task: Task, seed: int) -> None:
        """Nothing is judged yet."""
        self.stopping, self.task, self.seed = stopping, task, seed + _JUDGE_SEED
        self.best, self.waited = -float("inf"), 0
        self.tensors: dict[str, Tensor] | None = None

    def judge(self, policy: StoredPolicy, row: Row) -> None:
        """Note the policy's reward in `row` as `judged_reward`, and keep its tensors where it is the best so far."""
        if not self.stopping.sessions:
            return
        reward = self.task.judge(policy, self.stopping.sessions, self.seed)
        row["judged_reward"] = reward
        self.waited += 1
        if reward > self.best:
            self.best, self.waited = reward, 0
            self.tensors = {name: tensor.detach().clone() for name, tensor in policy.tensors().items()}

    @property
    def over(self) -> bool:
        """Whether training should stop."""
        return 0 < self.stopping.patience <= self.waited

    def pick(self, policy: StoredPolicy) -> StoredPolicy:
        """The policy of the best judgement; `policy` itself, the last one, where nothing was judged."""
        if self.tensors is None:
            return policy
        restore: Any = type(policy).restore  # type: ignore[attr-defined]
        best: StoredPolicy = restore(policy.config(), self.tensors)
        for part in vars(best).values():
            if isinstance(part, torch.nn.Module):
                part.to(self.task.device)
        return best

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"best": self.best, "waited": self.waited, "tensors": self.tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.best, self.waited, self.tensors = state["best"], state["waited"], state["tensors"]


class Learner(Protocol):
    """One training run in progress."""

    def advance(self, last: int) -> Row:
        """Learn up to step `last` (user steps, or updates for offline agents); what to note in the curve."""
        ...

    def policy(self) -> StoredPolicy:
        """The policy as it is now."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the next segment depends on: tensors, numbers, strings, and lists and dicts of them."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        ...


def run(
    agent: Any,
    make_learner: Any,
    task: Task,
    *,
    total: int,
    segments: int,
    seed: int,
    folder: Path | str,
    stopping: Stopping,
    resume: bool,
    progress: bool,
    unit: str = "step",
) -> StoredPolicy:
    """Train to the end, from the checkpoint in `folder` if `resume`, and return the policy.

    Args:
        agent: its config; a checkpoint of another is refused.
        make_learner: makes the fresh `Learner`, once torch's generator is seeded.
        task: what it learns from; judges the policies.
        total: steps, in `unit`.
        segments: rows of the curve and checkpoints, spread evenly.
        seed: of everything random.
        folder: gets `log.jsonl`, `tensorboard/` and `checkpoints/last.safetensors`.
        stopping: whether and when to stop early.
        resume: go on from the checkpoint where there is one.
        progress: show a bar.
        unit: of `total`, for the bar.
    """
    folder, about = Path(folder), describe(agent, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with isolated_randomness():
        checkpoint = load_checkpoint(folder, about) if resume else None
        seed_segment(seed, -1)
        learner: Learner = make_learner()
        judgement, begin = Judgement(stopping, task, seed), 0
        if checkpoint:
            begin = int(checkpoint["segment"])
            learner.load_state_dict(checkpoint["learner"])
            judgement.load_state_dict(checkpoint["judgement"])
        curve = LearningCurve(folder, checkpoint["rows"] if checkpoint else [])
        try:
            with tqdm(total=total, desc=type(agent).__name__, unit=unit, disable=not progress) as bar:
                for segment in range(begin, segments):
                    if judgement.over:
                        break
                    bar.update(total * segment // segments - bar.n)
                    seed_segment(seed, segment)
                    last = total * (segment + 1) // segments
                    row: Row = {"step": last, **learner.advance(last)}
                    judgement.judge(learner.policy(), row)
                    curve.add(row)
                    bar.update(last - bar.n)
                    content = {"learner": learner.state_dict(), "judgement": judgement.state_dict()}
                    save_checkpoint(folder, about, {"rows": curve.rows, "segment": segment + 1, **content})
        finally:
            curve.close()
        return judgement.pick(learner.policy())


def descend(
    folder: Path | str,
    optimiser: torch.optim.Optimizer,
    terms: dict[str, Tensor],
    batch: dict[str, Tensor],
    *,
    clip: Iterable[Tensor] = (),
) -> dict[str, Tensor]:
    """One gradient step on the sum of the terms, if they are finite; the terms, without their graphs.

    Args:
        folder: see `check_finite`.
        optimiser: of the parameters.
        terms: of the loss, scalars by name.
        batch: what they were computed from.
        clip: parameters whose gradient is cut to a length of 10 together; none: it is taken as it is.
    """
    check_finite(folder, terms, batch)
    optimiser.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    torch.nn.utils.clip_grad_norm_(clip, _LONGEST)
    optimiser.step()
    return {name: term.detach() for name, term in terms.items()}


def snapshot(learner: Any, *names: str) -> dict[str, Any]:
    """What a learner's parts are now: their `state_dict`, copied of networks and optimisers, or the part itself."""
    found = {}
    for name in names:
        part = getattr(learner, name)
        state = part.state_dict() if hasattr(part, "state_dict") else part
        found[name] = copy.deepcopy(state) if isinstance(part, nn.Module | torch.optim.Optimizer) else state
    return found


def restore(learner: Any, state: dict[str, Any]) -> None:
    """Go on from `snapshot`."""
    for name, part in state.items():
        if hasattr(getattr(learner, name), "load_state_dict"):
            getattr(learner, name).load_state_dict(part)
        else:
            setattr(learner, name, part)


def check_finite(folder: Path | str, terms: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
    """Stop where a term of a loss is not finite.

    Args:
        folder: gets `bad-batch.safetensors`.
        terms: scalars by name.
        batch: what they were computed from.

    Raises:
        FloatingPointError: names the term, its value, and the file that holds the batch.
    """
    terms = {name: term.detach() for name, term in terms.items()}
    total = torch.stack([term.double().sum() for term in terms.values()]).sum()
    if bool(total.isfinite()):
        return
    name, value = next((name, float(term.sum())) for name, term in terms.items() if not bool(term.isfinite().all()))
    file = Path(folder) / "bad-batch.safetensors"
    write_bytes(file, safetensors.torch.save({key: part.detach().cpu().contiguous() for key, part in batch.items()}))
    raise FloatingPointError(
        f"the loss term {name!r} is {value}: the batch is in {file}; lower the learning rate, "
        "or look in the batch for amounts that are not finite"
    )
