"""Download published logs whose terms allow it: resumed where it stopped, checked against the published checksum.

MovieLens: research use, no redistribution, cite (its README says how). GroupLens publishes an MD5 beside each archive.
"""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from recgym.files import new_folder
from recgym.logs.log import LogError

_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_CHUNK = 1 << 16
_LARGEST = 20_000_000_000
"""Bytes that an archive may unpack to."""


@dataclass(frozen=True)
class Dataset:
    """A published archive."""

    url: str
    format: str
    """Format for `read_log`."""
    terms: str


_TERMS = "research use, no redistribution, cite Harper and Konstan (2015)"
DATASETS: dict[str, Dataset] = {
    name: Dataset(f"{_GROUPLENS}/{name}.zip", "movielens", _TERMS)
    for name in ("ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m", "ml-latest-small", "ml-latest")
}
"""What can be downloaded, by name."""


def download(name: str, folder: Path | str, *, url: str | None = None, progress: bool = True) -> Path:
    """Download and unpack the log called `name`.

    Args:
        name: a key of `DATASETS`.
        folder: the unpacked log becomes `folder/name`; an interrupted download stays beside it as `name.zip.part` and
            is gone on with.
        url: of a mirror of the archive; its MD5 is expected at the same address with ".md5".
        progress: show a progress bar.

    Returns:
        The folder to give to `read_log`.

    Raises:
        LogError: unknown name, no connection, a checksum that does not fit, or an archive that is not safe to unpack.
        OSError: the disk is full; the part that came stays for the next try.
    """
    if name not in DATASETS:
        raise LogError(f"no log called {name!r} can be downloaded; there are {', '.join(DATASETS)}")
    folder = Path(folder)
    target = folder / name
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    url = url or DATASETS[name].url
    part = folder / f"{name}.zip.part"
    expected = _published_md5(f"{url}.md5")
    _fetch(url, part, progress=progress)
    found = _md5(part)
    if found != expected:
        part.unlink()
        raise LogError(f"{url}: MD5 is {found}, published is {expected}; the damaged download was deleted, try again")
    _unpack(part, target)
    part.unlink()
    return target


def _fetch(url: str, part: Path, *, progress: bool) -> None:
    """Append what is missing of `url` to `part`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if have and answer.status != 206:  # the server starts again from the beginning
                have = 0
            left = int(answer.headers.get("Content-Length") or 0)
            with (
                part.open("ab" if have else "wb") as file,
                tqdm(total=have + left or None, initial=have, unit="B", unit_scale=True, desc=part.stem,
                     disable=not progress) as bar,
            ):  # fmt: skip
                while block := answer.read(_CHUNK):
                    file.write(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            return  # all of it is there
        raise LogError(f"{url}: the server says {error.code} {error.reason}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise LogError(f"{url}: cannot be reached ({error}); try again, what came so far is kept in {part}") from error
    if left and part.stat().st_size < have + left:
        raise LogError(f"{url}: the connection was cut after {part.stat().st_size} bytes; try again to go on")


def _published_md5(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            text: str = answer.read(10_000).decode("ascii", "replace")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise LogError(f"{url}: the published checksum cannot be read ({error})") from error
    words = [word.lower() for word in text.replace("=", " ").split()]
    for word in words:
        if len(word) == 32 and all(letter in "0123456789abcdef" for letter in word):
            return word
    raise LogError(f"{url}: holds no MD5: {text[:80]!r}")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return str(digest.hexdigest())


def _unpack(archive: Path, target: Path) -> None:
    """Unpack into `target`, without the archive's top folder; nothing may leave it."""
    try:
        opened = zipfile.ZipFile(archive)
    except zipfile.BadZipFile as error:
        raise LogError(f"{archive}: not a zip archive ({error})") from error
    with opened as file, new_folder(target) as folder:
        members = [member for member in file.infolist() if not member.is_dir()]
        if sum(member.file_size for member in members) > _LARGEST:
            raise LogError(f"{archive}: would unpack to more than {_LARGEST:,} bytes")
        for member in members:
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts:
                raise LogError(f"{archive}: holds {member.filename!r}, which points outside of the folder")
            inside = folder.joinpath(*(path.parts[1:] or path.parts))
            inside.parent.mkdir(parents=True, exist_ok=True)
            with file.open(member) as source, inside.open("wb") as copy:
                shutil.copyfileobj(source, copy)
