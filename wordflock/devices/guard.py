"""What stands before a SuperLink: who may call it, and how much a request may hold."""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

OUTPUT = "WORDFLOCK_OUTPUT"  # environment: the file for what users should see
SECRET = "WORDFLOCK_SECRET"  # environment: the file with what those who control a SuperLink must know
READY = "WORDFLOCK_READY"  # environment: the file that is there once clients may come
OPEN_TO_CLIENTS = ("/v1/fleet/", "/health")
FLEET, CONTROL = "/v1/fleet/", "/v1/control/"
SECRET_HEADER = "wordflock-secret"
SERVER_HEADER = "wordflock-server"  # in the answer to /health: by it a client knows a server of ours from any other
MAX_BODY = {  # bytes of a request by its path
    "/v1/fleet/push-object": 8 << 20,  # Flower cuts arrays into chunks of 5 MiB
    "/v1/fleet/push-messages": 1 << 20,  # identifiers of a message's parts
    "/v1/fleet/": 64 << 10,
    "/health": 0,
    "/": 64 << 20,  # from this machine only
}
MAX_IN_FLIGHT = 256 << 20  # bytes of all requests that are being received or answered

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """Refuses what comes from other machines and is not for them, and requests that are too large; says so.

    Who controls the SuperLink must know its secret as well: another user of this machine, or whoever comes through a
    tunnel or a proxy on it, does not.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app, self._ready = app, Path(os.environ[READY])
        self._secret = Path(os.environ[SECRET]).read_bytes()
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request, or answer it with the status of a refusal."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, peer = scope["path"], (scope.get("client") or ("", 0))[0]
        if status := self._refusal(scope, path, peer):
            await _answer(send, status)
            return
        body, held = bytearray(), 0
        try:
            while True:
                event = await receive()
                if event["type"] != "http.request":
                    return  # the peer is gone
                part = event.get("body", b"")
                if len(body) + len(part) > max_body(path) or self._in_flight + len(part) > MAX_IN_FLIGHT:
                    full = len(body) + len(part) <= max_body(path)
                    await _answer(send, 503 if full else 413)  # a client takes 503 for "try again"
                    return
                body += part
                held += len(part)
                self._in_flight += len(part)
                if not event.get("more_body", False):
                    break
            await self._app(scope, _replay(bytes(body), receive), self._watched(path, peer, send))
        finally:
            self._in_flight -= held

    def _refusal(self, scope: Scope, path: str, peer: str) -> int:
        """The status with which a request is refused before its body is read; 0 where it is not."""
        if not path.startswith(OPEN_TO_CLIENTS) and not same_machine(peer, (scope.get("server") or ("", 0))[0]):
            tell(f"{peer} was turned away: {path} is for this machine only")
            return 403
        headers = dict(scope["headers"])
        if path.startswith(CONTROL) and not secrets.compare_digest(
            headers.get(SECRET_HEADER.encode(), b""), self._secret
        ):
            tell(f"{peer} was turned away: {path} is for this server's own processes only")
            return 403
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > max_body(path):
            tell(f"{peer} was turned away: its request to {path} is larger than {max_body(path)} bytes")
            return 413
        # A client takes this for "try again", and an unknown key for the end.
        return 503 if path.startswith(FLEET) and not self._ready.exists() else 0

    def _watched(self, path: str, peer: str, send: Send) -> Send:
        async def watched(message: MutableMapping[str, Any]) -> None:
            status = message.get("status", 200)
            if path in (f"{FLEET}activate-node", f"{FLEET}register-node") and status >= 400:
                tell(f"a client at {peer} was turned away: its key is not among those of --authorized-keys")
            if path == "/health" and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), (SERVER_HEADER.encode(), b"1")]}
            await send(message)

        return watched


def max_body(path: str) -> int:
    """How many bytes a request to a path may hold: by the longest beginning in MAX_BODY."""
    return MAX_BODY[max((known for known in MAX_BODY if path.startswith(known)), key=len, default="/")]


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the app the body that was received, and then what else comes."""
    events = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_event() -> MutableMapping[str, Any]:
        return events.pop() if events else await receive()

    return next_event


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def same_machine(peer: str, own: str) -> bool:
    """Whether a connection from address `peer` to our address `own` stays on this machine."""
    try:
        return peer == own or ip_address(peer).is_loopback
    except ValueError:
        return False


def tell(line: str) -> None:
    """Say something to the user at the terminal, who does not see Flower's log; in one line, whoever it speaks of."""
    with Path(os.environ[OUTPUT]).open("a") as file:
        file.write("".join(c for c in line if c.isprintable()) + "\n")
