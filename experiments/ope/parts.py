"""What the page is made of: a table with its plot under a heading, and how numbers become their rows and points."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from experiments.ope.plots import Point
from experiments.ope.words import MARKS, Fields, answered, appraisals, said
from recgym.files import FormatError

Rows = list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One table, and its plot if it has one."""

    title: str
    note: str
    columns: list[str]
    rows: Rows
    figure: Figure | None = None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading of the page."""

    anchor: str
    title: str
    parts: list[Part]
    words: tuple[str, ...] = ()


def named(document: Fields, section: str, appraisal: Fields | None = None) -> Fields:
    """An optional section, by policy; {} where it was not made.

    Raises:
        FormatError: it names a policy that the appraisal does not have.
    """
    found: Fields = document.get(section) or {}
    names = [one["policy"] for one in (appraisal or appraisals(document)[0])["policies"]] + ["production"]
    if strange := [name for name in found if name not in names]:
        raise FormatError(f"appraisal.json: {section!r} has {strange[0]!r}, expected one of {', '.join(names)}")
    return found


def point(label: str, one: Fields | None, mark: str, *, hollow: bool = False, beside: Fields | None = None) -> Point:
    """A row of a forest; without a value where the log cannot say."""
    if one is None or one["value"] is None or one.get("verdict") == "cannot say":
        return Point(label=label, value=None, beside=beside)
    return Point(
        label=label, value=one["value"], low=one["low"], high=one["high"], mark=mark, hollow=hollow, beside=beside
    )


def shown(estimate: Fields) -> str:
    """The value with its interval, where it may be shown."""
    return said(estimate) if answered(estimate) else "n/a"


def mark(verdict: str) -> str:
    """The verdict with its shape."""
    return f"{MARKS[verdict]} {verdict}"


def why(estimate: Fields) -> str:
    """All warnings."""
    return "; ".join(estimate["warnings"] or [])


def share(value: float | None) -> str:
    """A percentage."""
    return "n/a" if value is None else f"{value:.1%}"
