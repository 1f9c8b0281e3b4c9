"""Exploitation audit on Coat: users learned from self-chosen ratings, judged by what they say of uniform exposures.

Who rates what they like teaches a model that everything is liked; who then shows the best of its beliefs collects its
errors (the optimiser's curse). Both are measured on ratings of items that chance showed, which trained and calibrated
nothing: how far beliefs are off, and how far a promise is off where the item was picked for it.

Source: Schnabel et al. (2016) for the data and the propensities; Smith and Winkler (2006), "The optimizer's curse".
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.bench.timing import threads
from experiments.coat_log import WEEK, coat_log, last_roles, read_coat_data
from experiments.coat_picks import Numbers, judge_picks, paired, pick_best, propensities_gain
from experiments.coat_table import describe
from experiments.fit import starting_at
from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.training import TrainingConfig, train_backbone
from recgym.files import write_json
from recgym.logs.pivot import build_sequences
from recgym.logs.sequences import Sequences, Starts, cut
from recgym.logs.splits import TEST, sessions_of
from recgym.random import session_keys
from recgym.types import DoubleArray
from recgym.users.config import UserConfig
from recgym.users.fitting import fit_users
from recgym.users.learned import LearnedUsers

BACKBONE = BackboneConfig(width=32, layers=1, length=24)
"""Small, as the log is: a user's whole past of at most 24 ratings."""
TRAINING = TrainingConfig(epochs=15, patience=3)
USERS = UserConfig(ensemble=4, negatives=2, learning_rate=5e-3, random_effects=False, propensity_clip=10.0)


@dataclass(frozen=True, kw_only=True)
class CoatAudit:
    """Judge users learned from Coat's self-chosen ratings by its uniformly random exposures."""

    data: Path
    """Folder of the Coat files: train.ascii, test.ascii, and propensities and features where they are known."""
    seeds: int = 3
    """Fits, each with its own order of ratings, backbone and heads."""
    pessimism: float = 1.0
    """Standard deviations of the ensemble that a wary policy takes from the mean."""
    backbone: BackboneConfig = BACKBONE
    """Which backbone."""
    training: TrainingConfig = TRAINING
    """How it is trained."""
    users: UserConfig = USERS
    """How users are learned; `propensity_clip` holds for the fits with the published propensities only."""
    out: Path | None = None
    """Write the figures here too, as JSON."""

    def __call__(self) -> None:
        """Run the stage."""
        with threads(1):  # the log is small: more threads would wait for each other
            found = audit_coat(
                self.data, seeds=self.seeds, ensemble=self.users.ensemble, pessimism=self.pessimism,
                backbone=self.backbone, training=self.training, users=self.users,
            )  # fmt: skip
        print(describe(found))
        if self.out is not None:
            write_json(self.out, {"format": "recgym-coat-audit", "version": 1, **found})


class Beliefs(NamedTuple):
    """What S fits say, in stars if rated; U users, K exposed items, H chosen ratings held out, E + 1 heads."""

    exposed: DoubleArray  # (S, E + 1, U, K), the simulated heads first
    held_out: DoubleArray  # (S, E + 1, H)
    answers: DoubleArray  # (S, H) stars of the held-out ratings
    owners: DoubleArray  # (S, H) user of each


def audit_coat(
    folder: Path,
    *,
    seeds: int = 3,
    ensemble: int = 4,
    pessimism: float = 1.0,
    backbone: BackboneConfig = BACKBONE,
    training: TrainingConfig = TRAINING,
    users: UserConfig = USERS,
) -> Numbers:
    """Fit users on the chosen ratings, without and with inverse propensities, and compare with what chance showed.

    Args:
        folder: of the Coat files.
        seeds: fits of each kind; every interval is over users, with all their fits.
        ensemble: more sets of heads, whose spread is the doubt.
        pessimism: standard deviations taken from the mean by the wary rule.
        backbone: which backbone.
        training: how it is trained.
        users: how users are learned; its seed is the first.

    Raises:
        ValueError: a setting is out of range, or a file is not the table that it should be.
        FileNotFoundError: there are no ratings.
    """
    if seeds < 1 or ensemble < 1 or not pessimism >= 0:
        raise ValueError(
            f"seeds is {seeds}, ensemble {ensemble}, pessimism {pessimism}; expected at least 1, 1 and 0"
        )  # fmt: skip
    data = read_coat_data(folder)
    clips = {"all ratings alike": 0.0}
    if data.chance is not None and users.propensity_clip > 0:
        clips["inverse propensities"] = users.propensity_clip
    fits: dict[str, list[Beliefs]] = {name: [] for name in clips}
    for seed in range(users.seed, users.seed + seeds):
        sequences = build_sequences(coat_log(data, seed))
        roles = last_roles(sequences.offsets)
        with tempfile.TemporaryDirectory() as scratch:
            trained = train_backbone(sequences, roles, backbone, replace(training, seed=seed), folder=scratch)
        for name, clip in clips.items():
            config = replace(users, ensemble=ensemble, propensity_clip=clip, seed=seed)
            learned = fit_users(sequences, roles, trained.backbone, config)
            held_out = sessions_of(sequences, roles, TEST)
            fits[name].append(_ask(learned, sequences, held_out, data.exposed))
    beliefs = {name: Beliefs(*(np.stack(part) for part in zip(*found, strict=True))) for name, found in fits.items()}
    stars = data.stars.double().numpy()
    popular = data.item_mean[data.exposed].double().numpy()
    picked = {name: pick_best(found.exposed, stars, popular, pessimism) for name, found in beliefs.items()}
    rated = data.chosen[data.chosen > 0]
    judged = {
        name: {"beliefs": _calibration(found, stars), "picks": {k: judge_picks(one) for k, one in picked[name].items()}}
        for name, found in beliefs.items()
    }
    return {
        "users": len(data.chosen), "items": data.chosen.shape[1], "ratings": len(rated), "left_out": data.overlap,
        "exposures": stars.shape[1], "seeds": seeds, "ensemble": ensemble, "pessimism": pessimism,
        "clip": users.propensity_clip, "stars_chosen": float(rated.mean()), "stars_exposed": float(stars.mean()),
        "fits": judged,
        "propensities_gain": propensities_gain(picked),
    }  # fmt: skip


