"""What the simulated users can and cannot be used to decide: answers in words, each with the figure behind it.

Sources: the held-out fit (`fidelity.json`), the scorecard (what policies show, what they earn, where the ensemble
disagrees), and, where they were run, the exploitation audit and the ladder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from experiments import cells
from experiments.audit import NAMES
from experiments.ladder import cell
from experiments.scorecard import Row, Scorecard
from experiments.verdict import pairs_in_order
from recgym.users.fidelity import CALIBRATION_ALARM, DISCRIMINATION_ALARM, LENGTH_ALARM, RETURN_ALARM

Answer = Literal["yes", "with care", "no", "not measured"]
Numbers = dict[str, Any]

COVERAGE_ALARM = 0.02
"""Share of the catalogue below which a policy shows next to nothing: any mistake about those items is all it earns."""
DOUBT_ALARM = 0.5
"""Disagreement a unit of reward above which a reward is guesswork."""
RATE_ALARM = 0.10
"""Relative error of a behaviour's rate above which it does not count as calibrated."""


@dataclass(frozen=True)
class Finding:
    """One use of the simulator."""

    question: str
    answer: Answer
    why: str


def findings(card: Scorecard, audit: Numbers | None, ladder: Numbers | None) -> tuple[Finding, ...]:
    """What may be decided with these users, the safest use first."""
    fidelity = card.fidelity or {}
    return (
        _like_the_logged(fidelity),
        _unlike_the_logged(card, ladder),
        _trained(audit),
        _absolute(fidelity, audit),
        _sessions(fidelity),
        _retention(fidelity),
        _cold(fidelity),
    )


def alarms(card: Scorecard, audit: Numbers | None) -> tuple[str, ...]:
    """What should make a reader stop: degenerate coverage, rewards beyond the logs, guesswork, exploitation."""
    found = []
    for row in card.rows:
        if row.family == "oracle" or not row.reward.known:
            continue
        if row.family == "trained" and row.coverage < COVERAGE_ALARM:
            found.append(
                f"{row.policy} shows only {row.coverage:.1%} of the catalogue: what it earns rests on those few items."
            )
        if card.logged_high is not None and row.reward.value > card.logged_high > 0:
            found.append(
                f"{row.policy} earns {row.reward.value:.2f} a session on average; only one logged session in a hundred "
                f"earned more than {card.logged_high:.2f}."
            )
        if row.doubt is not None and row.doubt > DOUBT_ALARM:
            found.append(
                f"The ensemble disagrees about {row.policy} by {row.doubt:.0%} of its reward: that reward is guesswork."
            )
    return (*found, *(audit["alarms"] if audit else ()))


def calibration(fidelity: Numbers) -> list[list[str]]:
    """Rows of the calibration table: behaviour, cases, logged and simulated rate, error, ECE, its noise, AUC."""
    rows = []
    parts = {**fidelity.get("kinds", {}), **({"leaving": fidelity["leave"]} if fidelity.get("leave") else {})}
    for name, numbers in parts.items():
        if numbers.get("rate") is None:
            if numbers.get("mean") is None:
                continue
            ratio = numbers["predicted_mean"] / numbers["mean"]
            rows.append([name, f"{numbers['cases']:,}", f"{numbers['mean']:.3g}", f"{numbers['predicted_mean']:.3g}",
                         f"{ratio - 1:+.1%}", "", "", f"r = {numbers['log_correlation']:.2f}"])  # fmt: skip
            continue
        ratio = numbers["predicted_rate"] / numbers["rate"] if numbers["rate"] else float("nan")
        rows.append([name, f"{numbers['cases']:,}", f"{numbers['rate']:.4f}", f"{numbers['predicted_rate']:.4f}",
                     f"{ratio - 1:+.1%}", _three(numbers.get("ece")), _three(numbers.get("ece_noise")),
                     f"AUC {_two(numbers.get('auc'))}"])  # fmt: skip
    return rows


