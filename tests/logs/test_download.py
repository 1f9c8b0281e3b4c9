"""Downloads against a server of our own: resumed, checked, unpacked safely."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from recgym.logs.download import download
from recgym.logs.log import LogError
from recgym.logs.readers import read_log


class Archive(BaseHTTPRequestHandler):
    """Serves one archive with ranges, and its MD5; `cut` ends the answer early."""

    content: ClassVar[bytes] = b""
    md5: ClassVar[str] = ""
    cut: ClassVar[int | None] = None
    ranges: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        if self.path.endswith(".md5"):
            self._answer(200, f"MD5 (ml-100k.zip) = {self.md5}\n".encode())
            return
        if "absent" in self.path:
            self.send_error(404, "Not Found")
            return
        wanted = self.headers.get("Range")
        self.ranges.append(wanted)
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if begin >= len(self.content):
            self.send_error(416, "Range Not Satisfiable")
            return
        self._answer(206 if wanted else 200, self.content[begin:])

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if type(self).cut is None or self.path.endswith(".md5") else body[: type(self).cut])

    def log_message(self, *arguments: object) -> None:
        """Keep the test's output clean."""


def pack(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def serve(content: bytes) -> None:
    Archive.content, Archive.md5, Archive.cut, Archive.ranges = content, hashlib.md5(content).hexdigest(), None, []


@pytest.fixture
def url() -> Iterator[str]:
    serve(pack({"ml-100k/u.data": "1\t2\t3\t4\n" * 3000}))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Archive)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/ml-100k.zip"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_log_is_downloaded_unpacked_and_readable(url: str, tmp_path: Path) -> None:
    folder = download("ml-100k", tmp_path, url=url, progress=False)
    assert len(read_log(folder, "movielens").events) == 3000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ml-100k"]
    assert download("ml-100k", tmp_path, url="http://127.0.0.1:9/none.zip", progress=False) == folder  # there already


def test_a_cut_download_is_gone_on_with(url: str, tmp_path: Path) -> None:
    Archive.cut = 100
    with pytest.raises((LogError, OSError)):
        download("ml-100k", tmp_path, url=url, progress=False)
    assert (tmp_path / "ml-100k.zip.part").stat().st_size == 100
    Archive.cut = None
    download("ml-100k", tmp_path, url=url, progress=False)
    assert Archive.ranges == [None, "bytes=100-"]


def test_a_complete_part_is_not_fetched_again(url: str, tmp_path: Path) -> None:
    (tmp_path / "ml-100k.zip.part").write_bytes(Archive.content)
    assert (download("ml-100k", tmp_path, url=url, progress=False) / "u.data").exists()


def test_a_wrong_checksum_deletes_the_download(url: str, tmp_path: Path) -> None:
    Archive.md5 = "0" * 32
    with pytest.raises(LogError, match=r"published is 0{32}; the damaged download was deleted"):
        download("ml-100k", tmp_path, url=url, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_may_not_leave_its_folder(url: str, tmp_path: Path) -> None:
    serve(pack({"ml-100k/../../evil": "x"}))
    with pytest.raises(LogError, match="points outside"):
        download("ml-100k", tmp_path / "logs", url=url, progress=False)
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "logs" / "ml-100k").exists()


def test_what_cannot_be_had_is_said(url: str, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no log called 'netflix'"):
        download("netflix", tmp_path)
    with pytest.raises(LogError, match="the server says 404"):
        download("ml-100k", tmp_path, url=url.replace("ml-100k", "absent"), progress=False)
    with pytest.raises(LogError, match="cannot be read"):
        download("ml-100k", tmp_path, url="http://127.0.0.1:9/gone.zip", progress=False)
    serve(b"no archive")
    with pytest.raises(LogError, match="not a zip archive"):
        download("ml-100k", tmp_path, url=url, progress=False)
