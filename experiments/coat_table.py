"""The audit on Coat as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe(found: Mapping[str, Any]) -> str:
    """The figures of `experiments.coat_audit.audit_coat`, for people."""
    lines = [
        f"Coat: {found['users']} users, {found['items']} items, {found['ratings']} self-chosen ratings "
        f"({found['stars_chosen']:.2f} stars), {found['exposures']} uniform exposures a user "
        f"({found['stars_exposed']:.2f} stars)",
        f"{found['left_out']} chosen ratings left out, whose pair was exposed too; {found['seeds']} fits, ensemble of "
        f"{1 + found['ensemble']} sets of heads; 95% intervals over users with all their fits",
    ]
    for name, fit in found["fits"].items():
        lines += ["", f"== fitted with {name}", *_beliefs(fit["beliefs"])]
        for pick, rules in fit["picks"].items():
            lines += ["", f"{pick + ' of ' + str(found['exposures']):24}{_HEAD}"]
            lines += [_rule(rule, row) for rule, row in rules.items()]
    lines += ["", *_LEGEND]
    for pick, gain in found["propensities_gain"].items():
        lines.append(
            f"model's {pick}, inverse propensities minus without: true {_signed(gain['true'])}, "
            f"over-estimation {_signed(gain['over'])}"
        )
    return "\n".join([*lines, "", *conclusions(found)])


def conclusions(found: Mapping[str, Any]) -> list[str]:
    """What pessimism and inverse propensities did, in words; "no clear change" where the interval holds 0."""
    wary = f"model - {found['pessimism']:g} sd"
    lines = []
    for name, fit in found["fits"].items():
        for pick, rules in fit["picks"].items():
            row = rules[wary]
            lines.append(
                f"pessimism, {name}, {pick}: true stars {_change(row['against_model'])}, "
                f"curse of the picks {_change(row['curse_against_model'])}"
            )
    if found["propensities_gain"]:
        before, after = (fit["beliefs"]["bias_exposed"]["value"] for fit in found["fits"].values())
        changes = ", ".join(f"{pick} {_change(gain['true'])}" for pick, gain in found["propensities_gain"].items())
        lines.append(
            f"inverse propensities: bias from {before:+.2f} to {after:+.2f}; true stars of the picks: {changes}"
        )
    return lines


def _change(number: Mapping[str, Any]) -> str:
    word = "more" if number["low"] > 0 else "less" if number["high"] < 0 else "no clear change"
    return f"{word} ({number['value']:+.3f} [{number['low']:+.3f}, {number['high']:+.3f}])"


_LEGEND = (
    "over: the rule's own promise minus the truth (pessimism lowers it by what it takes off, whatever is picked)",
    "curse: what the simulated users would rate the picks, minus the truth, beyond the same on all exposures",
)
_HEAD = (
    f"{'promised':>8}  {'true':>20}  {'over, stars':>22}  {'over, %':>18}"
    f"  {'true - model':>22}  {'curse of the picks':>22}"
)


def _beliefs(beliefs: Mapping[str, Any]) -> list[str]:
    deciles = beliefs["deciles"]
    return [
        f"predicted - true stars: {_signed(beliefs['bias_held_out'])} on held-out choices, "
        f"{_signed(beliefs['bias_exposed'])} on exposures (fits {_fits(beliefs['bias_exposed'])})",
        f"correlation {_share(beliefs['correlation'])}, within users {_share(beliefs['correlation_within_users'])}; "
        f"root mean squared error {beliefs['root_mean_squared_error']:.3f}",
        f"doubt (sd of the ensemble) {beliefs['doubt']:.3f} stars, correlation with the size of the error "
        f"{_share(beliefs['correlation_of_doubt_with_error'])}",
        "by decile of belief: predicted " + " ".join(f"{one['predicted']:5.2f}" for one in deciles),
        "                          true " + " ".join(f"{one['true']:5.2f}" for one in deciles),
    ]


def _rule(name: str, row: Mapping[str, Any]) -> str:
    true = row["true"]
    percent = row["over_percent"]
    return (
        f"{name:24}{row['promised']:8.2f}  {true['value']:6.2f} [{true['low']:.2f}, {true['high']:.2f}]  "
        f"{_signed(row['over'])}  {percent['value']:+5.0f} [{percent['low']:+4.0f}, {percent['high']:+4.0f}]  "
        f"{_signed(row['against_model'])}  {_signed(row['curse'])}"
    )


def _signed(number: Mapping[str, Any]) -> str:
    return f"{number['value']:+6.2f} [{number['low']:+.2f}, {number['high']:+.2f}]"


def _fits(number: Mapping[str, Any]) -> str:
    return ", ".join(f"{value:+.2f}" for value in number["by_fit"])


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
