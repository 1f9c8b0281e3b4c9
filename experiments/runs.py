"""A run is a folder: where each stage finds what the one before left, and what is known of how it was made.

config.json      each stage's settings, versions, commit, data hash, seconds
log.jsonl        one line an event
log/ roles.npy backbone/ users/ fidelity.json written by fit
policies/NAME/seed-K/                        written by train (and evaluate, for the trivial ones)
scorecard.json scorecard.csv appraisal.json  written by evaluate
report.html logs/                            written by report
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recgym.files import FormatError, read_json, write_json

FORMAT, VERSION = "recgym-run", 1
_PACKAGES = ("recgym", "torch", "gymnasium", "stable-baselines3", "d3rlpy", "numpy", "polars")


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path

    @property
    def log(self) -> Path:
        """Sequences built from the interaction log."""
        return self.folder / "log"

    @property
    def roles(self) -> Path:
        """Role of each step: training, validation or test."""
        return self.folder / "roles.npy"

    @property
    def backbone(self) -> Path:
        """Trained backbone."""
        return self.folder / "backbone"

    @property
    def users(self) -> Path:
        """Learned users."""
        return self.folder / "users"

    @property
    def fidelity(self) -> Path:
        """How far to believe the users."""
        return self.folder / "fidelity.json"

    @property
    def scorecard(self) -> Path:
        """Scores of every policy."""
        return self.folder / "scorecard.json"

    @property
    def appraisal(self) -> Path:
        """What the logs say of every policy."""
        return self.folder / "appraisal.json"

    @property
    def ladder(self) -> Path:
        """The ladder's figures, where they were copied here."""
        return self.folder / "ladder.json"

    @property
    def report(self) -> Path:
        """The page that people read."""
        return self.folder / "report.html"

    @property
    def policies(self) -> Path:
        """One folder a policy, one below it a seed."""
        return self.folder / "policies"

    def policy(self, name: str, seed: int) -> Path:
        """Folder of one trained policy."""
        return self.policies / name / f"seed-{seed}"

    def config(self) -> dict[str, Any]:
        """What the stages wrote about themselves; empty stages where nothing ran yet."""
        path = self.folder / "config.json"
        if not path.exists():
            return {"format": FORMAT, "version": VERSION, "stages": {}}
        return read_json(path, format=FORMAT, version=VERSION)

    def need(self, path: Path, stage: str) -> Path:
        """`path`, which `stage` must have written.

        Raises:
            FormatError: it is not there, with the command that makes it.
        """
        if not path.exists():
            raise FormatError(f"{path}: not found; run `python -m experiments {stage}` on {self.folder} first")
        return path

    def record(self, event: str, **values: Any) -> None:
        """Append one line to log.jsonl."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), "event": event, **values}) + "\n")

    @contextmanager
    def stage(self, name: str, settings: object, **facts: Any) -> Iterator[dict[str, Any]]:
        """Time a stage; when the block ends well, note its settings and what the block put into the yielded dict."""
        started = time.perf_counter()
        self.record(f"{name} started")
        notes: dict[str, Any] = dict(facts)
        yield notes
        seconds = round(time.perf_counter() - started, 2)
        config = self.config()
        before = config["stages"].get(name, {})
        spent = seconds + (before.get("seconds", 0.0) if notes.pop("resumed", False) else 0.0)
        config["stages"][name] = {"settings": plain(settings), "seconds": round(spent, 2), **notes}
        config.update(versions=versions(), commit=commit(), command=" ".join(["python -m experiments", *sys.argv[1:]]))
        write_json(self.folder / "config.json", config)
        self.record(f"{name} finished", seconds=seconds)


def plain(settings: Any) -> Any:
    """Settings as JSON: dataclasses to objects, paths to text."""
    if is_dataclass(settings) and not isinstance(settings, type):
        return {field.name: plain(getattr(settings, field.name)) for field in fields(settings)}
    if isinstance(settings, dict):
        return {str(key): plain(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [plain(value) for value in settings]
    return str(settings) if isinstance(settings, Path) else settings


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape the numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """Commit of the checkout, with "+" where the tree differs from it; "unknown" outside one."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "") or "unknown"
    except FileNotFoundError:
        return "unknown"