def _ask(users: LearnedUsers, sequences: Sequences, held_out: Any, exposed: Tensor) -> Beliefs:
    """Beliefs of one fit about the held-out choices, each before it was rated, and the exposures, after all choices."""
    length = users.backbone.config.length
    items, feedback = cut(sequences, sequences.offsets[:-1], sequences.offsets[1:], length)
    after = torch.from_numpy(sequences.time[sequences.offsets[1:] - 1] + WEEK)
    profile = None if sequences.profile is None else torch.from_numpy(sequences.profile)
    everyone = torch.arange(sequences.num_users)
    ends = Starts(everyone, torch.from_numpy(items), torch.from_numpy(feedback), after, profile)
    step = sequences.session_bounds[held_out]  # (H,)
    asked = torch.from_numpy(sequences.item[step].astype(np.int64))
    return Beliefs(
        _stars(users, ends, exposed + 1),
        _stars(users, Starts.of(sequences, held_out, length), asked.unsqueeze(1))[:, :, 0],
        sequences.feedback[step, _rating(users)].astype(np.float64),
        sequences.user_of_step[step].astype(np.float64),
    )


def _stars(users: LearnedUsers, starts: Starts, slates: Tensor) -> DoubleArray:
    """Mean stars if rated of `slates` (P, K) at `starts`, by each set of heads, (E + 1, P, K)."""
    there = starting_at(users, starts, repeats=True, start_megabytes=4096)
    state = there.begin_at(session_keys(0, len(slates)), torch.arange(len(slates)))
    return there.opinions(state, slates, given=True)[:, :, :, _rating(users)].double().numpy()


def _rating(users: LearnedUsers) -> int:
    return [kind.name for kind in users.kinds].index("rating")


def _calibration(beliefs: Beliefs, stars: DoubleArray) -> Numbers:
    """Bias on choices and on exposures, calibration by decile of belief, correlation, and what doubt knows."""
    mean, doubt = beliefs.exposed[:, 0], beliefs.exposed.std(1, ddof=1)  # (S, U, K)
    truth = np.broadcast_to(stars, mean.shape)
    users = np.broadcast_to(np.arange(len(stars))[:, None], mean.shape)
    order = np.argsort(mean, axis=None, kind="stable")
    within = [part - part.mean(2, keepdims=True) for part in (mean, truth)]
    return {
        "bias_held_out": paired(beliefs.held_out[:, 0], beliefs.answers, beliefs.owners),
        "bias_exposed": paired(mean, truth, users),
        "correlation": _correlation(mean, truth),
        "correlation_within_users": _correlation(*within),
        "correlation_of_doubt_with_error": _correlation(doubt, np.abs(mean - truth)),
        "doubt": float(doubt.mean()),
        "root_mean_squared_error": float(np.sqrt(((mean - truth) ** 2).mean())),
        "deciles": [
            {"predicted": float(mean.flat[part].mean()), "true": float(truth.flat[part].mean()), "cases": len(part)}
            for part in np.array_split(order, 10)
        ],
    }  # fmt: skip


def _correlation(first: DoubleArray, second: DoubleArray) -> float | None:
    """Pearson's; None where one of the two is constant."""
    if float(first.std()) < 1e-9 or float(second.std()) < 1e-9:
        return None
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])
