"""Readers of published formats: `read_log(folder, format)` and the registry `READERS`.

A reader is a function (folder, *, on_bad_rows) -> InteractionLog; `register_reader` adds one from anywhere.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from recgym.logs.log import InteractionLog, LogError
from recgym.logs.tables import OnBadRows

READERS: dict[str, str] = {
    "recgym": "recgym.logs.readers.native:read_native",
    "movielens": "recgym.logs.readers.movielens:read_movielens",
    "yoochoose": "recgym.logs.readers.yoochoose:read_yoochoose",
    "retailrocket": "recgym.logs.readers.retailrocket:read_retailrocket",
    "amazon": "recgym.logs.readers.amazon:read_amazon",
    "open-bandit": "recgym.logs.readers.open_bandit:read_open_bandit",
}
"""Entry point ("module:function") of the reader of each format."""


class Reader(Protocol):
    """Reads the files of one published format."""

    def __call__(self, folder: Path, *, on_bad_rows: OnBadRows = "error") -> InteractionLog:
        """The log in `folder`."""
        ...


def register_reader(format: str, entry_point: str) -> None:
    """Let `read_log` read `format` with the function at "module:function".

    Raises:
        ValueError: the entry point is not "module:function", or the format has another reader.
    """
    module, _, attribute = entry_point.partition(":")
    if not (module and attribute.isidentifier()):
        raise ValueError(f"entry point of format {format!r} is {entry_point!r}, expected 'module:function'")
    if READERS.get(format, entry_point) != entry_point:
        raise ValueError(f"format {format!r} already has the reader {READERS[format]!r}; choose another name")
    READERS[format] = entry_point


def read_log(folder: Path | str, format: str = "recgym", *, on_bad_rows: OnBadRows = "error") -> InteractionLog:
    """Read the interaction log in `folder`.

    Args:
        folder: the folder as published and unpacked.
        format: a key of `READERS`.
        on_bad_rows: "error" refuses a log with a bad row; "drop" drops such rows and counts them in `repairs`.

    Raises:
        LogError: the format is unknown, a file is missing, or a row is bad.
    """
    folder = Path(folder)
    if format not in READERS:
        raise LogError(f"no reader for format {format!r}; there are {', '.join(sorted(READERS))}")
    if not folder.is_dir():
        raise LogError(f"{folder}: not a folder; give the folder with the log's files")
    module, _, attribute = READERS[format].partition(":")
    reader = cast("Reader", getattr(importlib.import_module(module), attribute))
    return reader(folder, on_bad_rows=on_bad_rows)
