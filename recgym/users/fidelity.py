"""What to believe of learned users: each head against what the held-out test sessions say.

Numbers are of test sessions, which neither trained nor calibrated anything. Chances are those before the session's own
intercept is known. Lengths follow from the hazards along the logged sessions: the user model is shown what was shown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recgym.backbones.encoding import encode_sessions
from recgym.logs.sequences import Sequences
from recgym.logs.splits import TEST, Roles, sessions_of
from recgym.random import session_keys
from recgym.types import BoolArray, DoubleArray, IntArray
from recgym.users import heldout
from recgym.users.calibration import marginal_probability
from recgym.users.config import UserConfig
from recgym.users.heldout import auc
from recgym.users.learned import LearnedUsers
from recgym.users.next_item import next_item
from recgym.users.reading import judge, reader_of
from recgym.users.slates import Slates, read_slates

CALIBRATION_ALARM = 0.05
"""Expected calibration error above which a kind's chances are not to be believed."""
DISCRIMINATION_ALARM = 0.6
"""AUC below which the model hardly tells what users react to."""
LENGTH_ALARM = 0.2
"""Relative error of the mean session length above which long-term reward is not to be believed."""
RETURN_ALARM = 0.10
"""Absolute error of the share that is back within a week above which retention is not to be believed."""

Fidelity = dict[str, Any]


def fidelity(
    users: LearnedUsers, sequences: Sequences, roles: Roles, config: UserConfig, *, progress: bool = False
) -> Fidelity:
    """Compare learned users with the test sessions of the log.

    Args:
        users: as fitted.
        sequences: the log they were fitted on.
        roles: (M,) the same split.
        config: as fitted: it says how negatives are sampled where the log has no exposures.
        progress: show progress bars.

    Returns:
        JSON-able: "kinds" {name: numbers}, "leave", "reliability" {name: {predicted, observed, count}}, "lengths"
        {logged, simulated: sessions that end after 1, 2, ... steps}, "mean_length" and "length_distance" (None where
        the log ends too early), "returns", "next_item", "alarms" and "notes" in words; with exposures also "repeats",
        "popularity", "transitions" and "cold": see `recgym.users.heldout`.

    Raises:
        ValueError: there is no test session.
    """
    sessions = sessions_of(sequences, roles, TEST)
    if not len(sessions):
        raise ValueError("there is no test session to judge users by: split the log so that the test part has some")
    encoded = encode_sessions(users.backbone, sequences, sessions, progress=progress)
    censor = config.censor_seconds
    slates = read_slates(users.backbone, sequences, sessions, censor_seconds=censor, encoded=encoded)
    reader = reader_of(users.heads, sequences, roles, users.backbone, config)
    judged = judge(reader, slates, torch.Generator().manual_seed(int(session_keys(config.seed, 1)) % 2**32))
    found: Fidelity = {"kinds": {}, "reliability": {}, "alarms": [], "notes": []}
    heads = users.heads
    for column, kind in enumerate(users.kinds):
        if kind.type == "real":
            found["kinds"][kind.name] = _amounts(users, slates, judged.logits[:, 0, column], column)
            continue
        scores = judged.scores(reader, slates, column)
        logit = scores.logit * heads.slope[column] + heads.intercept[column]
        chance = marginal_probability(logit, float(heads.effect_scale[column])).double().numpy()
        happened = scores.happened.numpy() > 0
        if column == 0 and users.exposures and not users.repeats:
            chance = chance * ~heldout.consumed_before(slates)  # what `LearnedUsers.step` does
        _judge_binary(found, found["kinds"], kind.name, chance, happened, scores.weight.numpy())
        if column == 0 and users.exposures:
            found["repeats"] = heldout.repeats(slates, chance, happened)
            found["popularity"] = heldout.popularity(slates.item.numpy(), chance, happened, users.num_items)
            topic = users.topics.cpu().numpy()[slates.item.numpy()]
            found["transitions"] = heldout.transitions(slates, topic, chance, happened)
            found["cold"] = heldout.cold(sequences, roles, encoded.steps, slates, chance, happened)
    logit = judged.leave * heads.slope[-1] + heads.intercept[-1]
    hazard = marginal_probability(logit, float(heads.effect_scale[-1])).double().numpy()
    known = slates.known.numpy()
    leave: dict[str, Any] = {}
    _judge_binary(found, leave, "leave", hazard[known], slates.leaves.numpy()[known] > 0, np.ones(int(known.sum())))
    found["leave"] = leave["leave"]
    found["lengths"], found["mean_length"] = _lengths(hazard, slates)
    found["length_distance"] = heldout.length_distance(found["lengths"], len(sessions))
    found["returns"] = heldout.returns(users, sequences, sessions, encoded)
    _alarm_of_lengths(found)
    _alarm_of_returns(found)
    found["next_item"] = next_item(users.backbone, sequences, roles)
    if not users.exposures:
        found["notes"].append(
            f"The log does not say what was ignored: a sampled negative is taken to be consumed with chance "
            f"{config.base_rate:g}, and ignoring an item to end the session {users.ignored_hazard:g} times as often as "
            "consuming one. Rewards scale with these assumptions."
        )
    found["notes"].append(f"{len(sessions)} test sessions, {len(slates.item)} steps.")
    return found


