"""Downloads from a server on this machine that cuts, lies, has no ranges, is slow or is down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordflock.cli.commands import run
from wordflock.data import download as module
from wordflock.data.download import DATA_SETS, DataSet, download, find
from wordflock.data.speech_commands import which_split
from wordflock.errors import WordflockError, WordflockWarning
from wordflock.prepare import load_table
from wordflock.settings import DATA_SETS as NAMES
from wordflock.settings import DataSettings

CONTENT = bytes(range(256)) * 4096 + b"the end"  # a megabyte: more than one chunk


class Server(ThreadingHTTPServer):
    """Serves one file in bad ways; `cuts` says how many bytes each connection gets, one after the other."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts, self.ranges, self.status = CONTENT, list[int](), True, list[int]()
        self.length, self.shift, self.asked = True, 0, list[str]()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/words.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.asked.append(asked)
        if self.server.status:
            self.send_error(self.server.status.pop(0))
            return
        start = int(asked[6:-1]) if asked and self.server.ranges else 0
        whole = len(self.server.content)
        if start >= whole:
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + self.server.shift}-{whole - 1}/{whole}")
        if self.server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def words(server: Server, content: bytes = CONTENT, changes: bool = False) -> DataSet:
    return DataSet(server.url, len(content), sha256(content).hexdigest(), "CC0", changes)


def fetch(data_set: DataSet, folder: Path, **more: object) -> Path:
    return download(data_set, folder, pause=lambda attempt: None, **more)  # type: ignore[arg-type]


