"""`--dashboard`: a page about a run that goes on. It updates itself by server-sent events, and changes nothing.

The page is made from the run's folder, once a second while someone looks at it. A slow or malicious reader can hold one
of a few connections for a while, and nothing else. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wordflock.addresses import is_ip_address, is_loopback, split_address
from wordflock.errors import WordflockError, WordflockWarning
from wordflock.http_server import MAX_CONNECTIONS, SmallHandler, SmallServer
from wordflock.report.facts import RunFacts
from wordflock.report.live import AWAY, LiveRun, Watched
from wordflock.report.sections import SOLVED, Section, curve, refused, share_of

INTERVAL = 1.0  # seconds between two looks at the run's folder
BEAT = 15.0  # seconds without news after which a connection is tried: the reader may be gone
PATIENCE = 10.0  # seconds that a reader has to take what it is sent, and to say what it wants
FAREWELL = 1.0  # seconds that readers have at the end to take the last state
MAX_ROWS = 200  # of a table


@contextmanager
def dashboard(folder: Path, address: str) -> Iterator[str]:
    """Serve the page about the run in a folder at HOST:PORT until the block ends; yields the page's URL.

    Port 0 takes one that is free. A host that other machines reach is warned about. Raises WordflockError where the
    address cannot be had.
    """
    host, port = split_address(address, "--dashboard")
    try:
        server = _Server(folder, host, port)
    except OSError as error:
        raise WordflockError(f"--dashboard {address} cannot be had: {error.strerror or error}.") from error
    if not is_loopback(host):
        warnings.warn(
            f"Anyone who reaches {address} can read the dashboard: names of clients, accuracy, refusals. "
            "Take 127.0.0.1 and a tunnel (ssh -L) if that is not what you want.",
            WordflockWarning,
            stacklevel=3,
        )
    thread = threading.Thread(target=server.serve_forever, daemon=True, name="dashboard")
    thread.start()
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/"
    finally:
        server.end()
        thread.join()


class _Feed:
    """The parts of the page as they are now, for all connections: each gets the newest version, and may miss others."""

    def __init__(self, folder: Path) -> None:
        self._watched, self._changed = Watched(folder), threading.Condition()
        self._parts: dict[str, str] = {}
        self._version, self._looked = 0, 0.0
        self.over = False

    def after(self, version: int) -> tuple[int, dict[str, str]]:
        """Wait for a version after this one, or for the time that a connection may be silent; returns the newest."""
        until = time.monotonic() + BEAT
        with self._changed:
            while True:
                self._look()
                left = until - time.monotonic()
                if self._version > version or self.over or left <= 0:
                    return self._version, self._parts
                self._changed.wait(min(INTERVAL, left))

    def end(self) -> None:
        """Have every connection sent the last state."""
        with self._changed:
            self._looked = 0.0
            self._look()
            self.over = True
            self._changed.notify_all()

    def _look(self) -> None:
        if time.monotonic() - self._looked < INTERVAL and self._version:
            return  # another connection has just looked
        self._looked = time.monotonic()
        try:
            parts = parts_of(self._watched.now())
        except WordflockError as error:
            parts = {**self._parts, "status": _render("status.html.j2", problem=str(error), headline=[])}
        if parts != self._parts:
            self._parts, self._version = parts, self._version + 1
            self._changed.notify_all()


def parts_of(run: LiveRun) -> dict[str, str]:
    """The parts of the page that change, as HTML by their id."""
    facts = run.facts
    sections = {"curve": curve(facts), "clients": _clients(run), "rounds": _rounds(facts), "refused": refused(facts)}
    return {
        "status": _render("status.html.j2", problem="", headline=_headline(run)),
        **{key: _section(section) for key, section in sections.items()},
    }


def _headline(run: LiveRun) -> list[tuple[str, str]]:
    """The figures on top of the page."""
    facts = run.facts
    total = f" of {run.total}" if run.total else ""
    lines = [("state", run.state), (facts.counter, f"{run.done}{total}")]
    if run.best is not None:
        lines.append(("validation accuracy", share_of(facts.history[-1]["validation_accuracy"])))
        lines.append(("best so far", share_of(run.best)))
    if facts.solved:
        lines.append((SOLVED, share_of(facts.solved[1])))
    if run.clients:
        here = len(run.clients) - run.count(AWAY)
        lines.append(("clients online", f"{here} of {len(run.clients)}"))
    if test := facts.test:
        lines.append(("test accuracy", share_of(test["accuracy"])))
    return lines


def _clients(run: LiveRun) -> Section:
    rows = [[client.number, client.name, client.clips, client.state] for client in run.clients]
    text = "" if len(rows) <= MAX_ROWS else f"The first {MAX_ROWS} of {len(rows)}."
    columns = ["client", "name", "clips", "state"]
    return Section("Clients", text, columns=columns, rows=rows[:MAX_ROWS], open=True)


def _rounds(facts: RunFacts) -> Section:
    """The newest rounds first."""
    rows: list[Sequence[object]] = [
        [
            line[facts.counter],
            share_of(line["validation_accuracy"]),
            _number(line.get("train_loss"), ".4f"),
            len(line.get("clients", ())) or "–",
            len(line.get("refused", ())),
            _number(line.get("seconds"), ".1f"),
        ]
        for line in facts.history[: -MAX_ROWS - 1 : -1]
    ]
    columns = [facts.counter, "accuracy", "loss", "clients", "refused", "seconds"]
    return Section(f"{facts.counter.capitalize()}s", columns=columns, rows=rows, open=True)


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "–"


def _section(section: Section) -> str:
    return _render("section.html.j2", section=section) if section.rows else ""


def _render(template: str, **values: Any) -> str:
    from wordflock.report.page import templates

    return templates().get_template(template).render(**values)


class _Server(SmallServer):
    """The page of one run."""

    def __init__(self, folder: Path, host: str, port: int) -> None:
        self.feed, self.host, self.title = _Feed(folder), host, folder.resolve().name
        self.nonce = secrets.token_urlsafe(16)
        super().__init__(host, port, _Reader)

    def end(self) -> None:
        """Send everyone the last state, and stop."""
        self.shutdown()
        self.feed.end()
        until = time.monotonic() + FAREWELL
        for _ in range(MAX_CONNECTIONS):  # all are free once nobody is connected
            if not self.places.acquire(timeout=max(0.0, until - time.monotonic())):
                break
        self.server_close()


class _Reader(SmallHandler):
    """One request: for the page, or for what changes in it."""

    server: _Server
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Answer a request."""
        if not self._is_for_us():
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.path == "/":
            self._page()
        elif self.path == "/events":
            with suppress(OSError):  # the reader is gone, or too slow
                self._events()
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _is_for_us(self) -> bool:
        """Whether the reader knows us by an address or by our own name.

        So a page of another site cannot have its own name lead here, and read this page (DNS rebinding).
        """
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:
            return False
        own = {"localhost", self.server.host, socket.gethostname()}
        return is_ip_address(host) or host.removesuffix(".local") in {
            name.lower().removesuffix(".local") for name in own
        }

    def _page(self) -> None:
        _, parts = self.server.feed.after(0)
        page = _render("live.html.j2", title=self.server.title, parts=parts, nonce=self.server.nonce).encode()
        policy = f"img-src data:; style-src 'unsafe-inline'; script-src 'nonce-{self.server.nonce}'; "
        self.begin("text/html; charset=utf-8", len(page), policy=policy)
        self.wfile.write(page)

    def _events(self) -> None:
        self.begin("text/event-stream; charset=utf-8")
        version, sent = 0, dict[str, str]()
        while True:
            version, parts = self.server.feed.after(version)
            changed = {key: part for key, part in parts.items() if sent.get(key) != part}
            sent = parts
            self.wfile.write(f"data: {json.dumps(changed)}\n\n".encode() if changed else b": still here\n\n")
            if self.server.feed.over:
                self.wfile.write(b"event: over\ndata:\n\n")
                return