def reliability(
    chance: DoubleArray, happened: DoubleArray, weight: DoubleArray, bins: int = 10
) -> dict[str, list[float]]:
    """Mean chance, observed rate and weight in `bins` groups of about equal weight, from low chances to high.

    Source: Guo et al. (2017), "On calibration of modern neural networks", with bins of equal mass.
    """
    order = np.argsort(chance, kind="stable")
    mass = np.cumsum(weight[order])
    group = np.minimum((mass - weight[order] / 2) / mass[-1] * bins, bins - 1).astype(np.int64)
    total = np.bincount(group, weight[order], bins)
    kept = total > 0
    predicted = np.bincount(group, weight[order] * chance[order], bins)[kept] / total[kept]
    observed = np.bincount(group, weight[order] * happened[order], bins)[kept] / total[kept]
    return {"predicted": predicted.tolist(), "observed": observed.tolist(), "count": total[kept].tolist()}


def _judge_binary(
    found: Fidelity,
    place: dict[str, Any],
    name: str,
    chance: DoubleArray,
    happened: BoolArray,
    weight: DoubleArray,
) -> None:
    """AUC, calibration error and likelihood of one kind, with alarms."""
    if not len(chance):
        place[name] = {"cases": 0}
        found["alarms"].append(f"The test sessions say nothing about {name!r}.")
        return
    curve = reliability(chance, happened.astype(np.float64), weight)
    count = np.asarray(curve["count"])
    gap = np.abs(np.asarray(curve["predicted"]) - np.asarray(curve["observed"]))
    rate = float((weight * happened).sum() / weight.sum())
    size = count * (len(chance) / count.sum())
    spread = np.sqrt(np.asarray(curve["predicted"]) * (1 - np.asarray(curve["predicted"])) / np.maximum(size, 1))
    numbers = {
        "cases": len(chance),
        "rate": rate,
        "predicted_rate": float((weight * chance).sum() / weight.sum()),
        "auc": auc(chance, happened),
        "ece": float((gap * count).sum() / count.sum()),
        "ece_noise": float((np.sqrt(2 / np.pi) * spread * count).sum() / count.sum()),
        "log_loss": _log_loss(chance, happened, weight),
        "log_loss_of_rate": _log_loss(np.full(len(chance), rate), happened, weight),
    }
    place[name] = {key: value if np.isfinite(value) else None for key, value in numbers.items()}
    found["reliability"][name] = curve
    if numbers["ece"] > CALIBRATION_ALARM:
        found["alarms"].append(f"Chances of {name!r} are off by {numbers['ece']:.3f} on average (alarm above 0.05).")
    if numbers["auc"] < DISCRIMINATION_ALARM and name != "leave":
        found["alarms"].append(
            f"The model hardly tells when {name!r} happens: AUC {numbers['auc']:.2f} (alarm below 0.6)."
        )


