"""The command line: `python -m experiments STAGE`. Every option is a field of the stage's dataclass."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import tyro

from experiments.abtest import AbTest
from experiments.audit import Audit
from experiments.bench import Bench
from experiments.coat_audit import CoatAudit
from experiments.download import Download
from experiments.evaluate import Evaluate
from experiments.fit import Fit
from experiments.ladder import Ladder
from experiments.lives import Lives
from experiments.quickstart import Quickstart
from experiments.report import Report
from experiments.sample import Sample
from experiments.train import Train
from experiments.worlds import Worlds

STAGES = (
    Quickstart, Download, Fit, Train, Evaluate, Lives, Report, Worlds, Ladder, Audit, CoatAudit, Bench, Sample, AbTest,
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the stage that the arguments name; the exit status."""
    if "OMP_NUM_THREADS" not in os.environ:  # two threads gain most; on a busy machine one is faster
        torch.set_num_threads(max(1, min(2, os.cpu_count() or 1)))
    stages: dict[str, Any] = {stage.__name__.lower(): stage for stage in STAGES}
    stage: Any = tyro.extras.subcommand_cli_from_dict(
        stages, prog="python -m experiments", description=__doc__, args=arguments,
        config=(tyro.conf.CascadeSubcommandArgs,),
    )  # fmt: skip
    try:
        stage()
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here, with --resume where it has that", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
