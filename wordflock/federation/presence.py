"""Who is connected, asked and heard from: `server/clients.json` in the folder of a run on devices, for those who watch.

The server is not slowed down: the file is written when something changed, at most twice a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from wordflock.files import write_atomically
from wordflock.report.live import AWAY, CLIENTS, ONLINE, LiveClient

if TYPE_CHECKING:
    from wordflock.federation.roster import Client

INTERVAL = 0.5  # seconds between two versions of the file


class Presence:
    """The clients of a run by number; without a folder nobody can watch, and nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / CLIENTS if folder else None
        self._clients: dict[int, LiveClient] = {}
        self._written: dict[int, LiveClient] | None = None
        self._when = 0.0

    def see(self, clients: Iterable[Client], connected: Collection[int]) -> None:
        """Take over who is connected, by the numbers of nodes."""
        for client in clients if self._path else ():
            before = self._clients.get(client.number)
            here = client.node in connected
            state = AWAY if not here else ONLINE if before is None or before.state == AWAY else before.state
            self._clients[client.number] = LiveClient(client.number, client.name, client.clips, state)
        self.write()

    def tell(self, state: str, clients: Iterable[Client]) -> None:
        """Say what clients do now."""
        for client in clients if self._path else ():
            self._clients[client.number] = LiveClient(client.number, client.name, client.clips, state)
        self.write()

    def write(self, *, now: bool = False) -> None:
        """Write the file where something changed: `now`, or if the last time is long enough ago."""
        if self._path is None or self._clients == self._written:
            return
        if not now and time.monotonic() - self._when < INTERVAL:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, json.dumps([asdict(client) for client in self._clients.values()]).encode())
        self._written, self._when = dict(self._clients), time.monotonic()
