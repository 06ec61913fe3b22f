"""Whether there is a server to talk to, directly or through a proxy, and in one sentence why not."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib import request
from urllib.parse import unquote, urlsplit

from wordflock.addresses import host_name, is_ip_address, is_loopback
from wordflock.devices.guard import SERVER_HEADER
from wordflock.errors import WordflockError

TIMEOUT = 10.0  # seconds
CA, CERTIFICATE, KEY = "ca.crt", "server.crt", "server.key"  # in a server's folder
EXPIRED, NOT_YET_VALID, OTHER_NAMES = 10, 9, (62, 64)  # OpenSSL's X509_V_ERR_…


def unreachable(host: str, port: int, context: ssl.SSLContext | None) -> str:
    """Why there is no server to talk to; empty where there is one.

    Raises WordflockError where there is one that must not, or will not, be talked to in this way.
    """
    address = f"{host}:{port}"
    proxy = proxy_to(host, "http" if context is None else "https")
    by = f" by way of the proxy {proxy.host}:{proxy.port} of {proxy.variable}" if proxy else ""
    connection = _connection(host, port, context, proxy)
    try:
        at = f"http://{_bracketed(host)}:{port}" if proxy and context is None else ""
        connection.request("GET", f"{at}/health", headers=proxy.headers if proxy and context is None else {})
        answer = connection.getresponse()
        status, is_ours = answer.status, answer.getheader(SERVER_HEADER) is not None
    except ssl.SSLCertVerificationError as error:
        raise WordflockError(_not_verified(host, address, error)) from error
    except ssl.SSLError as error:
        if "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER" in str(error):
            raise WordflockError(
                f"The server {address} does not speak TLS; check --server, or add --insecure."
            ) from error
        return f"no TLS connection to {address}{by} ({error.reason})"
    except (ConnectionResetError, HTTPException) as error:
        if context is None and not proxy and _speaks_tls(host, port):
            raise WordflockError(f"The server {address} wants TLS; give its CA's certificate with --ca.") from error
        return f"{address} does not answer as a server should{by}"
    except socket.gaierror:
        return f"there is no host {proxy.host if proxy else host}{by}"
    except OSError as error:
        return f"{address} cannot be reached{by} ({error.strerror or error})"
    finally:
        connection.close()
    if status == 200 and not is_ours:
        return f"{address} answers{by}, but is not a Wordflock server; check --server"
    return "" if status == 200 else f"{address} answers with status {status}{by}"


@dataclass(frozen=True)
class Proxy:
    """The proxy that the environment names, and the variable that it does so in."""

    variable: str
    host: str
    port: int
    headers: dict[str, str]  # with its user and password, where it has them


def proxy_to(host: str, scheme: str) -> Proxy | None:
    """The proxy for a server, or None. Raises WordflockError for one that Flower cannot go through."""
    proxies = request.getproxies_environment()
    bypass: Callable[..., bool] = getattr(request, "proxy_bypass_environment")  # noqa: B009  typeshed lacks it
    if is_loopback(host) or bypass(host, proxies):
        return None
    key = scheme if scheme in proxies else "all"
    if key not in proxies:
        return None
    try:
        url = urlsplit(proxies[key] if "://" in proxies[key] else f"http://{proxies[key]}")
        port = url.port or 80
    except ValueError:
        url, port = urlsplit(""), 0
    is_host = url.hostname and (is_ip_address(url.hostname) or host_name(url.hostname))
    if url.scheme != "http" or not is_host:
        kind = f"a {url.scheme} proxy" if is_host else "no address of a proxy"
        raise WordflockError(
            f"The environment variable {key}_proxy names {kind}, which cannot be used for the server {host}; unset it, "
            f"name an HTTP proxy, or add {host} to no_proxy."
        )
    login = f"{unquote(url.username)}:{unquote(url.password or '')}" if url.username else ""
    headers = {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
    return Proxy(f"{key}_proxy", url.hostname or "", port, headers)


def _connection(host: str, port: int, context: ssl.SSLContext | None, proxy: Proxy | None) -> HTTPConnection:
    first, at = (proxy.host, proxy.port) if proxy else (host, port)
    if context is None:
        return HTTPConnection(first, at, timeout=TIMEOUT)
    connection = HTTPSConnection(first, at, timeout=TIMEOUT, context=context)
    if proxy:
        connection.set_tunnel(host, port, headers=proxy.headers)
    return connection


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _not_verified(host: str, address: str, error: ssl.SSLCertVerificationError) -> str:
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    if error.verify_code == EXPIRED:
        return (
            f"The certificate of the server {address} has expired, by this machine's clock ({now}); make another one "
            "with 'wordflock certificates' on the server."
        )
    if error.verify_code == NOT_YET_VALID:
        return f"The certificate of the server {address} is not valid yet; set this machine's clock, which says {now}."
    if error.verify_code in OTHER_NAMES:
        return (
            f"The certificate of the server {address} does not name {host}; check --server, or make another one with "
            f"'wordflock certificates' and --name {host}."
        )
    return (
        f"The server {address} is not certified by the CA of --ca ({error.verify_message}); "
        "check --server and --ca, and the server's --certificates."
    )


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only asked whether it is TLS at all
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT) as raw, context.wrap_socket(raw):
            return True
    except OSError:
        return False


def tls_files(folder: str) -> tuple[Path, Path, Path]:
    """The CA, the certificate of a server and its key in a folder.

    Raises WordflockError where one is missing or cannot be used, or the key is another certificate's.
    """
    files = tuple(Path(folder) / name for name in (CA, CERTIFICATE, KEY))
    for file in files:
        if not file.is_file():
            raise WordflockError(f"There is no {file}; make it with: wordflock certificates {folder}")
    if problem := _unusable(*files):
        raise WordflockError(
            f"The certificates in {folder} cannot be used ({problem}); make others with: wordflock certificates "
            f"{folder}"
        )
    return files[0], files[1], files[2]


def _unusable(ca: Path, certificate: Path, key: Path) -> str:
    """What is wrong with a server's certificates; empty where nothing is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(ca)
        context.load_cert_chain(certificate, key, password=lambda: "")  # never asked for at the terminal
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        return "the key is another certificate's" if reason == "KEY_VALUES_MISMATCH" else str(reason)
    return ""
