"""The page says what the appraisal holds: one sentence first, the same numbers everywhere, readable by everyone."""

from __future__ import annotations

import csv
import re
import warnings
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from experiments.ope.page import write_pages
from experiments.ope.plots import DARK, LIGHT, along
from experiments.ope.words import number, said, verdict
from recgym.files import FormatError
from tests.experiments.ope.appraised import bandit, document, full
from tests.experiments.ope.browser import Browser, chromium


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    write_pages(full(), folder)
    return folder


def test_the_sentence_on_top_is_what_the_logs_support() -> None:
    found = verdict(document(bandit("new", "close", "worst")))
    assert found.headline.tone == "good"
    assert re.fullmatch(
        r"The logs support switching to new: \+0\.\d+ \[\+0\.\d+, \+0\.\d+\] clicks an impression \(\+\d+%\) over "
        r"production\.", found.headline.text,
    )  # fmt: skip
    names = [one.text.split()[0] for one in found.groups[0][1]]
    assert names[0] == "worst" and names[-1] == "new"


def test_without_a_winner_it_says_so_and_what_test_would_settle_it() -> None:
    (of_one, worse) = verdict(document(bandit("close", count=900))), verdict(document(bandit("worst")))
    assert of_one.headline.text.startswith("No policy can be told from production; the best of them, close, differs")
    assert "as many users as the log has finds ±" in of_one.headline.text
    assert worse.headline.text.startswith("Keep production: the best that the logs can value, worst, earns less")


def test_what_the_logs_cannot_say_is_withheld_with_a_cure() -> None:
    mute = deepcopy(document(bandit("new")))
    policy = mute["appraisals"][0]["policies"][0]
    policy["difference"] = None
    for one in policy["estimates"]:
        one.update(verdict="cannot say", warnings=["the 6,000 logged impressions are worth 2 of its own; log more"])
    found = verdict(mute)
    assert found.headline.tone == "alarm"
    assert found.headline.text == (
        "The logs cannot say what new would earn an impression: the 6,000 logged impressions are worth 2 of its own; "
        "log more."
    )


def test_where_sessions_are_silent_impressions_speak() -> None:
    both = deepcopy(document(bandit("new"), bandit("new")))
    first = both["appraisals"][0] = {**both["appraisals"][0], "per": "session"}
    first["policies"][0]["difference"] = None
    found = verdict(both)
    assert found.headline.tone == "good" and "the rest of the session is not counted" in found.groups[1][0]
    assert found.headline.text.startswith(
        "The logs cannot say what new would earn a session. By impression alone: The logs support switching to new: +"
    )


def test_a_failed_negative_control_takes_the_advice_back() -> None:
    found = verdict(full())
    assert "its negative control 'reward before the choice' failed: test before switching" in found.headline.text
    assert any("the weights carry what was known before" in one.text for one in found.alarms)


def test_csv_markdown_and_page_hold_the_same_numbers(pages: Path) -> None:
    page, text = (pages / "report.html").read_text(), (pages / "report.md").read_text()
    with (pages / "estimates.csv").open() as file:
        lines = list(csv.DictReader(file))
    every = [(a["per"], p, e) for a in full()["appraisals"] for p in a["policies"] for e in p["estimates"]]
    assert len(lines) == len(every)
    for line, (per, policy, estimate) in zip(lines, every, strict=True):
        assert (line["per"], line["policy"], line["estimator"]) == (per, policy["policy"], estimate["estimator"])
        if estimate["verdict"] == "cannot say" or estimate["value"] is None:
            assert line["value"] == ""
        else:
            assert float(line["value"]) == estimate["value"]
            assert said(estimate) in page and said(estimate) in text
    with (pages / "differences.csv").open() as file:
        for line in csv.DictReader(file):
            shown = said({key: float(line[key]) for key in ("value", "low", "high")}, signed=True)
            assert shown in page and shown in text
    assert (pages / "segments.csv").read_text().count("\n") == 1 + sum(
        len(policy["segments"]) for one in full()["appraisals"] for policy in one["policies"]
    )


