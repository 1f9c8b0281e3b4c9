"""Download a published log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from recgym.logs.download import DATASETS, download


@dataclass(frozen=True, kw_only=True)
class Download:
    """Download a published log, with checksum; an interrupted download is gone on with."""

    name: tyro.conf.Positional[str]
    """Which log: ml-100k, ml-1m, ml-10m, ml-20m, ml-25m, ml-32m, ml-latest-small or ml-latest."""
    out: Path = Path("logs")
    """Folder that gets a folder of that name."""

    def __call__(self) -> None:
        """Run the stage."""
        folder = download(self.name, self.out)
        print(f"{folder}  (terms: {DATASETS[self.name].terms})")
        print(f"next: python -m experiments quickstart --logs {folder} --format {DATASETS[self.name].format}")
