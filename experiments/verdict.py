"""The verdict in sentences: what the numbers say, the unwelcome first, and nothing that they do not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiments.scorecard import Number, Row, Scorecard

Tone = Literal["good", "bad", "plain", "alarm"]


@dataclass(frozen=True)
class Sentence:
    """One finding."""

    text: str
    tone: Tone = "plain"


def verdict(card: Scorecard) -> tuple[Sentence, ...]:
    """What a reader has to know, most important first."""
    return (
        _headline(card),
        *_alarms(card),
        *_against_today(card),
        *_ranking(card),
        *_truth(card),
        *_off_policy(card),
    )


def winners(card: Scorecard) -> dict[str, Row]:
    """Trained policies whose session reward is above that of every trivial policy, with the interval off zero.

    A policy that has to beat all of them is tested against each at full level (an intersection-union test needs no
    correction); for the several trained policies tried, Bonferroni widens the intervals. Source: Berger (1982).
    """
    trained = card.family("trained")
    found = {}
    for row in trained:
        rivals = row.against.values() if row.against else [row.difference]
        if rivals and all(number is not None and _above_zero(number, len(trained)) for number in rivals):
            found[row.policy] = row
    return found


def best_trivial(card: Scorecard) -> Row | None:
    """The trivial policy with the largest session reward."""
    known = [row for row in card.family("trivial") if row.reward.known]
    return max(known, key=lambda row: row.reward.value, default=None)


def best_trained(card: Scorecard) -> Row | None:
    """The trained policy with the largest session reward."""
    known = [row for row in card.family("trained") if row.reward.known]
    return max(known, key=lambda row: row.reward.value, default=None)


def in_truth(card: Scorecard) -> list[tuple[Row, Number]]:
    """Policies whose reward is known both in the simulator and in the world that made the log, with the latter."""
    return [(row, row.truth) for row in card.rows if row.truth and row.truth.known and row.reward.known]


def pairs_in_order(card: Scorecard) -> tuple[int, int]:
    """How many pairs of policies stand in the same order in both, and of how many; (0, 0) below three policies."""
    both = [(row.reward.value, number.value) for row, number in in_truth(card)]
    if len(both) < 3:
        return 0, 0
    pairs = [(a, b) for place, a in enumerate(both) for b in both[:place]]
    return sum((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs), len(pairs)


def _headline(card: Scorecard) -> Sentence:
    best, simple = best_trained(card), best_trivial(card)
    if best is None or simple is None:
        return Sentence("Nothing was compared: the scorecard has no trained policy, or no trivial one.", "bad")
    found = winners(card)
    top = max(found.values(), key=lambda row: row.reward.value, default=best)
    seeds = f"{top.seeds} training seed{'s' if top.seeds != 1 else ''}"
    if not found:
        difference = best.against.get(simple.policy)
        return Sentence(
            f"No trained policy earns reliably more per session than the best simple rule, {simple.policy} "
            f"({show(simple.reward)}). The best trained one, {best.policy}, earns {show(best.reward)} over {seeds}"
            + (f": a difference of {show(difference)}." if difference else "."),
            "bad",
        )
    difference = top.against.get(simple.policy)
    others = [name for name in found if name != top.policy]
    also = f" {_listed(others)} beat{'s' if len(others) == 1 else ''} it too." if others else ""
    return Sentence(
        f"In simulated sessions, {top.policy} earns {show(top.reward)} per session over {seeds}, against "
        f"{show(simple.reward)} of {simple.policy}, the best simple rule"
        + (f": {show(difference)} more." if difference else ".")
        + also,
        "good",
    )


def _alarms(card: Scorecard) -> list[Sentence]:
    if card.fidelity is None or "alarms" not in card.fidelity:
        return [Sentence("Nothing is known of how far the simulated users can be trusted.", "alarm")]
    alarms = card.fidelity["alarms"] or []
    if not alarms:
        return [
            Sentence(
                "On held-out sessions the simulated users react, and leave, about as often as the logged ones "
                "(no alarm). That does not show that they react as well to what was never shown to them."
            )
        ]
    return [Sentence(f"Be careful with every simulated number: {text}", "alarm") for text in alarms]


def _against_today(card: Scorecard) -> list[Sentence]:
    today = card.row(card.reference)
    losers = [
        row.policy for row in card.family("trained")
        if row.difference and row.difference.interval and row.difference.interval[1] < 0
    ]  # fmt: skip
    if today is None or not losers:
        return []
    return [Sentence(f"{_listed(losers)} earn{'s' if len(losers) == 1 else ''} less than {card.reference}.", "bad")]


def _ranking(card: Scorecard) -> list[Sentence]:
    """What next-item metrics say of the same policies."""
    rows = [row for row in card.family("trained") if row.ranking_difference and row.ranking_difference.known]
    better = [row.policy for row in rows if _above_zero(_known(row), 1)]
    worse = [row.policy for row in rows if (ends := _known(row).interval) and ends[1] < 0]
    said = []
    if better:
        verb = "ranks" if len(better) == 1 else "rank"
        said.append(Sentence(f"{_listed(better)} {verb} held-out choices better than {card.reference} (NDCG@10)."))
    if worse:
        apart = [row.policy for row in rows if row.policy in worse and row.difference
                 and _above_zero(row.difference, len(card.family("trained")))]  # fmt: skip
        said.append(
            Sentence(
                f"Held-out choices are ranked worse than by {card.reference} (NDCG@10) by {_listed(worse)}"
                + (f", though {_listed(apart)} earn{'s' if len(apart) == 1 else ''} more: long-term reward and "
                   "next-item accuracy pull apart here." if apart else ".")
            )
        )  # fmt: skip
    if rows and not better and not worse:
        said.append(Sentence(f"On held-out choices (NDCG@10) no trained policy differs clearly from {card.reference}."))
    return said


def _truth(card: Scorecard) -> list[Sentence]:
    """Where the log's world is known: whether the simulator ranks policies as that world does."""
    agree, total = pairs_in_order(card)
    if not total:
        return []
    best = max(in_truth(card), key=lambda pair: pair[1].value)
    said = [
        Sentence(
            f"This log was made by a known world. There {best[0].policy} earns most ({show(best[1])}), and {agree} of "
            f"{total} pairs of policies stand in the same order as in the simulator."
        )
    ]
    top = max(winners(card).values(), key=lambda row: row.reward.value, default=None)
    simple = best_trivial(card)
    if top and simple and top.truth and simple.truth and top.truth.interval and simple.truth.interval:
        apart = top.truth.interval[0] > simple.truth.interval[1]
        behind = top.truth.value <= simple.truth.value
        said.append(
            Sentence(
                f"In that world {top.policy} earns {show(top.truth)} and {simple.policy} {show(simple.truth)}: "
                + (
                    "its lead is real there."
                    if apart
                    else "its lead in the simulator is not borne out there."
                    if behind
                    else "the intervals overlap, so whether its lead is real there cannot be said."
                ),
                "good" if apart else "bad" if behind else "plain",
            )
        )
    oracle = next((row for row in card.family("oracle") if row.truth and row.truth.known), None)
    if oracle and oracle.truth:
        said.append(
            Sentence(f"A policy that sees what no platform can see would earn {show(oracle.truth)} there: the ceiling.")
        )
    return said


