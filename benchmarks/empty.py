"""Rounds in which nobody trains: what is left is what an engine costs.

The usual head is in every message, and only the training of an epoch is taken out. The same two apps run in this
process (ours.py) and, by their names `benchmarks.empty:server` and `benchmarks.empty:client`, on Flower's engine
(ray_engine.py).
"""

from __future__ import annotations

import json
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from benchmarks.rounds import few_clips, play, timed_rounds
from wordflock.federation import client_app
from wordflock.federation_settings import FederationSettings

MOST = 10_000
vars(client_app)["train_epoch"] = lambda *arguments, **options: 0.0
prepared = play([few_clips()] * MOST)
client = ClientApp()  # on a line each, for Flower reads them before it runs them
server = ServerApp()


@client.query()
def introduce(message: Message, context: Context) -> Message:
    """As Wordflock's own; here, so that a process that unpickles the app imports this module."""
    return client_app.introduce(message, context)


@client.train()
def train(message: Message, context: Context) -> Message:
    """As Wordflock's own, which trains no longer."""
    return client_app.train(message, context)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Leave the seconds in the file that the run's configuration calls `name`."""
    settings = FederationSettings.from_config(context.run_config)
    Path(settings.name).write_text(json.dumps(timed_rounds(grid, settings, prepared)))