def measures(fidelity: Numbers) -> list[tuple[str, str]]:
    """Everything else of the held-out fit, in words."""
    found = []
    length, distance = fidelity.get("mean_length"), fidelity.get("length_distance")
    if length:
        gap = f"; Kolmogorov-Smirnov distance {distance:.3f}" if distance is not None else ""
        found.append(("session length", f"logged {length['logged']:.2f}, simulated {length['simulated']:.2f}{gap}"))
    for title, group in (("repeats", fidelity.get("repeats")), ("cold starts", fidelity.get("cold"))):
        for name, numbers in (group or {}).items():
            if numbers["cases"]:
                found.append((f"{title}: {name}", _rates(numbers)))
    popular = fidelity.get("popularity") or {}
    if popular.get("correlation") is not None:
        found.append(
            (
                "popularity",
                f"correlation {popular['correlation']:.2f} of predicted and logged rates over {popular['items']} "
                f"items; spread {popular['spread']:.3f} logged, {popular['predicted_spread']:.3f} to be expected",
            )
        )
    moves = fidelity.get("transitions") or {}
    if moves.get("distance") is not None:
        found.append(
            (
                "category transitions",
                f"total variation {moves['distance']:.3f} between predicted and logged flows; chance alone gives "
                f"{moves['noise']:.3f} ({moves['cases']:,} transitions)",
            )
        )
    for name, numbers in (fidelity.get("returns") or {}).items():
        if name.startswith("within") and numbers["cases"]:
            found.append((f"back {name} day{'s' if name != 'within 1' else ''}", _rates(numbers)))
    return found


def _like_the_logged(fidelity: Numbers) -> Finding:
    question = "Compare policies that show much the same as the logged one"
    kinds = [numbers for numbers in fidelity.get("kinds", {}).values() if numbers.get("rate")]
    if not kinds:
        return Finding(question, "not measured", "There is no held-out fit.")
    first = kinds[0]
    error, ece = abs(first["predicted_rate"] / first["rate"] - 1), first.get("ece") or 0.0
    why = (
        f"On held-out sessions the first behaviour's rate is off by {error:.1%}, its calibration error is {ece:.3f}, "
        f"its AUC {_two(first.get('auc'))}."
    )
    if ece > CALIBRATION_ALARM or (first.get("auc") or 0.5) < DISCRIMINATION_ALARM:
        return Finding(question, "no", why)
    return Finding(question, "yes" if error <= RATE_ALARM and not fidelity.get("alarms") else "with care", why)


def _unlike_the_logged(card: Scorecard, ladder: Numbers | None) -> Finding:
    question = "Rank policies of different kinds by long-term reward"
    agree, pairs = pairs_in_order(card)
    if pairs:
        share = agree / pairs
        return Finding(
            question,
            "yes" if share >= 0.9 else "with care" if share >= 0.7 else "no",
            f"In the known world behind this log {agree} of {pairs} pairs of policies stand as simulated.",
        )
    if ladder and ladder.get("summary"):
        size = card.dataset.get("sessions", 0)
        near = min(ladder["summary"], key=lambda row: abs(_log(row["sessions"]) - _log(size)))
        same = [row for row in ladder["summary"] if row["users"] == near["users"]]
        worst, best = (pick(row["spearman"][0] for row in same) for pick in (min, max))
        return Finding(
            question,
            "with care" if worst >= 0.7 else "no",
            f"Not known for this log. With about {near['sessions']:,.0f} sessions of a known world the rank "
            f"correlation with the truth was {worst:.2f} to {best:.2f}, by how much the logger explored (the ladder).",
        )
    return Finding(question, "not measured", "The truth behind this log is not known; no ladder stands beside it.")


def _trained(audit: Numbers | None) -> Finding:
    question = "Believe what a policy earns in the users that it was trained in"
    if audit is None:
        return Finding(question, "not measured", "Run `python -m experiments audit --out` with this run folder.")
    trained = [row for row in audit["rows"] if row["pessimism"] is not None]
    plain = min(trained, key=lambda row: row["pessimism"])
    place, gap = max(plain["over_estimation"].items(), key=lambda item: item[1]["value"])
    others = audit["others"][place]
    why = (
        f"{audit['agent']} earns {gap['value']:+.0%} [{gap['low']:+.0%}, {gap['high']:+.0%}] more there than in "
        f"{NAMES[place]}; policies that were not trained there {others:+.0%}."
    )
    return Finding(question, "no" if audit["alarms"] else "with care" if gap["value"] > others + 0.1 else "yes", why)


