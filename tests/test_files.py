"""Writes are whole or absent; reads name what is wrong."""

import json
import os
from pathlib import Path

import pytest

from recgym.files import FormatError, new_folder, read_json, write_bytes, write_json


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"format": "thing", "version": 2, "x": [1.5, None]})
    assert read_json(path, format="thing", version=2)["x"] == [1.5, None]
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    monkeypatch.setattr(os, "fdopen", _full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def _full_disk(handle: int, mode: str) -> "_Full":
    os.close(handle)
    return _Full()


class _Full:
    """A file on a full disk."""

    def __enter__(self) -> "_Full":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, data: bytes) -> int:
        raise OSError(28, "No space left on device")


def test_nan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "not found"),
        (b'{"format": "thing", "ver', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[1]", "field 'format' is 'list'"),
        (b'{"format": "other"}', "field 'format' is 'other', expected 'thing'"),
        (b'{"format": "thing", "version": 9}', "field 'version' is 9"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FormatError, match=words) as caught:
        read_json(path, format="thing", version=1)
    assert str(path) in str(caught.value)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt), new_folder(target) as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with new_folder(target) as folder:
            (folder / "file").write_text(text)
    assert (target / "file").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