def test_names_are_text_and_not_markup(pages: Path) -> None:
    for name in ("report.html", "report.md"):
        text = (pages / name).read_text()
        assert "stubborn &lt;b" in text and "stubborn <b" not in text


def test_nothing_comes_from_elsewhere(pages: Path) -> None:
    page = (pages / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page)
    assert "<script" not in page and "url(http" not in page and "@import" not in page


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "soft", "good", "care", "alarm", "blue"])
def test_type_stands_out_from_paper_and_card(scheme: dict[str, str], name: str) -> None:
    """WCAG 2.2, success criterion 1.4.3: at least 4.5 to 1."""
    for ground in ("paper", "card"):
        bright, dim = sorted((_luminance(scheme[name]), _luminance(scheme[ground])), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5


def test_numbers_have_the_digits_that_their_interval_bears() -> None:
    assert said({"value": 0.123456, "low": 0.1, "high": 0.15}) == "0.123 [0.100, 0.150]"
    assert said({"value": 12.3456, "low": -80.0, "high": 120.0}, signed=True) == "+12 [-80, +120]"
    assert said({"value": None, "low": None, "high": None}) == "n/a"
    assert number(1234567.0) == "1,234,567"
    assert number(-0.0000001, 1.0) == "-0.00" and number(0.0, 1.0, signed=True) == "0.00"


def test_foreign_documents_are_refused_by_field() -> None:
    for change, words in (
        ({"format": "other"}, "field 'format' is 'other', expected 'recgym-appraisal'"),
        ({"version": 2}, "field 'version' is 2, expected 1"),
        ({"appraisals": []}, "field 'appraisals' is empty"),
        ({"folds": {"nobody": []}}, "'folds' has 'nobody', expected one of new, close"),
    ):
        with pytest.raises(FormatError, match=words):
            write_pages({**full(), **change}, Path("nowhere"))


DRAWN = """[...document.querySelectorAll('figure svg')].map(one => {
    const box = one.getBBox(), shown = one.getBoundingClientRect();
    return [box.width, box.height, shown.width, shown.height, one.querySelectorAll('path').length];
})"""
LINKS = "[...document.querySelectorAll('a[href^=\"#\"]')].filter(one => !document.querySelector(one.hash)).length"
NAMELESS = """[...document.querySelectorAll('figure svg')].filter(one =>
    one.getAttribute('role') !== 'img' || !document.getElementById(one.getAttribute('aria-labelledby')).textContent
).length"""
BARE = """[...document.querySelectorAll('figure')].filter(one => !one.querySelector('table')).length
    + [...document.querySelectorAll('th:not([scope])')].length"""


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium here to open the page in")
def test_a_browser_draws_everything_and_complains_of_nothing(pages: Path, tmp_path: Path) -> None:
    path = chromium()
    assert path is not None
    with Browser(path, tmp_path) as browser:
        for width, dark in ((1280, False), (390, True)):
            browser.open(pages / "report.html", width=width, dark=dark)
            assert not _complaints(browser.events)
            assert browser.run("document.scrollingElement.scrollWidth") <= width
            drawn = browser.run(DRAWN)
            assert len(drawn) == (pages / "report.html").read_text().count("<figure>") > 10
            assert all(min(box) > 0 for box in drawn)
            assert browser.run(LINKS) == browser.run(NAMELESS) == browser.run(BARE) == 0
            levels = browser.run("[...document.querySelectorAll('h1,h2,h3')].map(one => +one.tagName[1])")
            assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
        browser.open(pages / "report.html", width=800, dark=True, media="print")
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def _complaints(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Errors, words on the console, and requests for anything but the page and what stands in it."""
    found = []
    for one in events:
        method, params = one.get("method", ""), one.get("params", {})
        asked = params.get("request", {}).get("url", "file:")
        if method in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            found.append(one)
        if method == "Network.requestWillBeSent" and not asked.startswith(("file:", "data:")):
            found.append(one)
    return found


def _luminance(code: str) -> float:
    """Relative luminance of #rrggbb, WCAG 2.2."""
    parts = [int(code[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_session_without_any_weight_is_drawn_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        along([0.0, 0.0]).canvas.draw()