def _absolute(fidelity: Numbers, audit: Numbers | None) -> Finding:
    question = "Forecast how much a policy would earn"
    length = fidelity.get("mean_length")
    if not length:
        return Finding(question, "not measured", "There is no held-out fit.")
    off = abs(length["simulated"] / length["logged"] - 1)
    over = abs(audit["others"].get("truth", audit["others"]["independent"])) if audit else 0.0
    why = f"Session length is off by {off:.0%} on held-out sessions" + (
        f"; untrained policies differ by {over:.0%} between worlds." if audit else "; no audit was run."
    )
    return Finding(question, "no" if off > LENGTH_ALARM or over > 0.25 else "with care", why)


def _sessions(fidelity: Numbers) -> Finding:
    question = "Decide what keeps users in the session"
    leave, length = fidelity.get("leave") or {}, fidelity.get("mean_length")
    if leave.get("auc") is None or not length:
        return Finding(question, "not measured", "The log says too little of how sessions end.")
    off = abs(length["simulated"] / length["logged"] - 1)
    why = (
        f"AUC of leaving is {leave['auc']:.2f}, its calibration error {_three(leave.get('ece'))}, the mean length is "
        f"off by {off:.0%}."
    )
    if off > LENGTH_ALARM:
        return Finding(question, "no", why)
    return Finding(question, "yes" if leave["auc"] >= DISCRIMINATION_ALARM else "with care", why)


def _retention(fidelity: Numbers) -> Finding:
    question = "Decide what brings users back"
    found = fidelity.get("returns")
    if not found:
        return Finding(question, "no", "The log shows too few returns to learn from, or none.")
    name = "within 7" if found["within 7"]["cases"] >= 100 else "within 1"
    numbers = found[name]
    if numbers["cases"] < 100:
        return Finding(question, "not measured", "Too few held-out sessions were followed for a day.")
    error = abs(numbers["predicted_rate"] - numbers["rate"])
    why = f"Back {name} day{'s' if name != 'within 1' else ''}: {_rates(numbers)}."
    told = (numbers.get("auc") or 0.5) >= 0.55
    return Finding(question, "no" if error > RETURN_ALARM or not told else "with care", why)


def _cold(fidelity: Numbers) -> Finding:
    question = "Decide about new items or new users"
    groups = {name: numbers for name, numbers in (fidelity.get("cold") or {}).items() if name.startswith("new")}
    known = {name: numbers for name, numbers in groups.items() if numbers.get("auc") is not None}
    if not known:
        return Finding(question, "not measured", "The held-out sessions show too few of either.")
    why = "; ".join(f"{name}: {_rates(numbers)}" for name, numbers in known.items())
    weakest = min(numbers["auc"] for numbers in known.values())
    return Finding(question, "with care" if weakest >= DISCRIMINATION_ALARM else "no", f"{why}.")


def audit_rows(audit: Numbers) -> list[list[str]]:
    """Rows of the audit's table: policy, reward in each set of users, over-estimation against the others."""
    rows = []
    for row in audit["rows"]:
        name = row["policy"] + ("" if row["pessimism"] is None else f", pessimism {row['pessimism']:g}")
        rewards, gaps = row["reward"].values(), row["over_estimation"].values()
        rows.append([name, *(cells.cell(one) for one in rewards), *(cells.cell(one, "+.0%") for one in gaps)])
    return rows


def ladder_rows(ladder: Numbers) -> list[list[str]]:
    """Rows of the ladder's table."""
    return [
        [
            f"{row['sessions']:,.0f}",
            f"{row['exploration']:.0%}",
            cell(row["spearman"]),
            cell(row["regret"]),
            cell(row["over_estimation"], "+.0%"),
            f"{row['mean_over_estimation'][0]:+.0%}",
        ]
        for row in ladder["summary"]
    ]


def doubts(rows: tuple[Row, ...]) -> list[list[str]]:
    """Rows of the disagreement table, where there is an ensemble."""
    return [[row.policy, f"{row.doubt:.0%}"] for row in rows if row.doubt is not None]


def _rates(numbers: Numbers) -> str:
    told = f", AUC {numbers['auc']:.2f}" if numbers.get("auc") is not None else ""
    return f"logged {numbers['rate']:.3f}, simulated {numbers['predicted_rate']:.3f}{told} ({numbers['cases']:,} cases)"


def _two(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _three(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _log(value: float) -> float:
    return math.log10(max(value, 1.0))
