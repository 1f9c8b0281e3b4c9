"""Ragged, memory-mapped sequences: what each user met, step by step, with the feedback to each step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recgym.files import FormatError, new_folder, read_json, write_json
from recgym.types import BoolArray, DoubleArray, FeedbackKind, FloatArray, IntArray

if TYPE_CHECKING:
    import polars as pl

FORMAT, VERSION = "recgym-sequences", 1
_ARRAYS = ("offsets", "item", "feedback", "time", "session", "propensity", "position")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """U users, M steps, S sessions. A step is one item that one user met at one time; steps lie user after user.

    Within a user, sessions follow each other by their start and steps by time; ties keep the order of the file.
    """

    offsets: IntArray  # (U + 1,): user u's steps are offsets[u] .. offsets[u + 1] - 1
    item: npt.NDArray[np.int32]  # (M,) 1..N
    feedback: FloatArray  # (M, F)
    time: IntArray  # (M,) seconds since the epoch
    session: IntArray  # (M,) 0..S-1, in the order of the array
    propensity: DoubleArray  # (M,) probability with which the logger showed it; nan where unknown
    position: npt.NDArray[np.int16]  # (M,) slot in the slate, from 0; -1 where unknown
    kinds: tuple[FeedbackKind, ...]
    exposures: bool
    """Whether steps without feedback say what was shown and ignored."""
    users: list[str] = field(repr=False)
    items: pl.DataFrame = field(repr=False)
    """Row j describes item j + 1: columns item, and title, category, ... where the log has them."""
    name: str = "log"
    notes: tuple[str, ...] = ()
    """What was repaired on the way from the file to here, counted."""
    profile: FloatArray | None = field(default=None, repr=False)
    """Features of each user, (U, P), where the log has any; see `recgym.logs.profiles`."""
    profile_names: tuple[str, ...] = ()
    """Their names, P."""

    @property
    def num_items(self) -> int:
        """Items of the catalogue, N."""
        return len(self.items)

    @property
    def num_users(self) -> int:
        """Users, U."""
        return len(self.users)

    @property
    def num_steps(self) -> int:
        """Steps, M."""
        return len(self.item)

    @property
    def num_sessions(self) -> int:
        """Sessions, S."""
        return len(self.session_bounds) - 1

    @cached_property
    def targets(self) -> BoolArray:
        """Steps that next-item prediction counts: those with positive first feedback, (M,)."""
        positive: BoolArray = self.feedback[:, 0] > 0
        return positive

    @cached_property
    def user_of_step(self) -> IntArray:
        """User of each step, (M,)."""
        return np.repeat(np.arange(self.num_users), np.diff(self.offsets))

    @cached_property
    def session_bounds(self) -> IntArray:
        """First step of each session, and M, (S + 1,)."""
        first = np.flatnonzero(np.diff(self.session, prepend=-1))
        return np.append(first, self.num_steps).astype(np.int64)

    @cached_property
    def place(self) -> IntArray:
        """Place of each step in its session, from 0, (M,)."""
        return np.arange(self.num_steps) - self.session_bounds[self.session]

    @cached_property
    def feedback_scale(self) -> FloatArray:
        """Mean of each kind where it happened, (F,): 1 for binary kinds; never 0."""
        happened = (self.feedback > 0).sum(0)
        scale = self.feedback.sum(0, dtype=np.float64) / np.maximum(happened, 1) + (happened == 0)
        return np.asarray(scale, np.float32)

    @cached_property
    def categories(self) -> IntArray | None:
        """Number of each item's category, (N,) from 0; None where the log has no column `category`."""
        if "category" not in self.items.columns:
            return None
        names = self.items["category"].fill_null("").to_numpy()
        return np.unique(names.astype(str), return_inverse=True)[1].astype(np.int64)

    def fingerprint(self) -> str:
        """SHA-256 of users, items, kinds and all steps: equal logs have equal fingerprints."""
        digest = hashlib.sha256()
        for name in _ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name)).data)
        text = json.dumps([self.users, self.items["item"].to_list(), [vars(kind) for kind in self.kinds]])
        digest.update(text.encode())
        return digest.hexdigest()

    def save(self, folder: Path | str) -> None:
        """Write into `folder`, whole or not at all."""
        import polars as pl

        with new_folder(Path(folder)) as target:
            for name in _ARRAYS:
                np.save(target / f"{name}.npy", getattr(self, name), allow_pickle=False)
            self.items.write_parquet(target / "items.parquet")
            pl.DataFrame({"user": self.users}).write_parquet(target / "users.parquet")
            if self.profile is not None:
                np.save(target / "profile.npy", self.profile, allow_pickle=False)
            about: dict[str, Any] = {
                "format": FORMAT,
                "version": VERSION,
                "name": self.name,
                "exposures": self.exposures,
                "kinds": [vars(kind) for kind in self.kinds],
                "notes": list(self.notes),
                "profile_names": list(self.profile_names),
                "steps": self.num_steps,
                "fingerprint": self.fingerprint(),
            }
            write_json(target / "sequences.json", about)

    @classmethod
    def load(cls, folder: Path | str) -> Sequences:
        """Read what `save` wrote; the arrays are memory-mapped, so a log larger than memory opens at once.

        Raises:
            FormatError: a file is missing, truncated or foreign.
        """
        import polars as pl

        folder = Path(folder)
        about = read_json(folder / "sequences.json", format=FORMAT, version=VERSION)
        arrays: dict[str, Any] = {}
        for name in _ARRAYS:
            path = folder / f"{name}.npy"
            try:
                arrays[name] = np.load(path, mmap_mode="r" if about["steps"] else None, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise FormatError(
                    f"{path}: missing, truncated or foreign ({error}); build the sequences again"
                ) from error
            if name != "offsets" and len(arrays[name]) != about["steps"]:
                raise FormatError(f"{path}: {len(arrays[name])} steps, sequences.json says {about['steps']}")
        try:
            users = pl.read_parquet(folder / "users.parquet")["user"].to_list()
            items = pl.read_parquet(folder / "items.parquet")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise FormatError(f"{folder}: users.parquet or items.parquet cannot be read ({error})") from error
        offsets, width = arrays["offsets"], len(about["kinds"])
        if offsets.shape != (len(users) + 1,) or offsets[0] != 0 or offsets[-1] != about["steps"]:
            raise FormatError(f"{folder / 'offsets.npy'}: does not divide {about['steps']} steps by {len(users)} users")
        if arrays["feedback"].shape != (about["steps"], width):
            raise FormatError(f"{folder / 'feedback.npy'}: shape {arrays['feedback'].shape}, expected {width} kinds")
        names = tuple(about.get("profile_names", ()))
        profile = None
        if names:
            try:
                profile = np.load(folder / "profile.npy", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise FormatError(f"{folder / 'profile.npy'}: missing or damaged ({error})") from error
            if profile.shape != (len(users), len(names)):
                raise FormatError(f"{folder / 'profile.npy'}: shape {profile.shape}, expected {len(users), len(names)}")
        return cls(
            **arrays,
            kinds=tuple(FeedbackKind(**kind) for kind in about["kinds"]),
            exposures=about["exposures"],
            users=users,
            items=items,
            name=about["name"],
            notes=tuple(about["notes"]),
            profile=profile,
            profile_names=names,
        )


def windows(sequences: Sequences, steps: IntArray, length: int) -> tuple[IntArray, FloatArray]:
    """The history before each given step: items (Q, L) and feedback (Q, L, F), padded on the left with 0."""
    return cut(sequences, sequences.offsets[sequences.user_of_step[steps]], steps, length)


def cut(sequences: Sequences, first: IntArray, last: IntArray, length: int) -> tuple[IntArray, FloatArray]:
    """The last `length` steps of first .. last - 1, for each pair of (Q,) bounds: (Q, L) and (Q, L, F), left-padded."""
    place = last[:, None] + np.arange(-length, 0)  # (Q, L)
    there = place >= first[:, None]
    place = np.where(there, place, 0)
    items = np.where(there, sequences.item[place], 0).astype(np.int64)
    feedback = np.where(there[:, :, None], sequences.feedback[place], np.float32(0))
    return items, feedback


@dataclass(frozen=True, eq=False)
class Starts:
    """Where sessions start: P logged users with what they had met by then."""

    user: Tensor  # (P,) int64: index into `Sequences.users`
    items: Tensor  # (P, L) int64, left-padded
    feedback: Tensor  # (P, L, F) float32
    time: Tensor | None = None  # (P,) int64 seconds since the epoch; None: not known
    profile: Tensor | None = None  # (P, X) float32 features of the user; None: the log has none

    def __post_init__(self) -> None:
        """Check the shapes."""
        if not len(self.user) or self.items.shape[0] != len(self.user) or self.feedback.shape[:2] != self.items.shape:
            raise ValueError(
                f"starts need user (P,), items (P, L) and feedback (P, L, F) with P > 0, got shapes "
                f"{tuple(self.user.shape)}, {tuple(self.items.shape)} and {tuple(self.feedback.shape)}"
            )

    @classmethod
    def of(cls, sequences: Sequences, sessions: IntArray, length: int) -> Starts:
        """The starts of the given sessions (P,) of `sequences`, with the last `length` steps before each."""
        first = sequences.session_bounds[sessions]  # (P,)
        items, feedback = windows(sequences, first, length)
        user = sequences.user_of_step[first]
        time = torch.from_numpy(np.asarray(sequences.time[first], np.int64))
        profile = None if sequences.profile is None else torch.from_numpy(sequences.profile[user])
        return cls(torch.from_numpy(user), torch.from_numpy(items), torch.from_numpy(feedback), time, profile)


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover 0..count - 1 in order."""
    return (slice(first, min(first + size, count)) for first in range(0, count, size))