def test_a_whole_file_is_there_once_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    path = fetch(words(server), tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT and list(path.parent.iterdir()) == [path]
    assert fetch(words(server), path.parent) == path and len(server.asked) == 1


@given(cuts=st.lists(st.integers(0, len(CONTENT)), max_size=5), ranges=st.booleans(), length=st.booleans())
def test_whatever_the_cuts_the_file_is_whole(
    cuts: list[int], ranges: bool, length: bool, server: Server, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "words", ignore_errors=True)
    server.cuts, server.ranges, server.length, server.asked = list(cuts), ranges, length, []
    assert fetch(words(server), tmp_path / "words").read_bytes() == CONTENT


def test_a_later_call_goes_on_where_a_killed_one_was(server: Server, tmp_path: Path) -> None:
    (tmp_path / "words.tar.gz.part").write_bytes(CONTENT[:700_000])
    assert fetch(words(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=700000-"]


def test_another_beginning_is_found_by_its_checksum_and_removed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "words.tar.gz.part").write_bytes(b"x" * 700_000)
    with pytest.raises(WordflockError, match=r"has the SHA-256 [0-9a-f]{64}, not [0-9a-f]{64}; it was removed"):
        fetch(words(server), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert fetch(words(server), tmp_path).read_bytes() == CONTENT


def test_a_shorter_beginning_than_ours_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "words.tar.gz.part").write_bytes(CONTENT + b"more")
    assert fetch(words(server), tmp_path).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_one_that_stays_so_is_named(server: Server, tmp_path: Path) -> None:
    server.status = [503, 429, 500]
    assert fetch(words(server), tmp_path).read_bytes() == CONTENT
    server.status, pauses = [503] * 99, list[int]()
    with pytest.raises(WordflockError, match=r"the server answers 503\); what came so far is kept.*--url"):
        download(words(server), tmp_path / "other", pause=pauses.append)
    assert pauses == [1, 2, 3, 4, 5]
    server.status = [404]
    with pytest.raises(WordflockError, match=r"answers 404 .*; name a mirror with --url"):
        fetch(words(server), tmp_path / "other")


def test_a_server_that_lies_is_named_and_nothing_of_it_is_left(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT + b"x"
    with pytest.raises(WordflockError, match="has 1,048,584 bytes, and the data set has 1,048,583"):
        fetch(words(server), tmp_path)
    server.length = False
    with pytest.raises(WordflockError, match="sends more than the 1,048,583 bytes"):
        fetch(words(server), tmp_path)
    server.content, server.length, server.shift = CONTENT, True, 5
    (tmp_path / "words.tar.gz.part").write_bytes(CONTENT[:1000])
    with pytest.raises(WordflockError, match="sends another part than the one asked for"):
        fetch(words(server), tmp_path)
    assert not (tmp_path / "words.tar.gz").exists()


def test_a_set_that_its_publisher_replaced_is_kept_where_the_user_accepts_it(server: Server, tmp_path: Path) -> None:
    wanted = words(server, CONTENT[::-1], changes=True)
    with pytest.raises(WordflockError, match="keep it all the same with --accept"):
        fetch(wanted, tmp_path)
    with pytest.warns(WordflockWarning, match="it is kept"):
        assert fetch(wanted, tmp_path, accept=True).read_bytes() == CONTENT
    assert len(server.asked) == 1  # what had come was kept meanwhile


def test_a_slow_server_is_given_up_after_a_while_and_what_came_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.05)
    released = threading.Event()

    class Slow(Handler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000])
            released.wait(10)

    server.RequestHandlerClass = Slow
    with pytest.raises(WordflockError, match="timed out"):
        fetch(words(server), tmp_path)
    released.set()


def test_too_little_space_is_said_before_anything_is_asked(server: Server, tmp_path: Path) -> None:
    huge = DataSet(server.url, 1 << 60, "", "CC0")
    with pytest.raises(WordflockError, match=r"GB free, and the download needs 115.*; make room or name another"):
        fetch(huge, tmp_path)
    assert server.asked == []


def test_two_downloads_of_one_file_do_not_mix(server: Server, tmp_path: Path) -> None:
    with module._own_file(tmp_path / "words.tar.gz.part"), pytest.raises(WordflockError, match="by another process"):
        fetch(words(server), tmp_path)


def test_proxies_of_the_environment_are_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    data_set = DataSet("http://nowhere.invalid/words.tar.gz", len(CONTENT), sha256(CONTENT).hexdigest(), "CC0")
    assert fetch(data_set, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url",
    ["", "words.tar.gz", "ftp://x/y", "http://", "http:///y", "http://[::1/y", "http://x:y/z", f"http://{'a' * 64}.b/"],
)
def test_what_is_not_an_address_of_the_web_is_said(url: str, tmp_path: Path) -> None:
    data_set = DataSet(url or "http:", 5, "0" * 64, "")
    with pytest.raises(WordflockError, match=r"is not an address of the web"):
        download(data_set, tmp_path, url=url)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("proxy", ["http://a b:1", f"http://{'a' * 64}.b:1"])
def test_a_proxy_that_cannot_be_used_is_said_at_once(
    server: Server, proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(WordflockError, match=r"see the environment variables http_proxy"):
        download(DataSet("http://words.invalid/a.tar", 5, "0" * 64, ""), tmp_path, pause=lambda attempt: None)


def test_a_name_stands_for_its_file_and_says_how_to_get_it(tmp_path: Path) -> None:
    assert set(NAMES) == set(DATA_SETS)
    with pytest.raises(WordflockError, match=r"get it with `wordflock data download speech-commands` \(2.4 GB\)"):
        load_table(DataSettings(data="speech-commands", cache=str(tmp_path)))
    place = tmp_path / "datasets" / "speech_commands_v0.02.tar.gz"
    place.parent.mkdir()
    place.write_bytes(b"")
    assert find("speech-commands", tmp_path) == place
    with pytest.raises(WordflockError, match=r"no data set 'speech-comands' to download; did you mean speech-commands"):
        find("speech-comands", tmp_path)


def test_the_free_spoken_digits_are_downloaded_and_read_by_name(
    server: Server,
    tmp_path: Path,
    write_audio: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = tmp_path / "tree"
    for name in ("metadata.py", "README.md", "utils/trimmer.py", "pip_requirements.txt"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("text\n")
    for digit, speaker, number in product(range(3), ("george", "lucas"), range(2)):
        write_audio(tree / "recordings" / f"{digit}_{speaker}_{number}.wav", rate=8000)
    packed = tmp_path / "packed.tar.gz"
    with tarfile.open(packed, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "c0ffee"}) as tar:
        tar.add(tree, "free-spoken-digit-dataset-1.0.9")  # and a commit in front, as GitHub does
    server.content, server.length, server.ranges = packed.read_bytes(), False, False  # GitHub packs while it sends
    content = sha256(server.content).hexdigest()
    monkeypatch.setitem(
        DATA_SETS, "fsdd", replace(DATA_SETS["fsdd"], url=server.url, size=len(server.content), content=content)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run(["data", "download", "fsdd"])
    assert capsys.readouterr().out.endswith("1 MB, CC BY-SA 4.0; use it with --data fsdd\n")
    table = load_table(DataSettings(data="fsdd"))
    wanted = {(str(digit), speaker, which_split(speaker)) for digit in range(3) for speaker in ("george", "lucas")}
    assert {(clip.word, clip.speaker, clip.split) for clip in table.clips} == wanted and len(table.clips) == 12
    assert not table.faults and table.protocol == "folder"


def test_a_download_needs_little_memory(server: Server, tmp_path: Path) -> None:
    server.content = bytes(100_000_000)
    code = f"""
import resource
from hashlib import sha256
from pathlib import Path
from wordflock.data.download import DataSet, download
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
download(DataSet({server.url!r}, 100_000_000, {sha256(server.content).hexdigest()!r}, ""), Path({str(tmp_path)!r}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert int(ran.stdout) < 50_000  # KB
