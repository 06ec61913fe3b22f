"""wordflock certificates"""

from pathlib import Path
from typing import Annotated

import typer

from wordflock.cli import app
from wordflock.cli.options import command


@command(app, "certificates")
def certificates(
    folder: Annotated[str, typer.Argument(help="Folder for the files; an authority that is there is used again.")],
    name: Annotated[list[str], typer.Option(help="Host name or address that clients know the server by; repeatable.")],
    client: Annotated[list[str], typer.Option(help="Name of a client to make a key for; repeatable.")] = [],  # noqa: B006
) -> None:
    """Make a certificate authority, the server's certificate, and keys for clients."""
    from wordflock.devices.certificates import make_certificates

    for path in make_certificates(Path(folder), name, client):
        print(path)
