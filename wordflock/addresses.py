"""Addresses to listen on and to connect to: HOST:PORT, and which of them stay on this machine."""

from __future__ import annotations

from ipaddress import ip_address

from wordflock.errors import WordflockError


def split_address(address: str, option: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [HOST]:PORT. Raises WordflockError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not int(port) < 65536:
        raise WordflockError(
            f"{option} {address!r} is not HOST:PORT, such as 127.0.0.1:8000; the port is 65535 at most."
        )
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether what listens on a host is reached from this machine only."""
    return host == "localhost" or (is_ip_address(host) and ip_address(host).is_loopback)


def is_ip_address(host: str) -> bool:
    """Whether a host is an address and not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
