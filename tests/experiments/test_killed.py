"""A process killed in the middle of a stage leaves a folder from which --resume goes on to the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recgym.backbones.backbone import fingerprint, load_backbone
from recgym.logs.readers.native import sample_log, write_native

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.experiments


def command(out: Path, logs: Path, *more: str) -> list[str]:
    settings = ["--backbone.width", "8", "--backbone.layers", "1", "--training.epochs", "6", "--users.epochs", "1"]
    return [sys.executable, "-m", "experiments", "fit", "--out", str(out), "--logs", str(logs), *settings, *more]


def test_a_killed_fit_resumes(tmp_path: Path) -> None:
    log = sample_log()
    first = log.events["user"].unique().sort()[:150]
    write_native(log.with_events(log.events.filter(log.events["user"].is_in(first.implode()))), tmp_path / "logs")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    checkpoint = tmp_path / "killed" / "backbone-training" / "checkpoints" / "last.pt"
    started = subprocess.Popen(
        command(tmp_path / "killed", tmp_path / "logs"), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not checkpoint.exists() and started.poll() is None:
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    for out, more in (("killed", ["--resume"]), ("whole", [])):
        done = subprocess.run(
            command(tmp_path / out, tmp_path / "logs", *more), cwd=ROOT, env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    curves = [(tmp_path / out / "backbone-training" / "log.jsonl").read_text() for out in ("killed", "whole")]
    losses = [[json.loads(line)["loss"] for line in curve.splitlines()] for curve in curves]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(fingerprint(load_backbone(tmp_path / "killed" / "backbone"))) == 16
    leftovers = [path for path in (tmp_path / "killed").rglob("*") if path.name.endswith((".tmp", ".old"))]
    assert len(leftovers) <= 1  # what was being written when it died, under a name that nothing reads
