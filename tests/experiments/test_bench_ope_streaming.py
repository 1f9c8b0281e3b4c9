"""The benchmark of streamed estimates writes the log that it says, and measures every estimator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments.bench import Bench, ope_streaming
from experiments.bench.ope import OpeBench
from experiments.bench.ope_streaming import HORIZON, PERS, write_log
from recgym.ope.estimators import by_parts


def test_the_log_has_sessions_of_20_and_weights_of_mean_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ope_streaming, "_PART", 1_700)
    write_log(tmp_path, 4_000)
    assert len(list(tmp_path.iterdir())) == 3
    found = pl.read_parquet(tmp_path / "*.parquet")
    assert found["session"].to_list() == [step // HORIZON for step in range(4_000)]
    ratios = (found["p"] / found["propensity"]).to_numpy()
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / len(ratios) ** 0.5
    assert found["reward"][:100].to_list() != found["reward"][1_700:1_800].to_list()
    assert 0.05 < np.asarray(found["reward"]).mean() < 0.15


def test_every_estimator_is_measured_alone_and_all_in_one_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ope_streaming, "_apart", ope_streaming._measured)  # a process of its own takes seconds
    Bench(what="ope", ope=OpeBench(parts=("streaming",), streamed_steps=(1_000,)))()
    printed = capsys.readouterr().out
    for per in PERS:
        known = by_parts(per)
        for name in (*known, f"all {len(known)}"):
            assert f"| 1,000 | {per} | {name} |" in printed
    with pytest.raises(ValueError, match="streamed_steps"):
        OpeBench(streamed_steps=(10,))
