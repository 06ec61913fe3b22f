"""wordflock simulate"""

from wordflock.cli import app
from wordflock.cli.options import command
from wordflock.federation_settings import FederationSettings


@command(app, "simulate")
def simulate(settings: FederationSettings) -> None:
    """Train a head over simulated clients, each with its own clips, in this process."""
    from wordflock.federation.simulation import simulate

    simulate(settings)
