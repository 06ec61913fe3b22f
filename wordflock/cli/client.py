"""wordflock client"""

from wordflock.cli import app
from wordflock.cli.options import command
from wordflock.federation_settings import ClientSettings


@command(app, "client")
def client(settings: ClientSettings) -> None:
    """Take part in a server's training with this device's own recordings, which stay here."""
    from wordflock.devices.client import serve_rounds

    serve_rounds(settings)
