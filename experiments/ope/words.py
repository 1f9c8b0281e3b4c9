"""What an appraisal says in words: one sentence first, then each policy, the worst news before the best.

Everything reads the document `appraisal.json`: dicts and lists as JSON has them, null where a number is not known.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from experiments.verdict import Sentence, Tone

Fields = dict[str, Any]
UNITS = {"session": "a session", "step": "an impression"}
ALONE = ", in the contexts that were logged: what a choice does to the rest of the session is not counted"
MARKS = {"supported": "●", "weak": "◇", "cannot say": "✕"}
"""The plots' shapes, so that no verdict rests on colour."""


class Verdict(NamedTuple):
    """What stands on top of the page."""

    headline: Sentence
    alarms: list[Sentence]
    groups: list[tuple[str, list[Sentence]]]
    """A title for each unit of value, and a sentence for each policy."""


def verdict(document: Fields) -> Verdict:
    """The headline speaks of the first appraisal; the groups of all."""
    failed = failures(document)
    both = len(appraisals(document)) > 1
    groups = [
        (
            f"By {UNITS[one['per']].split()[1]}{ALONE if both and one['per'] == 'step' else ''}",
            policy_sentences(one, unit_of(document)),
        )
        for one in appraisals(document)
    ]
    top = headline(appraisals(document)[0], failed, unit_of(document))
    return Verdict(_with_the_next(top, document), _alarms(document), groups)


def _with_the_next(top: Sentence, document: Fields) -> Sentence:
    """Where the logs cannot say what a session is worth, what they say of an impression belongs on top too."""
    first, *rest = appraisals(document)
    if top.tone != "alarm" or not rest:
        return top
    failed = failures({"controls": rest[0].get("controls")})
    following = headline(rest[0], failed, unit_of(document))
    if following.tone == "alarm":
        return top
    which = _which([one["policy"] for one in first["policies"]])
    start = f"The logs cannot say what {which} would earn {UNITS[first['per']]}"
    return Sentence(f"{start}. By {UNITS[rest[0]['per']].split()[1]} alone: {following.text}", following.tone)


def appraisals(document: Fields) -> list[Fields]:
    """One for each unit of value."""
    found: list[Fields] = document["appraisals"]
    return found


def unit_of(document: Fields) -> str:
    """What is earned: the source's "reward", such as "clicks"."""
    return str((document.get("source") or {}).get("reward") or "reward")


def chosen(policy: Fields) -> Fields:
    """The estimate that speaks for a policy."""
    found: Fields = next(one for one in policy["estimates"] if one["estimator"] == policy["chosen"])
    return found


def answered(estimate: Fields) -> bool:
    """Whether its value may be shown: the log can say, and there is one."""
    return estimate["verdict"] != "cannot say" and estimate["value"] is not None


def failures(document: Fields) -> dict[str, list[Fields]]:
    """Negative controls that failed, by policy."""
    controls: dict[str, list[Fields]] = document.get("controls") or {}
    found = {name: [one for one in some if one["passed"] is False] for name, some in controls.items()}
    return {name: some for name, some in found.items() if some}


def said(one: Fields | None, *, signed: bool = False) -> str:
    """Value [low, high], to two digits of the half-width; n/a where it is not known."""
    if one is None or one.get("value") is None:
        return "n/a"
    low, high = one.get("low"), one.get("high")
    if low is None or high is None:
        return number(one["value"], signed=signed)
    ends = ", ".join(number(end, high - low, signed=signed) for end in (low, high))
    return f"{number(one['value'], high - low, signed=signed)} [{ends}]"


def number(value: float | None, width: float = 0.0, *, signed: bool = False) -> str:
    """A number to two digits of half of `width`, or to three of its own; n/a where it is not known."""
    if value is None or not math.isfinite(value):
        return "n/a"
    size = width / 2 or abs(value) / 10
    decimals = min(max(0, 1 - math.floor(math.log10(size))), 9) if size > 0 else 0
    text = f"{value:+,.{decimals}f}" if signed else f"{value:,.{decimals}f}"
    return text.lstrip("+-") if value == 0 else text  # a rounded one keeps its side of 0


def relative(policy: Fields, appraisal: Fields) -> str:
    """The difference as a share of what production earns, or n/a."""
    base, difference = appraisal["production"]["value"], policy["difference"]
    if not base or difference is None or difference["value"] is None:
        return "n/a"
    share = difference["value"] / abs(base)
    return f"{share:+.0%}" if abs(share) >= 0.1 else f"{share:+.1%}"


def headline(appraisal: Fields, failed: dict[str, list[Fields]], unit: str = "reward") -> Sentence:
    """One sentence: switch, do not, cannot be told, or the logs cannot say."""
    told = [one for one in appraisal["policies"] if one["difference"] is not None and answered(chosen(one))]
    if not told:
        return _mute(appraisal)
    better = [one for one in told if one["statement"] == "better"]
    top = max(better or told, key=lambda one: (_sure(one, failed), one["difference"]["value"]))
    name, gain = top["policy"], said(top["difference"], signed=True)
    margin = f"{gain} {unit} {UNITS[appraisal['per']]} ({relative(top, appraisal)})"
    if better and _sure(top, failed):
        return Sentence(f"The logs support switching to {name}: {margin} over production.", "good")
    if better:
        return Sentence(
            f"The logs lean to {name}, {margin} over production, but {_doubt(top, failed)}: test before switching.",
            "bad",
        )
    if all(one["statement"] == "worse" for one in told):
        return Sentence(f"Keep production: the best that the logs can value, {name}, earns less, {margin}.", "bad")
    worse = [one["policy"] for one in told if one["statement"] == "worse"]
    open_ = [one for one in told if one["statement"] != "worse"]
    near = max(open_, key=lambda one: one["difference"]["value"])
    margin = f"{said(near['difference'], signed=True)} {unit} {UNITS[appraisal['per']]}"
    start = "No policy is shown to earn more than production" if worse else "No policy can be told from production"
    return Sentence(f"{start}; the best of them, {near['policy']}, differs by {margin}{_needed(near)}.", "plain")


