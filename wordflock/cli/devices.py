"""Commands for training with real devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wordflock.cli.options import command
from wordflock.federation_settings import ClientSettings, ServerSettings


@command
def server(settings: ServerSettings) -> None:
    """Train a head with real devices, which come to this server over the network."""
    from wordflock.devices.server import serve

    serve(settings)


@command
def client(settings: ClientSettings) -> None:
    """Take part in a server's training with this device's own recordings, which stay here."""
    from wordflock.devices.client import serve_rounds

    serve_rounds(settings)


@command
def certificates(
    folder: Annotated[str, Parameter(help="Folder for the files; an authority that is there is used again.")],
    /,
    *,
    name: Annotated[list[str], Parameter(help="Host name or address that clients know the server by; repeatable.")],
    client: Annotated[
        list[str] | None, Parameter(help="Name of a client to make a key for; repeatable.", negative=())
    ] = None,
) -> None:
    """Make a certificate authority, the server's certificate, and keys for clients."""
    from wordflock.devices.certificates import make_certificates

    for path in make_certificates(Path(folder), name, client or []):
        print(path)