def _alarm_of_lengths(found: Fidelity) -> None:
    """Mean lengths that are off by more than a fifth, or a test part whose sessions all go on beyond the log."""
    if found["mean_length"] is None:
        found["alarms"].append("The test sessions say nothing about how long sessions last: the log ends before them.")
        return
    logged, simulated = found["mean_length"]["logged"], found["mean_length"]["simulated"]
    if abs(simulated / logged - 1) > LENGTH_ALARM:
        found["alarms"].append(
            f"Simulated sessions last {simulated:.1f} steps on average, logged ones {logged:.1f}: "
            "session rewards are off by about as much."
        )


def _alarm_of_returns(found: Fidelity) -> None:
    """Returns within a week that are off by more than 10 points, or a log too short to say."""
    if found["returns"] is None:
        found["notes"].append("The log shows too few returns to learn when users come back: no lives beyond a session.")
        return
    week = found["returns"]["within 7"]
    if week["cases"] and abs(week["rate"] - week["predicted_rate"]) > RETURN_ALARM:
        found["alarms"].append(
            f"Of the logged users {week['rate']:.0%} were back within 7 days, of the simulated ones "
            f"{week['predicted_rate']:.0%}: retention is off by as much."
        )


def _log_loss(chance: DoubleArray, happened: BoolArray, weight: DoubleArray) -> float:
    inside = np.clip(chance, 1e-9, 1 - 1e-9)
    return float(-(weight * np.where(happened, np.log(inside), np.log1p(-inside))).sum() / weight.sum())


def _amounts(users: LearnedUsers, slates: Slates, logit: torch.Tensor, column: int) -> dict[str, float | int]:
    """Correlation and means of a real kind where it happened, in log units and in its own."""
    heads = users.heads
    rows = slates.feedback[:, column] > 0
    observed = slates.feedback[rows, column].log().double().numpy()
    mean, scale, least, most, _ = (float(value) for value in heads.amount[:, column])
    standard = (logit[rows] * heads.slope[column] + heads.intercept[column]).double().numpy()
    predicted = mean + scale * standard
    spread = float(heads.residual[column])
    if len(observed) < 3:
        return {"cases": len(observed)}
    return {
        "cases": len(observed),
        "log_correlation": float(np.corrcoef(predicted, observed)[0, 1]) if predicted.std() > 0 else 0.0,
        "mean": float(np.exp(observed).mean()),
        "predicted_mean": float(np.clip(np.exp(predicted + spread**2 / 2), least, most).mean()),
        "residual": float((observed - predicted).std()),
        "assumed_residual": spread,
    }


def _lengths(hazard: DoubleArray, slates: Slates) -> tuple[dict[str, list[float]], dict[str, float] | None]:
    """Sessions that end after 1, 2, ... steps: logged, and as the hazards have it; and both mean lengths.

    Both are life tables: at each depth the share of those still there that leave, observed or predicted, so that
    sessions cut by the end of the log count as long as they were seen. Source: Kaplan and Meier (1958).
    """
    session = slates.session.numpy()
    first = np.flatnonzero(np.diff(session, prepend=-1))
    depth: IntArray = np.arange(len(session)) - first[session]  # (M',)
    known = slates.known.numpy()
    at_risk = np.bincount(depth[known])
    left = np.bincount(depth[known], slates.leaves.numpy()[known])
    expected = np.bincount(depth[known], hazard[known])
    tables = {}
    means: dict[str, float] = {}
    for name, ends in (("logged", left), ("simulated", expected)):
        share = np.clip(ends / np.maximum(at_risk, 1), 0, 1)
        alive = np.append(1.0, np.cumprod(1 - share))
        tables[name] = ((alive[:-1] - alive[1:]) * len(first)).tolist()
        means[name] = float(alive[:-1].sum())
    return tables, means if len(at_risk) else None
