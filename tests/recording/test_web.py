"""The page for phones: requests that are no takes are refused, and a real browser records through it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
import soundfile
from serving import served
from speakers import NOISE, RATE, word

from wordflock.devices.certificates import make_certificates
from wordflock.errors import WordflockError
from wordflock.recording import takes, web
from wordflock.recording.session import Prompt, Session
from wordflock.recording.web import WebRecorder

PCM = {"Content-Type": "application/octet-stream"}
AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
NARROW = {"width": 360, "height": 720}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder, ["127.0.0.1"], [])
    return folder / "ca.crt", folder / "server.crt", folder / "server.key"


@contextmanager
def serving(session: Session, files: Any = None, room: bool = False) -> Iterator[WebRecorder]:
    lines: list[str] = []
    with served(
        WebRecorder(session, "127.0.0.1", 0, certificate=files and files[1:], room=room, say=lines.append)
    ) as it:
        yield it


def ask(
    server: WebRecorder, method: str, path: str, body: bytes | None = None, headers: Any = PCM
) -> tuple[int, bytes]:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    try:
        connection.request(method, path if path.startswith("/") else address.path + path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def take_path(prompt: Prompt, rate: int = RATE, **more: object) -> str:
    return "take?" + urlencode({"word": prompt.word, "take": prompt.take, "begin": rate, "rate": rate, **more})


def spoken(seconds: float = 0.5, gain: float = 0.3, rate: int = RATE) -> bytes:
    import soxr

    sound = np.concatenate([np.zeros(round(1.6 * RATE)), word(seconds, gain), np.zeros(round(1.2 * RATE))])
    sound += NOISE * np.random.default_rng(0).standard_normal(len(sound))
    return bytes(np.round(np.clip(soxr.resample(sound, RATE, rate), -1, 1) * 32_767).astype("<i2"))


@pytest.mark.parametrize("rate", [RATE, 44_100, 48_000])
def test_takes_are_kept_by_the_same_checks(rate: int, tmp_path: Path) -> None:
    session = Session(tmp_path, ["hey savant"], "anna", 2)
    with serving(session) as server:
        state = json.loads(ask(server, "GET", "state")[1])
        assert state["prompt"] == {"word": "hey savant", "take": 0} and (state["done"], state["total"]) == (0, 2)
        prompt = Prompt(**state["prompt"])
        for body, words in ((spoken(gain=0.003, rate=rate), "too quiet"), (spoken(2.5, rate=rate), "kept")):
            reply = json.loads(ask(server, "POST", take_path(prompt, rate), body)[1])
            assert words in reply["message"]
        assert reply["kept"] and reply["state"]["prompt"] == {"word": "hey savant", "take": 1}
        kept = soundfile.read(session.file(prompt))[0]
        assert len(kept) / RATE == pytest.approx(2.8, abs=0.1)
        assert ask(server, "GET", "last") == (200, session.file(prompt).read_bytes())
        assert ask(server, "POST", take_path(prompt, rate), spoken(rate=rate))[0] == 409
        assert json.loads(ask(server, "POST", "again", b"")[1])["state"]["done"] == 0
        assert not session.file(prompt).exists() and ask(server, "GET", "last")[0] == 404


def test_the_room_comes_first(tmp_path: Path) -> None:
    session = Session(tmp_path, ["yes"], "anna", 1)
    noise = (10 * np.random.default_rng(0).standard_normal(8 * RATE)).astype("<i2").tobytes()
    with serving(session, room=True) as server:
        assert json.loads(ask(server, "GET", "state")[1])["room"] == takes.ROOM_SECONDS
        reply = json.loads(ask(server, "POST", f"room?rate={RATE}", spoken())[1])
        assert not reply["kept"] and "not the room alone" in reply["message"]
        reply = json.loads(ask(server, "POST", f"room?rate={RATE}", noise)[1])
        assert reply["kept"] and reply["state"]["room"] == 0 and session.room.exists()
        assert ask(server, "POST", "finish", b"")[0] == 200


def test_what_is_no_take_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(tmp_path / "out", ["yes"], "anna", 1)
    monkeypatch.setattr(web, "TIMEOUT", 0.5)
    good, prompt = spoken(), session.missing()[0]
    with serving(session) as server:
        for method, path, body, headers, status in (
            ("GET", "/", None, {}, 404),
            ("GET", "/favicon.ico", None, {}, 404),
            ("GET", f"/{server.token[:-1]}x/", None, {}, 404),
            ("GET", f"/{server.token}", None, {}, 404),
            ("GET", "../../etc/passwd", None, {}, 404),
            ("GET", "page.html", None, {}, 404),
            ("POST", "", good, PCM, 404),
            ("POST", "/take", good, PCM, 404),
            ("POST", "nothing", good, PCM, 404),
            ("POST", take_path(prompt), good, {"Content-Type": "text/plain"}, 415),
            ("POST", take_path(prompt), b"", PCM, 400),
            ("POST", take_path(prompt), good[:-1], PCM, 400),
            ("POST", take_path(prompt), bytes(2 * 13 * RATE), PCM, 400),
            ("POST", take_path(prompt), good, {**PCM, "Content-Length": "99999999"}, 413),
            ("POST", take_path(prompt), None, {**PCM, "Transfer-Encoding": "chunked"}, 411),
            ("POST", take_path(prompt), good[:100], {**PCM, "Content-Length": "200"}, 408),
            ("POST", take_path(prompt, rate=1), good, PCM, 400),
            ("POST", take_path(prompt, rate="nan"), good, PCM, 400),
            ("POST", take_path(prompt, begin=10**8), good, PCM, 400),
            ("POST", take_path(prompt, begin=-1), good, PCM, 400),
            ("POST", take_path(Prompt("../yes", 0)), good, PCM, 409),
            ("POST", take_path(Prompt("yes", 7)), good, PCM, 400),
            ("POST", take_path(prompt) + "&a=1" * 20, good, PCM, 400),
        ):
            found = ask(server, method, path, body, headers)[0]
            assert found == status, (method, path, headers)
        assert not (tmp_path / "out").exists()
        assert ask(server, "POST", take_path(prompt), good)[0] == 200


def test_it_speaks_tls_and_one_who_does_not_stops_nobody(tmp_path: Path, certificate: tuple[Path, ...]) -> None:
    import socket

    with serving(Session(tmp_path, ["yes"], "anna", 1), certificate) as server:
        address = urlsplit(server.url)
        assert address.scheme == "https" and address.hostname == "127.0.0.1"
        silent = [socket.create_connection((address.hostname, address.port)) for _ in range(5)]
        silent[0].sendall(b"GET / HTTP/1.0\r\n\r\n")
        context = ssl.create_default_context(cafile=str(certificate[0]))
        connection = http.client.HTTPSConnection("127.0.0.1", address.port, timeout=30, context=context)
        connection.request("GET", address.path)
        reply = connection.getresponse()
        page = reply.read().decode()
        assert reply.status == 200 and "Record words" in page
        assert "default-src 'none'" in (reply.headers["Content-Security-Policy"] or "")
        assert reply.headers["Referrer-Policy"] == "no-referrer" and "http" not in page.replace("http-equiv", "")
        connection.close()
        for other in silent:
            other.close()


def test_addresses_and_files_that_cannot_be_used_are_one_sentence(tmp_path: Path) -> None:
    from wordflock.cli.commands import run

    session = Session(tmp_path, ["yes"], "anna", 1)
    (tmp_path / "server.crt").write_text("no certificate")
    with pytest.raises(WordflockError, match="are not a certificate and its key"):
        WebRecorder(session, "127.0.0.1", 0, certificate=(tmp_path / "server.crt", tmp_path / "server.crt"))
    with serving(session) as server, pytest.raises(WordflockError, match="cannot be listened at"):
        WebRecorder(session, "127.0.0.1", server.server_address[1], certificate=None)
    arguments = ["data", "record", "yes", "--speaker", "anna", "--out", str(tmp_path / "out"), "--web"]
    for address, words in (("0.0.0.0:0", "without TLS"), ("nothing", "--web 'nothing' is not HOST:PORT")):
        with pytest.raises(WordflockError, match=words):
            run([*arguments, address])
    with serving(session) as server, pytest.raises(WordflockError, match=r"127.0.0.1:\d+ cannot be listened at"):
        run([*arguments, str(server.server_address[1])])
    with pytest.raises(WordflockError, match=r"There is no .*ca.crt"):
        run([*arguments, "127.0.0.1:0", "--certificates", str(tmp_path / "missing")])


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install '.[dev]')")
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed; `make browser` installs it")
    with playwright.sync_playwright() as started:
        yield started


@contextmanager
def phone(engine: Any, sound: Path, scheme: str = "light") -> Iterator[Any]:
    """A page of a narrow screen in a browser whose microphone plays a file, over and over."""
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    quiet = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    browser = engine.chromium.launch(
        executable_path=shutil.which("chromium"), args=[*fake, *quiet, f"--use-file-for-fake-audio-capture={sound}"]
    )
    try:
        context = browser.new_context(ignore_https_errors=True, viewport=NARROW, color_scheme=scheme)
        yield context.new_page()
    finally:
        browser.close()


def repeated(path: Path) -> Path:
    """A word every 1.9 s, so that each take hears one that is whole: takes last 2.5 s."""
    sound = np.concatenate([np.zeros(RATE), word(0.4), np.zeros(RATE // 2)])
    sound += NOISE * np.random.default_rng(0).standard_normal(len(sound))
    soundfile.write(path, np.tile(sound, 30), RATE, subtype="PCM_16")
    return path


def look(page: Any, name: str) -> None:
    """Nothing is wider than the screen, and nobody is kept from reading it; with SHOTS there is a picture of it."""
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    if AXE.exists():
        found = page.evaluate(AXE.read_text() + "; axe.run()")["violations"]
        assert [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found] == []
    if folder := os.environ.get("SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_records(engine: Any, scheme: str, tmp_path: Path, certificate: tuple[Path, ...]) -> None:
    session = Session(tmp_path / "out", ["hey savant"], "anna", 1)
    with (
        serving(session, certificate) as server,
        phone(engine, repeated(tmp_path / "words.wav"), scheme) as page,
    ):
        messages, requests = list[str](), list[str]()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(server.url)
        look(page, f"{scheme}-start")
        page.click("#start")
        page.wait_for_selector("#stage.now", timeout=30_000)
        look(page, f"{scheme}-now")
        page.wait_for_selector("#finish:not([hidden])", timeout=60_000)
        look(page, f"{scheme}-done")
        assert page.inner_text("#done") == "1 of 1" and page.inner_text("#speaker") == "anna"
        kept, rate = soundfile.read(session.file(Prompt("hey savant", 0)))
        assert rate == RATE and len(kept) / rate == pytest.approx(0.7, abs=0.1) and np.abs(kept).max() > 0.1
        page.click("#again")
        page.locator("#done", has_text="0 of 1").wait_for()
        page.click("#pause")
        look(page, f"{scheme}-paused")
        assert messages == [] and not session.file(Prompt("hey savant", 0)).exists()
        assert all(url.startswith((server.url, "blob:", "data:")) for url in requests)


def test_a_refused_microphone_is_said(engine: Any, tmp_path: Path) -> None:
    with serving(Session(tmp_path, ["yes"], "anna", 1)) as server:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(server.url)
        page.click("#start")
        page.wait_for_selector("#message.bad")
        assert "The microphone cannot be used" in page.inner_text("#message")
        browser.close()
