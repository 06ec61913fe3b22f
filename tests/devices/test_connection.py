"""Is there a server, and is it ours: real sockets, real TLS, real proxies on this machine."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import served

from wordflock.addresses import is_loopback, split_address
from wordflock.devices import certificates, processes
from wordflock.devices.connection import proxy_to, unreachable
from wordflock.devices.guard import SERVER_HEADER
from wordflock.errors import WordflockError

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def server(ours: bool, tls: Path | None = None) -> Iterator[tuple[int, list[str]]]:
    """A web server that answers everything with 200; its port, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            if ours:
                self.send_header(SERVER_HEADER, "1")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    web = ThreadingHTTPServer(("", 0), Handler)
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls / "server.crt", tls / "server.key")
        web.socket = context.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
    web.handle_error = lambda *_: None  # type: ignore[method-assign]
    with served(web):
        yield web.server_port, asked


def test_a_web_server_that_answers_health_is_not_taken_for_ours() -> None:
    with server(ours=False) as (port, _):
        assert "is not a Wordflock server" in unreachable("127.0.0.1", port, None)
    with server(ours=True) as (port, _):
        assert unreachable("127.0.0.1", port, None) == ""


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5h://127.0.0.1:9"])
@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_no_proxy_leads_to_this_machine(variable: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, proxy)
    with server(ours=True) as (port, _):
        for host in ("127.0.0.1", "localhost"):
            assert unreachable(host, port, None) == ""


def test_a_server_elsewhere_is_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(ours=True) as (port, asked):
        monkeypatch.setenv("http_proxy", f"http://user:word@127.0.0.1:{port}")
        assert unreachable("server.invalid", 8000, None) == ""
        assert asked == ["http://server.invalid:8000/health"]
    problem = unreachable("server.invalid", 8000, None)
    assert "by way of the proxy 127.0.0.1" in problem and "http_proxy" in problem and "word@" not in problem
    monkeypatch.setenv("no_proxy", "server.invalid")
    assert unreachable("server.invalid", 8000, None) == "there is no host server.invalid"


PROXIES_OF_NO_USE = [
    "socks5h://127.0.0.1:9", "socks4://x:1", "http://:1", "http://x:y", "ftp://x", "http://a b:1", "http://\x01:1", " ",
    "http://" + "a" * 64 + ".b:1", "http://..:1", "http://[zz]:1",
]  # fmt: skip


@pytest.mark.parametrize("proxy", PROXIES_OF_NO_USE)
def test_a_proxy_that_cannot_be_used_is_named(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(WordflockError, match=r"all_proxy names .*, which cannot be used for the server server"):
        proxy_to("server.example", "https")


@pytest.mark.parametrize(
    "host", ["a" * 64, ".", "a..b", " x", "x\n", "x\0", "\u202ex", "http://x", "u@x", "*", "1.2.3", ""]
)
def test_what_is_no_host_is_said(host: str) -> None:
    with pytest.raises(WordflockError, match="is not HOST:PORT"):
        split_address(f"{host}:8000", "--server")


@given(host=st.text(max_size=80), port=st.text(alphabet="0123456789-x८", max_size=7))
def test_an_address_is_split_or_refused(host: str, port: str) -> None:
    try:
        name, number = split_address(f"{host}:{port}", "--server")
    except WordflockError:
        return
    assert name == host.removeprefix("[").removesuffix("]") and 0 <= number < 65536
    name.encode("idna")  # as sockets do


def test_this_machine_is_an_address_or_localhost() -> None:
    assert is_loopback("localhost") and is_loopback("127.0.0.2") and is_loopback("::1")
    assert not is_loopback("127.example.com") and not is_loopback("localhost.example.com")


def test_own_processes_get_no_proxies_and_others_keep_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:9")
    (tmp_path / "python").write_text("#!/bin/sh\nenv\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    for proxies in (False, True):
        log = tmp_path / f"{proxies}.log"
        with processes.flower("superlink", [], log, {}, proxies=proxies) as process:
            process.wait()
        assert ("ALL_PROXY" in log.read_text()) == proxies


def test_the_control_of_a_server_is_not_in_the_way_of_a_socks_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wordflock.devices.control import Control

    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:9")
    Control("127.0.0.1:9", None, tmp_path)


@pytest.mark.parametrize(
    ("days_ago", "names", "fault"),
    [
        (certificates.DAYS + 2, ["127.0.0.1"], "has expired, by this machine's clock"),
        (-3, ["127.0.0.1"], "is not valid yet; set this machine's clock"),
        (0, ["127.0.0.1"], ""),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said(
    days_ago: int, names: list[str], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates.make_certificates(tmp_path, names, [])  # an authority that is valid

    class Then(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) - timedelta(days=days_ago)

    monkeypatch.setattr(certificates, "datetime", Then)
    certificates.make_certificates(tmp_path, names, [])
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    with server(ours=True, tls=tmp_path) as (port, _):
        if not fault:
            assert unreachable("127.0.0.1", port, context) == ""
            return
        with pytest.raises(WordflockError, match=fault):
            unreachable("127.0.0.1", port, context)


def test_another_name_of_the_server_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates.make_certificates(tmp_path, ["127.0.0.1"], [])
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    with server(ours=True, tls=tmp_path) as (port, _):
        with pytest.raises(WordflockError, match=r"does not name 127\.0\.0\.2; .*--name 127\.0\.0\.2"):
            unreachable("127.0.0.2", port, context)
        other = certificates.make_certificates(tmp_path / "other", [], [])
        assert other
        strange = ssl.create_default_context(cafile=str(tmp_path / "other" / "ca.crt"))
        with pytest.raises(WordflockError, match="is not certified by the CA"):
            unreachable("127.0.0.1", port, strange)
