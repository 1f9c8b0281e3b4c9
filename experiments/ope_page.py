"""What people read of an appraisal: for now the estimates as a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from recgym.files import write_bytes

COLUMNS = (
    "per",
    "policy",
    "estimator",
    "value",
    "low",
    "high",
    "level",
    "effective_sample_size",
    "verdict",
    "warnings",
)


def write_pages(document: dict[str, Any], folder: Path) -> list[Path]:
    """Write `estimates.csv` from the content of `appraisal.json`; a value that is not known is blank."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for one in document["appraisals"]:
        for policy in one["policies"]:
            for estimate in policy["estimates"]:
                line = {name: estimate[name] for name in COLUMNS if name in estimate}
                line |= {"per": one["per"], "policy": policy["policy"], "warnings": "; ".join(estimate["warnings"])}
                writer.writerow(line)
    path = folder / "estimates.csv"
    write_bytes(path, out.getvalue().encode())
    return [path]
