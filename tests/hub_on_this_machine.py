"""A server on this machine in place of the Hugging Face Hub, for tests of what is fetched from it and sent to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

import pytest
from serving import served

COMMIT = "c0ffee" + "0" * 34


class HubServer(ThreadingHTTPServer):
    """Holds the files of one repository."""

    files: dict[str, bytes]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    """One request; subclasses know the paths."""

    def answer(self, status: int, content: object, headers: Mapping[str, str] = {}) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


Server = TypeVar("Server", bound=HubServer)


@contextmanager
def in_place_of_the_hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Let huggingface_hub ask this server, which starts without files."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server.files = {}
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with served(server):
        yield server
