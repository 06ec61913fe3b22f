"""wordflock server"""

from wordflock.cli import app
from wordflock.cli.options import command
from wordflock.federation_settings import ServerSettings


@command(app, "server")
def server(settings: ServerSettings) -> None:
    """Train a head with real devices, which come to this server over the network."""
    from wordflock.devices.server import serve

    serve(settings)
