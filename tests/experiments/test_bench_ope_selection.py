"""The table of what choosing an estimator is worth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.bench import Bench
from experiments.bench.ope import OpeBench
from experiments.bench.ope_selection import CROSS, DEFAULT, FITTED, HINDSIGHT, choose, impressions, one_step
from experiments.bench.ope_terms import ONE_STEP, SESSIONS, all_terms, asked, estimate, models_of
from experiments.bench.ope_worlds import SHIFTS, settings
from recgym.ope.selection import estimate_of


def test_errors_are_those_of_the_logs_drawn() -> None:
    bandit = settings()[0]
    rows = {(row.shift, row.estimator): row for row in choose(bandit, 300, 3)}
    for shift in SHIFTS:
        truth, found = bandit.world.value(bandit.targets[shift]), []
        for number in range(3):
            log = bandit.world.draw(bandit.logger, 300, np.random.default_rng((number, 300, 2)))
            terms = all_terms(asked(bandit, log, bandit.targets[shift], models_of(bandit, log)))["SNDR"]
            assert terms is not None
            found.append(estimate(terms) / truth - 1)
        assert rows[shift, "SNDR"].error == pytest.approx(np.sqrt(np.mean(np.square(found))))
        assert rows[shift, "SNDR"].worst == pytest.approx(np.quantile(np.abs(found), 0.95))
        best = min(rows[shift, name].error for name in ONE_STEP)
        assert rows[shift, HINDSIGHT].error == best
        assert rows[shift, rows[shift, HINDSIGHT].picks.rsplit(" ", 1)[0]].error == best
    assert rows["mild", DEFAULT].picks == "SNDR 100"
    assert rows["severe", DEFAULT].picks == "SNDR 100"
    assert rows["severe", DEFAULT].error == rows["severe", "SNDR"].error


def test_pseudo_logs_are_read_by_the_formulas_of_the_table() -> None:
    bandit = settings()[0]
    log = bandit.world.draw(bandit.logger, 200, np.random.default_rng(0))
    question = asked(bandit, log, bandit.targets["severe"], models_of(bandit, log))
    seen, model = impressions(question, blind=False)
    q = model(np.arange(200))
    for name, terms in all_terms(question).items():
        assert terms is not None
        assert estimate_of(one_step(bandit.world.category)[name](seen, q)) == pytest.approx(estimate(terms), rel=1e-12)
    blind = impressions(question, blind=True)[1](np.arange(200))
    assert (blind[::2] == blind[0]).all()
    assert (blind[1::2] == blind[1]).all()


def test_a_blind_model_harms_the_direct_method_and_not_ips() -> None:
    for setting, size in zip(settings()[:2], (100, 300), strict=True):
        sighted, blind = ({(row.shift, row.estimator): row.error for row in choose(setting, size, 2, blind=blind)}
                          for blind in (False, True))  # fmt: skip
        assert blind["severe", "DM"] > 1.02 * sighted["severe", "DM"]
        plain = "IPS" if setting.world.horizon == 1 else "PDIS"
        assert blind["severe", plain] == sighted["severe", plain]


def test_a_tiny_run_prints_and_writes_every_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ope.json"
    Bench(what="ope", ope=OpeBench(parts=("selection",), chosen_logs=2, sizes=(60,), out=out))()
    printed, rows = capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))["selection"]
    for name in (*ONE_STEP, *SESSIONS, DEFAULT, CROSS, FITTED, HINDSIGHT):
        assert f"| {name} |" in printed
    assert {row["world"] for row in rows if row["world"].endswith("blind model")} == {
        f"{setting.name}, blind model" for setting in settings()
    }
