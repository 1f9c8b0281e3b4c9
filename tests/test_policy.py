"""Policy folders: whole or refused, and a registry that runs no code by surprise."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch

import agents  # noqa: F401 (registers the policies)
import recgym.files
from agents.baselines import Popularity
from agents.checkpoints import CHECKPOINT, load_checkpoint
from agents.layout import Layout
from agents.networks import ItemScorer
from agents.scoring import ScoringPolicy
from recgym.env.session import Sessions
from recgym.files import FormatError
from recgym.policy import PolicyError, load_policy, register_policy, save_policy
from recgym.rollout import collect
from tests.users.small import small_users


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_policy(Popularity(counts=torch.tensor([3.0, 1.0, 2.0])), tmp_path / "p", encoder="abc")
    return tmp_path / "p"


def edit(folder: Path, **fields: object) -> None:
    path = folder / "policy.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_it_reads_back(folder: Path) -> None:
    again = load_policy(folder, encoder="abc")
    assert isinstance(again, Popularity)
    assert again.counts.tolist() == [3, 1, 2]
    assert sorted(path.name for path in folder.iterdir()) == ["policy.json", "weights.safetensors"]


def test_another_encoder_is_refused(folder: Path) -> None:
    with pytest.raises(PolicyError, match="field 'encoder' is abc, but the backbone here is xyz"):
        load_policy(folder, encoder="xyz")


def test_another_catalogue_or_observation_is_refused_with_both_named(folder: Path, tmp_path: Path) -> None:
    assert load_policy(folder, sizes={"items": 3, "state": 8}).num_items == 3
    with pytest.raises(
        PolicyError, match=r"policy 'popularity' reads items 3, but here are items 9 \(for .*policy.json"
    ):
        load_policy(folder, sizes={"items": 9, "state": 8})
    narrow = ScoringPolicy(scorer=ItemScorer(Layout(num_items=12, state_width=5)))
    save_policy(narrow, tmp_path / "narrow")
    sessions = Sessions(small_users())
    with pytest.raises(PolicyError, match="'scoring' reads items 12, state 5, but here are items 12, state 8"):
        load_policy(tmp_path / "narrow", sizes=sessions.sizes)
    with pytest.raises(PolicyError, match=r"state 5, but here are items 12, state 8 \(these sessions\)"):
        collect(sessions, narrow, num_sessions=2, seed=0)
    with pytest.raises(PolicyError, match=r"reads items 3, but here are items 12 \(these sessions\)"):
        collect(sessions, load_policy(folder), num_sessions=2, seed=0)
    read = ScoringPolicy(scorer=ItemScorer(Layout(num_items=12, state_width=8, history=4, num_feedback=2)))
    with pytest.raises(PolicyError, match="feedback 2, but here are items 12, state 8, feedback 3"):
        collect(sessions, read, num_sessions=2, seed=0)


def test_nothing_is_unpickled(folder: Path) -> None:
    """A pickle in place of the weights, with the right checksum, is refused and not run."""

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (folder / "sprung",))

    content = pickle.dumps(Trap())
    (folder / "weights.safetensors").write_bytes(content)
    edit(folder, weights_sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(PolicyError, match="not a safetensors file"):
        load_policy(folder)
    (folder / "checkpoints").mkdir()
    (folder / CHECKPOINT).write_bytes(content)
    with pytest.raises(FormatError, match="not a checkpoint"):
        load_checkpoint(folder, "{}")
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "thesis"}, "field 'format' is 'thesis'"),
        ({"version": 99}, "field 'version' is 99"),
        ({"name": "os.system"}, "no policy named 'os.system' is registered"),
        ({"config": "large"}, "field 'config' should be of type dict, is str"),
        ({"config": {"depth": 3}}, "does not describe a 'popularity' policy"),
        ({"num_items": 7}, "field 'num_items' is 7, but weights.safetensors ranks 3"),
        ({"weights_sha256": "0"}, "not those of field 'weights_sha256'"),
    ],
)
def test_foreign_descriptions_are_refused(folder: Path, fields: dict[str, object], message: str) -> None:
    edit(folder, **fields)
    with pytest.raises(FormatError, match=message):
        load_policy(folder)


def test_truncated_or_missing_files_are_refused(folder: Path) -> None:
    weights, description = folder / "weights.safetensors", folder / "policy.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-3])
    with pytest.raises(PolicyError, match="truncated or belongs to another policy"):
        load_policy(folder)
    weights.unlink()
    with pytest.raises(PolicyError, match="missing; save the policy again"):
        load_policy(folder)
    text = description.read_text()
    description.write_text(text[: len(text) // 2])
    with pytest.raises(FormatError, match="not valid JSON"):
        load_policy(folder)
    description.unlink()
    with pytest.raises(FormatError, match="not found"):
        load_policy(folder)


def test_a_full_disk_leaves_the_old_policy_or_one_that_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = Popularity(counts=torch.tensor([1.0, 9.0, 2.0]))
    write = recgym.files.write_bytes
    calls: list[Path] = []

    def full(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr("recgym.policy.write_bytes", full)
    monkeypatch.setattr("recgym.files.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_policy(newer, folder)
    monkeypatch.undo()
    with pytest.raises(PolicyError, match="not those of field"):
        load_policy(folder)
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
    save_policy(newer, folder)
    assert load_policy(folder).num_items == 3


def test_the_registry_refuses_nonsense() -> None:
    with pytest.raises(PolicyError, match="expected 'module:Class'"):
        register_policy("mine", "module")
    with pytest.raises(PolicyError, match="already registered"):
        register_policy("popularity", "elsewhere:Popularity")
