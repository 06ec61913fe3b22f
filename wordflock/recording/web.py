"""A recording session on a page for a phone: prompts there, takes checked and kept here.

One page, which loads nothing else, and a few requests below a random token: without it every address is "not found".
The body of a take is raw PCM; its length, its numbers and its prompt are checked before the take is.
"""

from __future__ import annotations

import json
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.errors import WordflockError
from wordflock.http_server import SmallHandler, SmallServer
from wordflock.recording.session import Prompt, Session
from wordflock.recording.takes import ROOM_SECONDS, Samples, TakeFault

TOKEN_LETTERS, TOKEN_LENGTH = "abcdefghjkmnpqrstuvwxyz23456789", 12  # 59 bits, typed on a phone
MIN_RATE, MAX_RATE = 8_000, 192_000  # Hz
MAX_SECONDS = ROOM_SECONDS + 4
TIMEOUT = 20.0  # seconds without a byte, and for a whole body
PAGE = Path(__file__).with_name("page.html")


class WebRecorder(SmallServer):
    """Serves the page of one session, until it is finished."""

    def __init__(
        self,
        session: Session,
        host: str,
        port: int,
        *,
        certificate: tuple[Path, Path] | None,
        room: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`certificate` and its key are for TLS; `say` is told what is kept. Raises WordflockError for an address that
        cannot be listened at, and for files that are not a certificate and its key."""
        self.session, self.say = session, say
        self.lock = Lock()  # of the session and what follows
        self.wants_room = room
        self.last: Prompt | None = None  # the take that was kept last
        self.token = "".join(secrets.choice(TOKEN_LETTERS) for _ in range(TOKEN_LENGTH))
        self._tls = _tls(*certificate) if certificate else None
        try:
            super().__init__(host, port, _Handler)
        except OSError as error:
            raise WordflockError(
                f"--web {host}:{port} cannot be listened at ({error.strerror or error}); take another port or address."
            ) from error

    @property
    def url(self) -> str:
        """The address of the page, the token in it."""
        host, port = self.server_address[:2]
        name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host!s}]" if ":" in str(host) else str(host)
        return f"{'https' if self._tls else 'http'}://{name}:{port}/{self.token}/"

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        missing = self.session.missing()
        total = self.session.takes * len(self.session.words)
        return {
            "speaker": self.session.speaker,
            "done": total - len(missing),
            "total": total,
            "room": round(ROOM_SECONDS) if self.wants_room and not self.session.room.exists() else 0,
            "prompt": asdict(missing[0]) if missing else None,
            "last": self.last is not None,
        }

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(TIMEOUT)
        if not self._tls:
            super().finish_request(request, client_address)
            return
        with self._tls.wrap_socket(request, server_side=True) as wrapped:  # in a thread: nobody waits for a handshake
            super().finish_request(wrapped, client_address)


class _Handler(SmallHandler):
    """One request."""

    server: WebRecorder

    def do_GET(self) -> None:
        match self._path():
            case "":
                nonce = secrets.token_urlsafe(16)
                page = PAGE.read_text(encoding="utf-8").replace("NONCE", nonce)
                self._reply(page.encode(), "text/html; charset=utf-8", nonce=nonce)
            case "state":
                with self.server.lock:
                    self._json(self.server.state())
            case "last" if self.server.last:
                self._reply(self.server.session.file(self.server.last).read_bytes(), "audio/wav")
            case _:
                self._refuse(HTTPStatus.NOT_FOUND, "Not found.")

    def do_POST(self) -> None:
        path = self._path()
        answer = {"room": self._room, "take": self._take, "again": self._again, "finish": self._finish}.get(path or "?")
        if answer is None:
            self._refuse(HTTPStatus.NOT_FOUND, "Not found.")
            return
        try:
            body = self._body()
            with self.server.lock:
                self._json({**answer(body), "state": self.server.state()})
        except _Refused as refused:
            self._refuse(refused.status, str(refused))
        if path == "finish":
            self.server.shutdown()

    def _room(self, body: bytes) -> dict[str, Any]:
        heard = self._sound(body, self._number("rate", MIN_RATE, MAX_RATE))

        def keep() -> str:
            self.server.session.keep_room(heard)
            return "is kept."

        return self._kept("The room", keep)

    def _take(self, body: bytes) -> dict[str, Any]:
        rate = self._number("rate", MIN_RATE, MAX_RATE)
        prompt = Prompt(self._query().get("word", ""), self._number("take", 0, self.server.session.takes - 1))
        begin = self._number("begin", 0, len(body) // 2)
        heard = self._sound(body, rate)
        if prompt not in self.server.session.missing():
            raise _Refused("That take is not missing; load the page again.", HTTPStatus.CONFLICT)

        def keep() -> str:
            take = self.server.session.keep(prompt, heard, round(begin * SAMPLE_RATE / rate))
            assert take  # or it would have been a fault
            self.server.last = prompt
            return f"is kept: {take.seconds:.2f} s, {take.level:.0f} dB."

        return self._kept(f"“{prompt.word}”", keep)

    def _again(self, body: bytes) -> dict[str, Any]:
        if self.server.last:
            self.server.session.forget(self.server.last)
            self.server.last = None
        return {}

    def _finish(self, body: bytes) -> dict[str, Any]:
        return {}

    def _kept(self, what: str, keep: Callable[[], str]) -> dict[str, Any]:
        try:
            message = f"{what} {keep()}"
        except TakeFault as fault:
            self.server.say(f"{what}: {fault}")
            return {"kept": False, "message": f"{what} was {fault}"}
        self.server.say(message)
        return {"kept": True, "message": message}

    def _path(self) -> str | None:
        """What is asked for below the token; None without the token."""
        _, token, *rest = [*urlsplit(self.path).path.split("/"), ""]
        right = secrets.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode())
        return "/".join(rest[:-1]) if right and len(rest) > 1 else None

    def _query(self) -> dict[str, str]:
        try:
            return {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query, max_num_fields=8).items()}
        except ValueError:
            raise _Refused("Too many fields.") from None

    def _number(self, name: str, least: int, most: int) -> int:
        text = self._query().get(name, "")
        if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
            raise _Refused(f"{name} is not a whole number from {least} to {most}.")
        return int(text)

    def _body(self) -> bytes:
        """The body, not larger than a take can be. Raises _Refused for others."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 10):
            raise _Refused("The length is missing.", HTTPStatus.LENGTH_REQUIRED)
        if int(length) > 2 * MAX_SECONDS * MAX_RATE:
            raise _Refused("The recording is too long.", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if self.headers.get("Content-Type") != "application/octet-stream":
            raise _Refused("Send raw samples.", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        body, end = bytearray(), time.monotonic() + TIMEOUT
        while len(body) < int(length):
            part = b""
            with suppress(TimeoutError):
                part = self.rfile.read1(min(65_536, int(length) - len(body)))
            if not part or time.monotonic() > end:
                raise _Refused("The recording is cut short.", HTTPStatus.REQUEST_TIMEOUT)
            body += part
        return bytes(body)

    def _sound(self, body: bytes, rate: int) -> Samples:
        import soxr

        if not body or len(body) % 2 or len(body) > 2 * MAX_SECONDS * rate:
            raise _Refused(f"A recording has 16-bit samples of at most {MAX_SECONDS:.0f} s.")
        samples: Samples = np.frombuffer(body, "<i2").astype(np.float32) / np.float32(2**15)
        resampled: Samples = soxr.resample(samples, rate, SAMPLE_RATE) if rate != SAMPLE_RATE else samples
        return resampled

    def _json(self, content: dict[str, Any]) -> None:
        self._reply(json.dumps(content).encode(), "application/json")

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self._reply(reason.encode(), "text/plain; charset=utf-8", status)

    def _reply(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, nonce: str = "") -> None:
        policy = f"script-src 'nonce-{nonce}' blob:; style-src 'nonce-{nonce}'; img-src data:; " if nonce else ""
        self.begin(kind, len(body), status=status, policy=f"{policy}media-src 'self'; ")
        self.wfile.write(body)


class _Refused(Exception):
    """A request that cannot be answered, and its status."""

    def __init__(self, reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        self.status = status
        super().__init__(reason)


def _tls(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise WordflockError(
            f"{certificate} and {key} are not a certificate and its key ({error.strerror or error}); make them with "
            "'wordflock certificates'."
        ) from error
    return context
