"""The benchmarks run and print a row for everything they measure; no figure is judged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from experiments.bench import Bench
from experiments.bench.env import EnvBench, core_step
from experiments.bench.offline import WAYS, OfflineBench
from experiments.bench.peers import SCRIPT, Peer, measured_peers
from experiments.bench.timing import alternate, machine, megabytes, most_resident, resident, threads
from experiments.bench.worlds import BULK, Part, WorldsBench
from recgym.env.session import Sessions
from simulators import WORLDS, make_world

TINY = {"seconds": 0.02, "rounds": 1, "num_envs": 8, "threads": 1}


def printed(capsys: pytest.CaptureFixture[str], **settings: object) -> str:
    Bench(what="worlds", worlds=WorldsBench(**{**TINY, **settings}))()  # type: ignore[arg-type]
    return capsys.readouterr().out


def test_every_world_without_files_has_a_row_batched_and_alone(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, parts=("batched", "single"), clock="core")
    for name, world in WORLDS.items():
        assert out.count(f"  {name} ") == (0 if world.files else 2)
    assert out.count("floor 2:") == out.count("floor 5:") == 1


def test_bulk_has_a_row_of_memory_and_one_of_scaling(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BULK == ("interest-evolution", "storefront", "sample")
    monkeypatch.setattr("experiments.bench.worlds.BULK", ("storefront", "sample"))  # each takes a process, so seconds
    small = {"bulk_users": 20, "sizes": (2, 4), "learned_users": 4, "catalogues": (20, 40), "lengths": (5, 10)}
    out = printed(capsys, parts=("memory", "scaling"), **small)
    for name in ("storefront", "sample"):
        assert f"  {name} " in out
        assert f"{name}, users" in out
    for model in ("gru", "sasrec"):
        assert f"{model}, items of the catalogue" in out
        assert f"{model}, length of history" in out


def test_parts_that_are_not_there_are_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, parts=("peers",))
    assert "peers: none asked for" in out
    if not torch.cuda.is_available():
        assert "gpu: none here" in printed(capsys, parts=("gpu",))


def test_peers_that_this_interpreter_lacks_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The script runs here too, where no peer is installed."""
    found = measured_peers(Path(sys.executable), seconds=0.01, sessions=2)
    assert [peer.peer for peer in found if peer.missing] == [peer.peer for peer in found]
    assert all(peer.world in WORLDS for peer in found)
    out = printed(capsys, parts=("peers",), peer_python=Path(sys.executable), peer_sessions=2)
    assert (
        out.count("not there: No module named")
        == len(found)
        == SCRIPT.count("lambda: recsim(") + SCRIPT.count("lambda: sardine(")
    )


def test_a_peer_is_measured_beside_ours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    one = Peer(peer="another simulator", world="long-term-satisfaction", rate=1234.0, mean=940.0, error=10.0)
    monkeypatch.setattr("experiments.bench.worlds.measured_peers", lambda *_, **__: [one])
    out = printed(capsys, parts=("peers",), peer_python=Path("python"), peer_sessions=20)
    assert "another simulator" in out
    assert "1,234, ours" in out
    assert "standard errors apart" in out


def test_an_interpreter_that_does_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"peer_python is .*nowhere, which does not run"):
        measured_peers(tmp_path / "nowhere", seconds=0.01, sessions=2)
    (tmp_path / "broken").write_text("#!/bin/sh\necho no numpy >&2\nexit 3\n")
    (tmp_path / "broken").chmod(0o755)
    with pytest.raises(ValueError, match="the peers failed under .*no numpy"):
        measured_peers(tmp_path / "broken", seconds=0.01, sessions=2)


def test_settings_are_checked() -> None:
    assert WorldsBench().parts == get_args(Part)
    with pytest.raises(ValueError, match="no world without files is called 'coat'"):
        WorldsBench(names=("coat",))
    with pytest.raises(ValueError, match="bulk_users is 0, expected at least 1"):
        WorldsBench(bulk_users=0)
    with pytest.raises(ValueError, match="peer_sessions is 1, expected at least 2"):
        WorldsBench(peer_sessions=1)


def test_the_environment_beside_its_floor(capsys: pytest.CaptureFixture[str]) -> None:
    Bench(env=EnvBench(num_envs=4, num_items=20, seconds=0.02, rounds=1))()
    out = capsys.readouterr().out
    for row in ("gym.make (sample users)", "gru backbone", "sasrec backbone", "state of the users"):
        assert row in out


def test_what_the_helpers_measure() -> None:
    """Bytes by hand, threads put back, and both steps called."""
    assert megabytes((torch.zeros(250, 1000), None, torch.zeros(1000, dtype=torch.bool))) == 1.001
    assert 0 < resident() <= most_resident() * 1.01
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    called: list[int] = []
    rates = alternate((lambda: called.append(0), lambda: called.append(1)), 0.001, 2)
    assert min(rates) > 0
    assert {0, 1} == set(called)
    assert "cores" in machine()
    world = WORLDS["interest-evolution"]
    step = core_step(Sessions(make_world("interest-evolution"), world.session_config()), 4)
    for _ in range(20):  # more than there are slates drawn
        step()


def test_a_gradient_step_of_cql_has_a_row_for_each_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    settings = OfflineBench(catalogues=(20, 30), batch_size=4, width=4, candidates=3, seconds=0.01, rounds=1)
    Bench(what="offline", offline=settings)()
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["20", "30"]
    assert out.count(" ms (") == 2 * len(WAYS) and out.count("(1.000)") >= 2
