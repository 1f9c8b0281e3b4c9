"""Scorecards read back, verdicts say what the numbers say, the page is self-contained and safe."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.report import render, tables, write_report
from experiments.runs import Run
from experiments.scorecard import Number, Scorecard, read_scorecard, to_csv, write_scorecard
from experiments.verdict import best_trivial, verdict, winners
from recgym.files import FormatError
from tests.experiments.cards import card, number

pytestmark = [pytest.mark.experiments, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def words(one: Scorecard) -> str:
    return "\n".join(sentence.text for sentence in verdict(one))


def test_a_scorecard_reads_back(tmp_path: Path) -> None:
    made = card({"dqn": 2.4, "ppo": math.nan})
    path = write_scorecard(made, tmp_path)
    again = read_scorecard(path)
    assert again.row("dqn") == made.row("dqn")
    lost = again.row("ppo")
    assert lost is not None and not lost.reward.known
    assert again.fidelity == made.fidelity
    lines = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert [line["policy"] for line in lines] == ["random", "popularity", "backbone-greedy", "dqn", "ppo"]
    assert float(lines[3]["reward_low"]) == pytest.approx(2.3)
    assert lines[4]["reward"] == ""
    path.write_text(path.read_text().replace('"policy": "dqn"', '"policy": "popularity"'))
    with pytest.raises(FormatError, match="names a policy twice"):
        read_scorecard(path)


def test_a_winner_is_named_with_its_margin() -> None:
    made = card({"dqn": 2.4, "ppo": 2.3, "a2c": 1.9})
    assert set(winners(made)) == {"dqn", "ppo"}
    first = verdict(made)[0]
    assert first.tone == "good"
    assert "dqn earns 2.40 [2.30, 2.50]" in first.text
    assert "popularity" in first.text and "0.40 [0.30, 0.50] more" in first.text
    assert "ppo beats it too" in first.text


def test_a_popularity_list_that_wins_is_said_first() -> None:
    made = card({"dqn": 1.8})
    first = verdict(made)[0]
    assert first.tone == "bad"
    assert first.text.startswith(
        "No trained policy earns reliably more per session than the best simple rule, popularity"
    )
    assert "-0.20 [-0.30, -0.10]" in first.text


def test_many_tries_need_a_clearer_lead() -> None:
    assert set(winners(card({"dqn": 2.11}))) == {"dqn"}
    assert not winners(card({"dqn": 2.11, "ppo": 1.0, "a2c": 1.0, "cql": 1.0}))


def test_alarms_rankings_truth_and_logs_are_said() -> None:
    made = card({"dqn": 2.4})
    assert made.fidelity is not None
    alarmed = replace(made, fidelity={**made.fidelity, "alarms": ["Sessions are too short."]})
    assert "Be careful with every simulated number: Sessions are too short." in words(alarmed)
    assert "Nothing is known of how far" in words(replace(made, fidelity=None))
    assert "ranked worse than by backbone-greedy (NDCG@10) by dqn" in words(made)
    assert "The logs alone cannot say" in words(made)
    true = replace(made, rows=tuple(replace(one, truth=number(3 - one.reward.value)) for one in made.rows))
    assert "There random earns most" in words(true)
    assert "0 of 6 pairs" in words(true)
    assert "Nothing was compared" in words(card({}))


def test_the_page_holds_everything_and_loads_nothing(tmp_path: Path) -> None:
    made = card({"dqn": 2.4, "ppo": 1.0})
    write_scorecard(made, tmp_path)
    page = write_report(Run(tmp_path)).read_text()
    for one in made.rows:
        assert one.policy in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "no &lt;propensity&gt;" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert "@import" not in page and "url(http" not in page
    assert page.count("<svg") >= 5
    assert "a caveat" in page and "sorted: 2" in page and "abc" in page
    assert page.index(verdict(made)[0].text) < page.index("<svg")


def test_the_same_scorecard_gives_the_same_page() -> None:
    made = card({"dqn": 2.4})
    assert render(made, {}) == render(made, {})


def test_new_users_and_items_stand_apart() -> None:
    page = render(card({"dqn": 2.4}), {})
    assert "<dt>backbone</dt><dd>NDCG@10 0.100</dd>" in page
    assert "<dt>backbone, unmet items</dt><dd>7 targets: HR@10 0.500, NDCG@10 0.250, AUC 0.750</dd>" in page
    assert "rare items" not in page  # of none there is nothing to say


def test_unknown_numbers_are_never_zero() -> None:
    made = card({"dqn": math.nan})
    found = tables(made)[0]
    line = next(line for line in found["rows"] if line[0] == "dqn")
    assert line[2] == "n/a"
    assert render(replace(made, fidelity=None, shown=(), logged=None), {})
    simple = best_trivial(made)
    assert simple is not None and simple.policy == "popularity"
    assert not Number(value=math.inf).known


def test_a_missing_scorecard_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="run `python -m experiments evaluate`"):
        write_report(Run(tmp_path))


def test_policies_that_earn_less_and_rank_worse_do_not_pull_apart() -> None:
    made = card({"dqn": 1.2})
    assert "ranked worse than by backbone-greedy (NDCG@10) by dqn." in words(made)
    assert "pull apart" not in words(made)
    assert "though dqn earns more" in words(card({"dqn": 2.4}))


def test_a_policy_without_a_lead_has_none_to_confirm() -> None:
    made = card({"dqn": 1.8})
    true = replace(made, rows=tuple(replace(one, truth=number(one.reward.value)) for one in made.rows))
    assert "its lead" not in words(true)
    made = card({"dqn": 2.4})
    wide = replace(made, rows=tuple(replace(one, truth=number(one.reward.value, 0.3)) for one in made.rows))
    assert "cannot be said" in words(wide)
    narrow = replace(made, rows=tuple(replace(one, truth=number(one.reward.value)) for one in made.rows))
    assert "its lead is real there" in words(narrow)


def test_an_unknown_reward_is_not_the_best_and_missing_fidelity_is_no_pass() -> None:
    made = card({"ppo": math.nan, "dqn": 1.8})
    assert "The best trained one, dqn, earns 1.80" in verdict(made)[0].text
    assert "(no alarm)" not in words(replace(made, fidelity={"kinds": {}}))