def policy_sentences(appraisal: Fields, unit: str = "reward") -> list[Sentence]:
    """A sentence for each policy, the worst news first."""
    return [_of(one, appraisal, unit) for one in sorted(appraisal["policies"], key=_news)]


def corrected(appraisal: Fields) -> str:
    """How the differences are corrected for the number of policies."""
    level, count = appraisal["level"], sum(one["difference"] is not None for one in appraisal["policies"])
    if count < 2:
        return f"Intervals are {level:.0%}, over users."
    return (
        f"Differences are corrected for {count} policies: their {level:.0%} intervals hold together (max-t over "
        "users), and better or worse is said by a step-down test, so that with the same chance none of it is false."
    )


def reason(estimate: Fields) -> str:
    """The first warning that also names a cure, or the first, without its full stop."""
    words: list[str] = list(estimate.get("warnings") or [])
    text = next((one for one in words if ";" in one), words[0] if words else "no reason was recorded")
    return text.rstrip(".")


def _which(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"any of {len(names)} policies"


def _mute(appraisal: Fields) -> Sentence:
    names = [one["policy"] for one in appraisal["policies"]]
    why = reason(chosen(appraisal["policies"][0])) if names else "there is no policy"
    start = f"The logs cannot say what {_which(names)} would earn {UNITS[appraisal['per']]}"
    return Sentence(f"{start}: {why if len(names) == 1 else f'of {names[0]}, {why}'}.", "alarm")


def _of(policy: Fields, appraisal: Fields, unit: str) -> Sentence:
    name, estimate, difference = policy["policy"], chosen(policy), policy["difference"]
    if not answered(estimate):
        return Sentence(f"{name}: the logs cannot say what it would earn: {reason(estimate)}.", "alarm")
    value = f"{name} ({MARKS[estimate['verdict']]} {estimate['verdict']}) would earn {said(estimate)} {unit}"
    weak = f" Weak: {reason(estimate)}." if estimate["verdict"] == "weak" else ""
    if difference is None:
        return Sentence(f"{value}; it was not compared to production.{weak}")
    margin = f"{said(difference, signed=True)} ({relative(policy, appraisal)})"
    if policy["statement"] == "undecided":
        return Sentence(f"{value}; it cannot be told from production: {margin}{_needed(policy)}.{weak}")
    more = "more" if policy["statement"] == "better" else "less"
    tone: Tone = "bad" if more == "less" else "good" if estimate["verdict"] == "supported" else "plain"
    return Sentence(f"{value}, {more} than production: {margin}.{_touches(policy)}{weak}", tone)


def _news(policy: Fields) -> tuple[int, int, float]:
    """Worst first: no answer, worse, undecided, better; in each, weak before supported, then by the difference."""
    if not answered(chosen(policy)):
        return 0, 0, 0.0
    place = {"worse": 1, "undecided": 2, "better": 3}.get(policy["statement"], 2)
    difference = policy["difference"]["value"] if policy["difference"] else 0.0
    return place, int(chosen(policy)["verdict"] == "supported"), difference


def _sure(policy: Fields, failed: dict[str, list[Fields]]) -> bool:
    return chosen(policy)["verdict"] == "supported" and policy["policy"] not in failed and not _touches(policy)


def _doubt(policy: Fields, failed: dict[str, list[Fields]]) -> str:
    if some := failed.get(policy["policy"]):
        return f"its negative control {some[0]['name']!r} failed"
    if chosen(policy)["verdict"] == "weak":
        return "only weakly (why: below)"
    return "the interval that holds for all policies at once reaches 0"


def _touches(policy: Fields) -> str:
    """Said where the step-down test is surer than the joint interval."""
    low, high = policy["difference"]["low"], policy["difference"]["high"]
    return " The interval that holds for all policies at once reaches 0." if low <= 0 <= high else ""


def _needed(policy: Fields) -> str:
    """The test that would settle it, the estimate's own error counted."""
    test = policy.get("test")
    if not test:
        return ""
    sure = test["assured"] and chosen(policy)["verdict"] == "supported"
    size = f"; an A/B test of {test['assured']:,} users would settle it" if sure else ""
    return size + f"; a test on as many users as the log has finds ±{number(test['detectable'])}"


def _alarms(document: Fields) -> list[Sentence]:
    found = [
        Sentence(f"{name}: the negative control {one['name']!r} failed: {'; '.join(_words(one['words']))}", "alarm")
        for name, some in failures(document).items()
        for one in some
    ]
    for name, words in (document.get("disagreement") or {}).items():
        found += [Sentence(f"{name}: {text}", "bad") for text in _words(words)]
    return found


def _words(words: str | list[str]) -> list[str]:
    return [words] if isinstance(words, str) else list(words)
