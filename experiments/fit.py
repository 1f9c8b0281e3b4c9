"""From logs to users: read the log, split it, train the backbone, fit the users, and say what to believe of them."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.runs import Run, plain
from experiments.settings import with_settings
from recgym.backbones.backbone import BackboneConfig, own_config, save_backbone
from recgym.backbones.training import TrainingConfig, train_backbone
from recgym.env.session import Repeats, SessionConfig, Sessions
from recgym.files import FormatError, read_json, write_bytes, write_json
from recgym.logs import splits
from recgym.logs.filters import k_core
from recgym.logs.log import InteractionLog
from recgym.logs.pivot import SequenceConfig, build_sequences
from recgym.logs.readers import read_log
from recgym.logs.readers.native import sample_log
from recgym.logs.sequences import Sequences, Starts
from recgym.logs.tables import OnBadRows
from recgym.users.config import UserConfig
from recgym.users.fidelity import fidelity
from recgym.users.fitting import fit_users
from recgym.users.learned import LearnedUsers
from recgym.users.storage import load_users, save_users


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Read logs, train the backbone, fit the simulated users."""

    out: Path
    """Run folder."""
    logs: Path | None = None
    """Folder with the logs; the sample log if it is not given."""
    format: str = "recgym"
    """Format of the logs: recgym, movielens, yoochoose, retailrocket, amazon or open-bandit."""
    on_bad_rows: OnBadRows = "error"
    """Refuse a log with a bad row, or drop such rows and count them."""
    min_user_events: int = 1
    """Users with fewer events are left out (k-core, counted in the report)."""
    min_item_events: int = 1
    """Items with fewer events are left out."""
    split: Literal["temporal", "leave-one-out"] = "temporal"
    """How steps are split: by the start of their session, or each user's last choices (published tables)."""
    validation: float = 0.1
    """Share of steps for choosing models (temporal split)."""
    test: float = 0.1
    """Share of steps for the final judgement (temporal split)."""
    sequences: SequenceConfig = field(default_factory=SequenceConfig)
    """How events become steps and sessions."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Which backbone; docs/backbones.md lists them."""
    backbone_settings: dict[str, str] = field(default_factory=dict)
    """Fields that only the chosen backbone has, by name: expansion 4."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How the backbone is trained."""
    users: UserConfig = field(default_factory=UserConfig)
    """How users are learned."""
    resume: bool = False
    """Go on with an interrupted fit in the same folder."""

    def __call__(self) -> None:
        """Run the stage."""
        backbone = with_settings(
            own_config(self.backbone), self.backbone_settings, f"the backbone {self.backbone.model!r}"
        )
        run = Run(self.out)
        settings = {name: value for name, value in plain(self).items() if name not in ("resume", "out")}
        finished = run.config()["stages"].get("fit", {})
        if self.resume and run.fidelity.exists() and finished.get("settings") == settings:
            print(f"fit: done before, in {run.folder}")
            return
        with run.stage("fit", settings, resumed=self.resume) as notes:
            sequences, roles = self._read(run)
            notes["data"] = sequences.fingerprint()
            trained = train_backbone(
                sequences, roles, backbone, self.training,
                folder=run.folder / "backbone-training", resume=self.resume, progress=True,
            )  # fmt: skip
            save_backbone(trained.backbone, run.backbone)
            filled = trained.filling
            notes["filling"] = {"items": filled.items, "fitted": filled.fitted, "features": filled.features}
            if filled.items:
                print(
                    f"  items never met in training: {filled.items:,}; their vectors are predicted from "
                    f"{filled.features} features, as {filled.fitted:,} others have them"
                )
            users = fit_users(sequences, roles, trained.backbone, self.users, progress=True)
            save_users(users, run.users)
            found = fidelity(users, sequences, roles, self.users)
            write_json(run.fidelity, {"format": "recgym-fidelity", "version": 1, **found})
        for alarm in found["alarms"]:
            print(f"alarm: {alarm}")

    def _read(self, run: Run) -> tuple[Sequences, splits.Roles]:
        """Sequences and roles, from the log or, on resume, as they were."""
        if self.resume and (run.log / "sequences.json").exists() and run.roles.exists():
            return Sequences.load(run.log), np.load(run.roles, allow_pickle=False)
        log = self._log()
        sequences = build_sequences(log, self.sequences)
        if self.split == "temporal":
            roles = splits.temporal(sequences, validation=self.validation, test=self.test)
        else:
            roles = splits.leave_one_out(sequences)
        sequences.save(run.log)
        save_roles(run, roles)
        print(
            f"{sequences.name}: {sequences.num_users:,} users, {sequences.num_items:,} items, "
            f"{sequences.num_steps:,} steps in {sequences.num_sessions:,} sessions"
        )
        for note in sequences.notes:
            print(f"  {note}")
        return sequences, roles

    def _log(self) -> InteractionLog:
        log = sample_log() if self.logs is None else read_log(self.logs, self.format, on_bad_rows=self.on_bad_rows)
        if self.min_user_events > 1 or self.min_item_events > 1:
            log = k_core(log, users=self.min_user_events, items=self.min_item_events)
        return log


class Loaded(NamedTuple):
    """What `fit` left in a run folder."""

    sequences: Sequences
    roles: splits.Roles
    users: LearnedUsers
    fidelity: dict[str, Any]


def load_run(run: Run) -> Loaded:
    """Read what `fit` wrote.

    Raises:
        FormatError: a part is missing (with the command that makes it), truncated or foreign.
    """
    run.need(run.fidelity, "fit")
    sequences = Sequences.load(run.log)
    try:
        roles = np.load(run.roles, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FormatError(f"{run.roles}: missing or damaged ({error}); run fit again") from error
    return Loaded(sequences, roles, load_users(run.users), read_json(run.fidelity, format="recgym-fidelity", version=1))


def starting_at(users: LearnedUsers, starts: Starts, **changes: Any) -> LearnedUsers:
    """The same users at other starts; `changes` are arguments of `LearnedUsers` that differ too."""
    same: dict[str, Any] = {
        "backbone": users.backbone, "heads": users.heads, "topics": users.topics, "kinds": users.kinds,
        "exposures": users.exposures, "repeats": users.repeats, "ignored_hazard": users.ignored_hazard,
        "start_megabytes": users.start_megabytes, "new_user_share": users.new_user_share, "members": users.members,
        "returning": users.returning, "name": users.name, "item_titles": users.item_titles,
        "item_categories": users.item_categories,
    }  # fmt: skip
    return LearnedUsers(**{**same, "starts": starts, **changes})


def save_roles(run: Run, roles: splits.Roles) -> None:
    """Write the role of each step."""
    buffer = io.BytesIO()
    np.save(buffer, roles, allow_pickle=False)
    write_bytes(run.roles, buffer.getvalue())


def platform(
    users: LearnedUsers,
    *,
    reward: dict[str, float] | None,
    max_steps: int,
    slate_size: int = 1,
    pessimism: float = 0.0,
) -> Sessions[Any]:
    """The platform in front of `users`: where users consume nothing twice, repeats are masked."""
    repeats: Repeats = "allow" if users.repeats else "mask"
    config = SessionConfig(
        slate_size=slate_size, reward=reward, repeats=repeats, max_steps=max_steps, pessimism=pessimism
    )
    return Sessions(users, config)
