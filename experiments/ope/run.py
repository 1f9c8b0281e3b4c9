"""What the logged test sessions of a run say of its policies: evidence of each, then one appraisal of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.fit import Loaded
from experiments.ope.diagnostics import sections, with_doubts
from experiments.ope.document import jsonable
from experiments.ope.stretches import settled
from recgym.env.session import Sessions
from recgym.logs.splits import TEST, sessions_of
from recgym.ope.appraisal import Appraisal, AppraisalConfig, appraise
from recgym.ope.diagnostics import Question
from recgym.ope.evidence import Evidence, Per, gather
from recgym.ope.fqe import FitConfig, Values
from recgym.ope.importance import cut_warning
from recgym.ope.off_policy import ModelConfig, evidence_of
from recgym.ope.targets import PolicyTarget
from recgym.ope.views import single_steps
from recgym.rollout import logged_transitions
from recgym.types import Policy, Transitions

Arrays = dict[str, npt.NDArray[np.float64]]
PERS: tuple[Per, ...] = ("session", "step")
SHOWN = {
    "session": ("per-decision IS", "weighted per-decision IS", "weighted DR", "FQE"),
    "step": ("IPS", "SNIPS", "DR", "DM"),
}
"""Estimators that stand in the scorecard; the appraisal has all."""
_FIT = FitConfig(rounds=20, updates=40)


def logged_test(loaded: Loaded, sessions: Sessions[Any], *, history: bool = False) -> Transitions:
    """The logged test sessions, as the platform with the run's encoder would have seen them."""
    numbers = sessions_of(loaded.sequences, loaded.roles, TEST)
    return logged_transitions(loaded.sequences, numbers, loaded.users.backbone, sessions.weights, history=history)


def policy_evidence(policy: Policy, loaded: Loaded, sessions: Sessions[Any], *, seed: int) -> tuple[Arrays, Any]:
    """What one policy would have done along the test sessions, and models of it: arrays (1, T), and words.

    Asked undiscounted, of a session and of an impression.
    """
    logged = logged_test(loaded, sessions, history=policy.reads != "state")
    arrays: Arrays = {"logs chosen": PolicyTarget(policy=policy, logged=logged).chosen()[None]}
    words: dict[str, Any] = {}
    for per in PERS:
        view = single_steps(logged) if per == "step" else logged
        target = PolicyTarget(policy=policy, logged=view)
        seen = evidence_of(view, target, per=per, config=ModelConfig(fitting=_FIT, seed=seed))
        words[per] = {"words": list(seen.words), "no_values": seen.no_values}
        if seen.values is not None:
            arrays |= {f"logs {per} {name}": part[None] for name, part in seen.values._asdict().items()}
    return arrays, words


def appraise_run(
    loaded: Loaded, sessions: Sessions[Any], scores: Mapping[str, tuple[Arrays, Any]], question: Question
) -> tuple[tuple[Appraisal, ...], tuple[dict[str, Any], ...]]:
    """One appraisal a session and one an impression, of every policy that `policy_evidence` was made of.

    Beside each stand the sections of its diagnostics, by which its verdicts are capped.

    Args:
        loaded: the run.
        sessions: with the weights of the reward.
        scores: arrays and words of `policy_evidence` by policy.
        question: level, resamples and seed.
    """
    logged = logged_test(loaded, sessions)
    segments = _segments(loaded, logged)
    found, diagnosed = [], []
    for per in PERS:
        evidence = [_evidence(name, logged, per, *given) for name, given in scores.items()]
        labels = segments if per == "session" else {}
        appraisal = appraise(evidence, AppraisalConfig(question=question), segments=labels)
        diagnosed.append(_diagnosed(loaded, logged, evidence, appraisal, question.seed))
        found.append(with_doubts(appraisal, diagnosed[-1]))
    return tuple(found), tuple(diagnosed)


def shown_estimates(appraisals: tuple[Appraisal, ...], policy: str) -> dict[str, list[dict[str, Any]]]:
    """The estimates that the scorecard carries, by what was asked; JSON-able."""
    found: dict[str, list[dict[str, Any]]] = {}
    for appraisal in appraisals:
        report = next((one for one in appraisal.policies if one.policy == policy), None)
        kept = [one for one in report.estimates if one.estimator in SHOWN[appraisal.per]] if report else []
        found[appraisal.per] = [jsonable(dataclasses.asdict(one)) for one in kept]
    return found


def _evidence(name: str, logged: Transitions, per: Per, arrays: Arrays, words: Any) -> Evidence:
    """One policy's evidence from what was kept of it."""
    kept = {part: arrays.get(f"logs {per} {part}") for part in Values._fields}
    values = None if kept["q"] is None else Values(*(part[0] for part in kept.values() if part is not None))
    view = single_steps(logged) if per == "step" else logged
    said = words[per]["words"] or list(cut_warning(view))
    return gather(
        view, arrays["logs chosen"][0], policy=name, per=per, values=values, no_values=words[per]["no_values"],
        words=tuple(said),
    )  # fmt: skip


def _diagnosed(
    loaded: Loaded, logged: Transitions, evidence: list[Evidence], appraisal: Appraisal, seed: int
) -> dict[str, Any]:
    """The sections of an appraisal of the test sessions."""
    sequences = loaded.sequences
    bounds = sequences.session_bounds
    numbers = sessions_of(sequences, loaded.roles, TEST)
    steps = np.concatenate([np.arange(bounds[one], bounds[one + 1]) for one in numbers])  # (T,)
    time = np.asarray(sequences.time[steps], np.float64)
    who, reward = logged.user[logged.episode], logged.reward.astype(np.float64)
    return sections(
        evidence, appraisal, time=time, propensity=logged.propensity,
        item=logged.action[:, 0] if logged.action.shape[1] == 1 else None, names=sequences.items["item"].to_list(),
        covariates=settled(time, who, logged.episode, reward), seed=seed,
    )  # fmt: skip


def _segments(loaded: Loaded, logged: Transitions) -> dict[str, list[str]]:
    """Users by how many steps of theirs came before, and the time of the session in three parts, (E,) each."""
    sequences = loaded.sequences
    numbers = sessions_of(sequences, loaded.roles, TEST)
    first = sequences.session_bounds[numbers]  # (E,) steps
    before = first - sequences.offsets[logged.user]  # (E,) steps of the user before this session
    heavy = np.median(before[before > 0]) if (before > 0).any() else 0
    users = np.where(before == 0, "new", np.where(before > heavy, "heavy", "light"))
    moment = np.asarray(sequences.time[first])
    third = np.searchsorted(np.quantile(moment, [1 / 3, 2 / 3]), moment, side="right")
    return {"users": users.tolist(), "time": np.array(["first third", "second third", "last third"])[third].tolist()}
