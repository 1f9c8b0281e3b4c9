"""The page that is forwarded before an A/B test: HTML, Markdown and CSV of one appraisal, with the same numbers."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from experiments.ope.parts import Section
from experiments.ope.plots import DARK, LIGHT, paint
from experiments.ope.sections import sections
from experiments.ope.words import Fields, answered, appraisals, chosen, relative, verdict
from recgym.files import FormatError, write_bytes


def write_pages(document: dict[str, Any], folder: Path) -> list[Path]:
    """Write report.html, report.md, estimates.csv, and differences.csv and segments.csv where there are any.

    Args:
        document: of format "recgym-appraisal", version 1, as in `appraisal.json`.
        folder: where to.

    Raises:
        FormatError: the document is of another format or version, holds no appraisal, or a section names a policy
            that no appraisal has.
    """
    for name, wanted in (("format", "recgym-appraisal"), ("version", 1)):
        if document.get(name) != wanted:
            raise FormatError(f"appraisal.json: field {name!r} is {document.get(name)!r}, expected {wanted!r}")
    if not document.get("appraisals"):
        raise FormatError("appraisal.json: field 'appraisals' is empty, expected one for each unit of value")
    made = sections(document)
    texts = {"report.html": html(document, made), "report.md": markdown(document, made)}
    texts |= {name: _csv(rows) for name, rows in tables(document).items() if rows}
    for name, text in texts.items():
        write_bytes(folder / name, text.encode())
    return [folder / name for name in texts]


def html(document: Fields, made: list[Section]) -> str:
    """The page: no script, no font, nothing from elsewhere."""
    environment = Environment(
        loader=PackageLoader("experiments"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    drawn = {
        (section.anchor, place): Markup(paint(part.figure, f"{section.anchor}-{place}", part.title))
        for section in made
        for place, part in enumerate(section.parts)
        if part.figure is not None
    }
    return environment.get_template("ope.html.jinja").render(
        first=appraisals(document)[0],
        verdict=verdict(document),
        notes=document.get("notes") or [],
        sections=made,
        drawn=drawn,
        facts=facts(document),
        light=LIGHT,
        dark=DARK,
    )


def markdown(document: Fields, made: list[Section]) -> str:
    """The same words and tables for a pull request."""
    spoken = verdict(document)
    lines = [f"**{_plain(spoken.headline.text)}**", ""]
    lines += [f"- ⚠ {_plain(one.text)}" for one in spoken.alarms]
    for title, group in spoken.groups:
        lines += ["", f"{title}:", "", *(f"- {_plain(one.text)}" for one in group)]
    lines += ["", *(f"> {_plain(note)}" for note in document.get("notes") or [])]
    for section in made:
        lines += ["", f"## {section.title}", "", *(_plain(text) for text in section.words)]
        for part in section.parts:
            lines += ["", f"### {_plain(part.title)}", "", _plain(part.note), "", _row(part.columns)]
            lines += [_row(["---"] * len(part.columns)), *(_row(row) for row in part.rows)]
    lines += [
        "",
        "## How this was made",
        "",
        *(f"- {_plain(name)}: {_plain(value)}" for name, value in facts(document)),
    ]
    return "\n".join(lines) + "\n"


def tables(document: Fields) -> dict[str, list[Fields]]:
    """The rows of each CSV file, numbers as in the document; those that may not be shown are empty."""
    found: dict[str, list[Fields]] = {"estimates.csv": [], "differences.csv": [], "segments.csv": []}
    for appraisal in appraisals(document):
        for policy in appraisal["policies"]:
            who = {"per": appraisal["per"], "policy": policy["policy"]}
            for one in policy["estimates"]:
                speaks = {"chosen": "yes" if one["estimator"] == policy["chosen"] else "no"}
                found["estimates.csv"].append({**who, **speaks, **_estimate(one)})
            if policy["difference"] is not None:
                found["differences.csv"].append({**who, **_difference(policy, appraisal)})
            for one in policy["segments"]:
                part = {"segment": one["name"], "part": one["label"], "episodes": one["episodes"]}
                base = {f"production_{key}": one["production"][key] for key in ("value", "low", "high")}
                found["segments.csv"].append({**who, **part, **_estimate(one["estimate"]), **base})
    return found


def facts(document: Fields) -> list[tuple[str, str]]:
    """What the logs were, and how the page was made."""
    source, made = document.get("source") or {}, document.get("provenance") or {}
    found = [(str(name), str(value)) for name, value in source.get("facts") or []]
    for name in ("command", "commit", "versions", "seconds"):
        value = made.get(name)
        if isinstance(value, dict):
            value = ", ".join(f"{key} {one}" for key, one in value.items())
        if value is not None:
            found.append((name, str(value)))
    return found


def _estimate(one: Fields) -> Fields:
    numbers = {key: one[key] if answered(one) else None for key in ("value", "low", "high")}
    rest = {key: one[key] for key in ("level", "effective_sample_size", "sample_size", "verdict")}
    return {"estimator": one["estimator"], **numbers, **rest, "warnings": "; ".join(one["warnings"] or [])}


def _difference(policy: Fields, appraisal: Fields) -> Fields:
    numbers = {key: policy["difference"][key] for key in ("value", "low", "high", "level")}
    test = policy["test"] or {"users": None, "assured": None, "detectable": None}
    return {
        "estimator": policy["chosen"], **numbers, "relative": relative(policy, appraisal),
        "statement": policy["statement"], "verdict": chosen(policy)["verdict"],
        "users_assured": test["assured"] or None, "users_if_true": test["users"] or None,
        "log_size_finds": test["detectable"],
    }  # fmt: skip


def _csv(rows: list[Fields]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text that is neither HTML nor a column of a table."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
