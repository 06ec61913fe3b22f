"""wordflock train"""

from wordflock.cli import app
from wordflock.cli.options import command
from wordflock.settings import TrainSettings


@command(app, "train")
def train(settings: TrainSettings) -> None:
    """Train a head with all clips at one node."""
    from wordflock.centralized import train

    train(settings)
