"""A run while it goes on, in the terminal and as a page: what is shown, to whom, and that nobody can hold it up."""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import add_round, write_live_run
from rich.console import Console

from wordflock.errors import WordflockError, WordflockWarning
from wordflock.files import is_locked, locked
from wordflock.http_server import MAX_CONNECTIONS
from wordflock.report import dashboard as module
from wordflock.report.dashboard import dashboard
from wordflock.report.live import CLIENTS, Watched
from wordflock.report.terminal import EIGHTHS, HEIGHT, picture, plot, watch


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_live_run(tmp_path / "run")


@pytest.fixture
def page(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Asks the dashboard of the run for a path."""
    monkeypatch.setattr(module, "INTERVAL", 0.02)
    with dashboard(run, "127.0.0.1:0") as address:
        port = urlsplit(address).port

        def ask(path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request(method, path, headers=headers)
            return connection.getresponse()

        yield ask


def event(response: http.client.HTTPResponse) -> dict[str, str]:
    """The next event of a stream: the parts that changed."""
    line = response.readline()
    while not line.startswith(b"data: "):
        assert line, "the stream has ended"
        line = response.readline()
    return dict(json.loads(line.removeprefix(b"data: ")))


def test_states_follow_the_files_and_the_lock(run: Path) -> None:
    watched = Watched(run)
    assert (watched.now().state, watched.now().done, watched.now().total) == ("stopped", 3, 10)
    with locked(run):
        assert is_locked(run) and watched.now().state == "running"
        add_round(run, 4)
        assert watched.now().done == 4
        (run / "metrics.json").write_text("{}")
    assert not is_locked(run)
    (run / "metrics.json").write_text('{"rounds": 4}')
    assert watched.now().state == "finished"
    assert Watched(run.parent / "later").now().state == "starting"


def test_a_look_does_not_keep_a_run_from_its_folder(run: Path) -> None:
    for _ in range(50):
        assert not is_locked(run)
        with locked(run):
            pass


def test_the_terminal_shows_rounds_clients_and_refusals(run: Path) -> None:
    console = Console(width=80, record=True, force_terminal=True, file=io.StringIO())
    console.print(picture(Watched(run).now(), console))
    text = console.export_text()
    assert "run · stopped · round 3 of 10 · accuracy 83.0%, best 83.0%" in text
    assert "3 of 4 clients online, 1 of 2 replied, 1 refused" in text
    assert "round 3: client 3 sent <b>nonsense</b>" in text and "<i>pi 2</i>" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_without_validation_clips_no_accuracy_is_shown(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    lines = [{**line, "validation_accuracy": 0.0, "validation_loss": 0.0} for line in lines]
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    console = Console(width=80, record=True, force_terminal=True, file=io.StringIO())
    console.print(picture(Watched(run).now(), console))
    assert console.export_text().splitlines()[0].rstrip() == "run · stopped · round 3 of 10"


def test_without_a_terminal_the_state_is_printed_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch(run)
    assert capsys.readouterr().out.startswith("run · stopped · round 3 of 10")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.integers(1, 120), st.booleans())
def test_a_curve_fits_its_place_and_is_highest_where_the_values_are(
    values: list[float], width: int, ascii_only: bool
) -> None:
    lines = plot(values, width, ascii_only=ascii_only)
    assert len(lines) == HEIGHT and all(len(line) <= width + 7 for line in lines)
    if ascii_only:
        assert "".join(lines).isascii()
        return
    shown = values[-width:]
    across = max(1, min(4, width // len(shown)))
    columns = [[line.ljust(width + 7)[7 + across * n] for line in lines] for n in range(len(shown))]
    heights = [sum(EIGHTHS.index(cell) for cell in column) for column in columns]
    for one, other in zip(range(len(shown)), range(1, len(shown)), strict=False):
        assert (heights[one] - heights[other]) * (shown[one] - shown[other]) >= 0


def test_the_page_is_whole_and_asks_no_other_host(page: Any) -> None:
    response = page("/")
    text = response.read().decode()
    assert response.status == 200 and "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "http:" not in text and "https:" not in text
    assert "round 3 of 10" not in text and "3 of 10" in text and "3 of 4" in text
    assert "<i>pi" not in text and "&lt;i&gt;pi 0" in text and "<b>nonsense" not in text


def test_events_tell_what_changed_and_only_that(page: Any, run: Path) -> None:
    stream = page("/events")
    assert set(event(stream)) == {"status", "curve", "clients", "rounds", "refused"}
    add_round(run, 4)
    changed = event(stream)
    assert "4 of 10" in changed["status"] and "clients" not in changed and "refused" not in changed
    (run / CLIENTS).write_text("[]")
    assert set(event(stream)) == {"status", "clients"}


def test_a_damaged_file_is_said_on_the_page_and_mends(page: Any, run: Path) -> None:
    stream = page("/events")
    event(stream)
    (run / CLIENTS).write_text('[{"number": "one"}]')
    assert "clients.json cannot be read" in event(stream)["status"]
    (run / CLIENTS).write_text("[]")
    assert "cannot be read" not in event(stream)["status"]


@pytest.mark.parametrize(
    "host", ["attacker.example", "attacker.example:8080", "", "[::1", "127.0.0.1.attacker.example"]
)
def test_a_name_that_is_not_ours_is_refused(page: Any, host: str) -> None:
    for path in ("/", "/events"):
        assert page(path, Host=host).status == 421


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:80", "192.168.1.10:8080"])
def test_addresses_and_our_own_name_are_answered(page: Any, host: str) -> None:
    assert page("/", Host=host).status == 200


@pytest.mark.parametrize("path", ["/config.toml", "/../config.toml", "/events/", "/?x"])
def test_there_is_nothing_else(page: Any, path: str) -> None:
    assert page(path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(page: Any, method: str) -> None:
    assert page("/", method).status == 501


def test_readers_who_say_or_take_nothing_hold_nobody_up(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.02)
    monkeypatch.setattr(module, "FAREWELL", 0.05)
    with dashboard(run, "127.0.0.1:0") as address:
        port = urlsplit(address).port
        assert port is not None
        silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(MAX_CONNECTIONS)]
        one_more = socket.create_connection(("127.0.0.1", port), timeout=10)
        one_more.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert one_more.recv(100) == b""  # hung up on: all places are taken
        silent.pop().close()  # and now one is free
        stream = None
        while stream is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request("GET", "/events")
                stream = connection.getresponse()
            except (ConnectionError, http.client.RemoteDisconnected):
                continue
        assert "status" in event(stream)
    for reader in (*silent, one_more):
        reader.close()


def test_the_end_is_told_with_the_last_state(run: Path) -> None:
    with dashboard(run, "127.0.0.1:0") as address:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(address).port or 0, timeout=10)
        connection.request("GET", "/events")
        stream = connection.getresponse()
        event(stream)
        (run / "metrics.json").write_text('{"rounds": 3}')
    assert "finished" in event(stream)["status"]
    assert b"event: over" in stream.read()


def test_a_port_that_is_taken_is_said(run: Path) -> None:
    with dashboard(run, "127.0.0.1:0") as address:
        taken = f"127.0.0.1:{urlsplit(address).port}"
        with pytest.raises(WordflockError, match=f"--dashboard {taken} cannot be had"), dashboard(run, taken):
            pass
    with pytest.raises(WordflockError, match="is not HOST:PORT"), dashboard(run, "8080"):
        pass


def test_an_address_that_others_reach_is_warned_about(run: Path) -> None:
    with pytest.warns(WordflockWarning, match="Anyone who reaches"), dashboard(run, "0.0.0.0:0"):
        pass


@pytest.mark.parametrize(
    "line", ["{}", "[1]", "x", '{"validation_accuracy": 1}', '{"validation_accuracy": "high", "round": 1}']
)
def test_a_damaged_history_is_said_from_the_start_and_mends(page: Any, run: Path, line: str) -> None:
    whole = (run / "history.jsonl").read_text()
    (run / "history.jsonl").write_text(line + "\n")
    text = page("/").read().decode()
    assert 'role="alert"' in text and '<div id="clients"></div>' in text
    stream = page("/events")
    event(stream)
    (run / "history.jsonl").write_text(whole)
    assert "3 of 10" in event(stream)["status"]
