"""What `appraisal.json` holds, of a run and of a log alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from recgym.ope.appraisal import Appraisal

APPRAISAL = {"format": "recgym-appraisal", "version": 1}


def document(judged: Sequence[Appraisal], diagnosed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The appraisals, each with the sections of its diagnostics; those of the first, which pages show, also on top."""
    shown: list[dict[str, Any]] = []
    for one, made in zip(judged, diagnosed, strict=True):
        line = asdict(one)
        for policy, report in zip(line["policies"], one.policies, strict=True):
            policy["estimate"] = asdict(report.estimate)
        shown.append({**line, **made})
    found: dict[str, Any] = jsonable({**APPRAISAL, "appraisals": shown, **(diagnosed[0] if diagnosed else {})})
    return found


def jsonable(value: Any) -> Any:
    """The same for JSON, which knows no tuple, no numpy and no nan: lists, numbers and null."""
    if isinstance(value, dict):
        return {str(key): jsonable(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [jsonable(one) for one in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value
