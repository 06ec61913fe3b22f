"""A web server for a few readers: none of them holds up the others, or the program; and what it says of its pages."""

from __future__ import annotations

import socket
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import BoundedSemaphore
from typing import Any

MAX_CONNECTIONS = 16  # at a time


class SmallServer(ThreadingHTTPServer):
    """Answers each reader in a thread of its own, and hangs up on more than MAX_CONNECTIONS."""

    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        """Raises OSError where the address cannot be had."""
        self.places = BoundedSemaphore(MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        """Take the address, without asking the name service who we are, as HTTPServer does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin to answer one reader, or hang up."""
        if self.places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one reader."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away is nobody's concern; anything else is a fault of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class SmallHandler(BaseHTTPRequestHandler):
    """Answers one request. A browser keeps nothing of what it gets, loads nothing from elsewhere, and shows no page of
    ours in a frame of another site."""

    def begin(
        self, kind: str, length: int | None = None, *, status: HTTPStatus = HTTPStatus.OK, policy: str = ""
    ) -> None:
        """Send the status and the headers; `policy` is what a page may do beyond asking this server."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")  # an address may hold a token
        self.send_header("X-Content-Type-Options", "nosniff")
        nothing_else = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        self.send_header("Content-Security-Policy", f"default-src 'none'; connect-src 'self'; {policy}{nothing_else}")
        self.end_headers()

    def version_string(self) -> str:
        """What we are, without the version of Python."""
        return "wordflock"

    def log_message(self, *_: object) -> None:
        """Requests are not logged: addresses may hold a token."""