def _off_policy(card: Scorecard) -> list[Sentence]:
    trained = [row for row in card.family("trained") if row.ope]
    if not trained:
        return []
    weighted = [one for row in trained for one in row.ope if one["estimator"] != "FQE"]
    mute = [one for one in weighted if one["verdict"] == "cannot say"]
    if not weighted:
        return [Sentence("From the logs alone there are only estimates that rest on a fitted model; see the table.")]
    if len(mute) == len(weighted):
        return [Sentence("The logs alone cannot say what a session of the trained policies would earn.", "alarm")]
    return [
        Sentence(
            f"From the logs alone, {len(weighted) - len(mute)} of {len(weighted)} weighted estimates of the trained "
            "policies' session value could be made; see the table for which are weak."
        )
    ]


def show(number: Number) -> str:
    """A number with its interval."""
    if not number.known:
        return "n/a"
    ends = number.interval
    return f"{number.value:.2f}" + (f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else "")


def _above_zero(number: Number, tries: int) -> bool:
    """Whether the interval, widened for `tries` comparisons, is above zero."""
    ends = number.interval
    if ends is None:
        return False
    return number.value - (number.value - ends[0]) * WIDENING.get(min(tries, max(WIDENING)), 1.0) > 0


WIDENING = {1: 1.0, 2: 1.144, 3: 1.222, 4: 1.275, 5: 1.315, 6: 1.346, 7: 1.373, 8: 1.395, 9: 1.414, 10: 1.432}
"""Ratio of normal quantiles at 1 - 0.025 / tries and 1 - 0.025: Bonferroni's factor for 95% intervals."""


def _known(row: Row) -> Number:
    assert row.ranking_difference is not None
    return row.ranking_difference


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
