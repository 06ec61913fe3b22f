"""Addresses to listen on and to connect to: HOST:PORT, and which of them stay on this machine."""

from __future__ import annotations

import re
from ipaddress import ip_address

from wordflock.errors import WordflockError

LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"  # of a host name, between dots


def split_address(address: str, option: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [HOST]:PORT. Raises WordflockError for anything else."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (is_ip_address(host) or host_name(host)) or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise WordflockError(
            f"{option} {address!r} is not HOST:PORT, such as 127.0.0.1:8000; the host is a name or an address, and the "
            "port is 65535 at most."
        )
    return host, int(port)


def host_name(name: str) -> str:
    """A host name as networks have it, by the rules of RFC 1123 (and "_", which some local networks use).

    Empty for what is none.
    """
    try:
        host = name.removesuffix(".").encode("idna").decode()
    except UnicodeError:
        return ""
    labels = host.split(".")
    is_name = len(host) <= 253 and all(re.fullmatch(LABEL, label) for label in labels) and not labels[-1].isdecimal()
    return host if is_name else ""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: what listens on it is reached from here only, and no proxy leads to it."""
    return host == "localhost" or (is_ip_address(host) and ip_address(host).is_loopback)


def is_ip_address(host: str) -> bool:
    """Whether a host is an address and not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
