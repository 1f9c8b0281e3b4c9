"""Cross-validation of estimators: its formula written out, whom it must choose, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest

from recgym.ope.diagnostics import Verdict
from recgym.ope.estimators import estimators
from recgym.ope.evidence import Evidence, Per
from recgym.ope.fqe import Values
from recgym.ope.one_step import ips, self_normalised
from recgym.ope.one_step_models import direct_method, doubly_robust_terms, self_normalised_doubly_robust
from recgym.ope.selection import Choice, Terms, cross_validated, default_estimator, estimate_of
from recgym.ope.weights import SupportError
from recgym.types import DoubleArray, IntArray
from tests.ope.bandits import CLICK, LOGGER, MODEL, TARGET, TRUTH, Outcomes, drawn

WRONG = CLICK + np.array([0.4, -0.1, -0.1, 0.5])
"""A model that likes what the target shows far too much."""


def candidates(log: Outcomes, model: DoubleArray, *, target: DoubleArray = TARGET) -> dict[str, Terms]:
    weights = (target / LOGGER)[log.context, log.item - 1]
    q, v = model[log.context, log.item - 1], (target * model).sum(axis=1)[log.context]
    return {
        "IPS": ips(weights, log.reward),
        "SNIPS": self_normalised(weights, log.reward),
        "DM": direct_method(v),
        "DR": doubly_robust_terms(weights, log.reward, q, v),
        "SNDR": self_normalised_doubly_robust(weights, log.reward, q, v),
    }


def choose(terms: dict[str, Terms], users: IntArray, *, seed: int = 0, judge: str = "SNDR") -> Choice:
    return cross_validated(terms, terms[judge], users, seed=seed)


def test_estimates_are_means_and_sums_of_ratios() -> None:
    assert estimate_of(np.array([1.0, 2.0, 6.0])) == 3.0
    assert estimate_of((np.array([1.0, 2.0]), np.array([2.0, 4.0]))) == 0.5
    two = np.array([[1.0, 4.0], [3.0, 0.0]]), np.array([[1.0, 2.0], [1.0, 0.0]])
    assert estimate_of(two) == 2.0 + 2.0
    assert math.isnan(estimate_of((np.zeros(2), np.zeros(2))))


def test_scores_are_the_formula_written_out() -> None:
    """Users of one to three rows, a mean, a ratio and a sum of two ratios; split by hand."""
    log, splits = drawn(90, 4), 6
    users = np.repeat(np.arange(45), 2)
    users[60:] = users[60] + (users[60:] - users[60]) // 2
    terms, who = candidates(log, MODEL), np.unique(users)

    def variance(found: Terms) -> float:
        above, below = found if isinstance(found, tuple) else (found, np.ones(90))
        above, below = above.reshape(90, -1), below.reshape(90, -1)
        total = 0.0
        for user in who:
            mine = users == user
            total += sum(
                (above[mine, h].sum() - above[:, h].sum() / below[:, h].sum() * below[mine, h].sum())
                / below[:, h].sum() for h in range(above.shape[1])
            ) ** 2  # fmt: skip
        return total

    def part(found: Terms, rows: IntArray) -> float:
        return estimate_of(tuple(one[rows] for one in found) if isinstance(found, tuple) else found[rows])  # type: ignore[arg-type]

    scores = cross_validated(terms, terms["DR"], users, seed=8, splits=splits).scores
    rng = np.random.default_rng(8)
    orders = [rng.permutation(len(who)) for _ in range(splits)]
    for name, found in terms.items():
        share = variance(found) / (variance(found) + variance(terms["DR"]))
        size = min(max(round(share * len(who)), 2), len(who) - 2)
        errors = []
        for order in orders:
            inside = np.isin(users, who[order < size])
            errors.append((part(found, np.flatnonzero(inside)) - part(terms["DR"], np.flatnonzero(~inside))) ** 2)
        assert scores[name] == pytest.approx(np.mean(errors) + np.std(errors, ddof=1) / math.sqrt(splits), rel=1e-9)


def test_a_perfect_model_is_believed_and_a_wrong_one_is_not() -> None:
    users = np.arange(2000)
    mild = 0.7 * LOGGER + 0.3 * TARGET
    right = [choose(candidates(drawn(2000, seed), CLICK), users, seed=seed).name for seed in range(20)]
    wrong = [choose(candidates(drawn(2000, seed), WRONG, target=mild), users, seed=seed).name for seed in range(20)]
    assert right.count("DM") >= 17
    assert "DM" not in wrong


@pytest.mark.parametrize("model", [CLICK, WRONG], ids=["right", "wrong"])
def test_the_chosen_one_errs_far_less_than_the_worst(model: DoubleArray) -> None:
    errors: dict[str, list[float]] = {name: [] for name in ("IPS", "SNIPS", "DM", "DR", "SNDR", "chosen")}
    for seed in range(60):
        terms = candidates(drawn(400, seed), model)
        found = {name: estimate_of(one) for name, one in terms.items()}
        found["chosen"] = found[choose(terms, np.arange(400), seed=seed).name]
        for name, value in found.items():
            errors[name].append((value - TRUTH) ** 2)
    mean = {name: float(np.mean(one)) for name, one in errors.items()}
    chosen = mean.pop("chosen")
    assert chosen < 0.6 * max(mean.values())


def test_the_choice_is_the_same_every_time_and_in_any_order() -> None:
    terms, users = candidates(drawn(300, 1), MODEL), np.arange(300)
    first, again = choose(terms, users), choose(dict(reversed(terms.items())), users)
    assert first == choose(terms, users)
    assert (first.name, first.scores) == (again.name, again.scores)
    assert first.scores != choose(terms, users, seed=1).scores


def test_users_are_split_whole() -> None:
    """Every row twice, as the same user's, changes nothing; as another's it would."""
    terms = candidates(drawn(200, 2), MODEL)
    twice = {name: _repeated(found) for name, found in terms.items()}
    users = np.arange(200)
    assert choose(twice, np.repeat(users, 2)).scores == pytest.approx(choose(terms, users).scores, rel=1e-9)
    assert choose(twice, np.arange(400)).scores != pytest.approx(choose(terms, users).scores, rel=1e-9)


def test_a_candidate_is_asked_for_rows_and_may_learn_from_them() -> None:
    log, seen = drawn(120, 0), []

    def learned(rows: IntArray) -> Terms:
        seen.append(rows)
        return np.full(len(rows), log.reward[rows].mean())

    judge = candidates(log, MODEL)["DR"]
    cross_validated({"mean": learned}, judge, np.arange(120), seed=0, splits=3)
    assert len(seen) == 4
    assert len(seen[0]) == 120
    assert all((np.diff(rows) > 0).all() and len(rows) < 120 for rows in seen[1:])


def test_a_candidate_without_an_estimate_is_not_chosen() -> None:
    terms = candidates(drawn(100, 0), MODEL)
    only = np.zeros(100)
    only[7] = 1.0
    found = choose({**terms, "one row": (only, only)}, np.arange(100))
    assert found.scores["one row"] == math.inf
    assert found.name != "one row"

    def refuses(rows: IntArray) -> Terms:
        raise SupportError(f"no weight in {len(rows)} rows")

    with pytest.raises(SupportError, match="none of refuses could be judged"):
        cross_validated({"refuses": refuses}, terms["DR"], np.arange(100), seed=0)
    with pytest.raises(SupportError, match="none of IPS, SNIPS"):
        cross_validated(terms, refuses, np.arange(100), seed=0)


def test_the_default_leans_on_weights_as_far_as_they_are_supported() -> None:
    names = {per: [default_estimator(one, per=per) for one in get_args(Verdict)] for per in get_args(Per)}
    assert names == {"step": ["SNDR", "SNDR", "DM"], "session": ["weighted DR", "weighted DR", "FQE"]}
    for per in get_args(Per):
        formulas = [estimators(per)[name] for name in names[per]]
        assert [formula.weighs for formula in formulas][::2] == [True, False]
        assert not formulas[0].biased


def test_terms_of_named_estimators_are_candidates_as_they_are() -> None:
    log, users = drawn(150, 0), np.arange(150)
    seen = Evidence(
        policy="target", per="step", discount=1.0, reward=log.reward, episode=users, user=users, ratios=log.weights,
        values=Values(q=log.q, v=log.v, v_next=np.zeros(150)),
    )  # fmt: skip
    terms = {name: formula.terms(seen) for name, formula in estimators("step").items()}
    plain = candidates(log, MODEL)
    found = cross_validated(terms, terms["SNDR"], users, seed=0)
    assert found.scores["DR"] == pytest.approx(choose(plain, users).scores["DR"], rel=1e-9)
    assert set(found.scores) == set(estimators("step"))


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: default_estimator("fine", per="step"), "verdict must be one of supported, weak, cannot say, got 'fine'"),  # type: ignore[arg-type]
    (lambda: default_estimator("weak", per="day"), "per must be .* got 'day'"),  # type: ignore[arg-type]
    (lambda: cross_validated({}, np.ones(9), np.arange(9), seed=0), "at least one estimator"),
    (lambda: choose({"SNDR": np.ones(3)}, np.arange(3)), "users must be at least 4.* got 3"),
    (lambda: choose({"SNDR": np.ones(9)}, np.ones((3, 3))), r"users must be \(n,\), got shape \(3, 3\)"),  # type: ignore[arg-type]
    (lambda: choose({"SNDR": np.ones(9)}, np.arange(8)), "must give a term for each of 8 rows, got 9"),
    (
        lambda: choose({"SNDR": np.array([1, np.nan, 1, 1])}, np.arange(4)),
        "numerators must be finite, got nan in row 1",
    ),
    (lambda: choose({"SNDR": (np.ones(4), np.ones(5))}, np.arange(4)), r"alike .* got \(4,\) and \(5,\)"),
    (
        lambda: cross_validated({"a": np.ones(4)}, np.ones(4), np.arange(4), seed=0, splits=1),
        "splits must be at least 2, got 1",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message[:24] for _, message in BAD])
def test_bad_input_is_refused_by_name(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def _repeated(terms: Terms) -> Terms:
    if isinstance(terms, tuple):
        return np.repeat(terms[0], 2, axis=0), np.repeat(terms[1], 2, axis=0)
    return np.repeat(terms, 2, axis=0)
