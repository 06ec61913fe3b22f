"""A run as its folder shows it while it goes on: nothing is asked of the run itself.

Rounds or epochs are in history.jsonl; a server of devices also keeps clients.json, below `server/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wordflock.errors import WordflockError
from wordflock.files import is_locked
from wordflock.report.facts import RunFacts
from wordflock.runs import CONFIG, HISTORY, METRICS, read_config, read_history, read_metrics

CLIENTS = Path("server") / "clients.json"
AWAY, ONLINE, ASKED, REPLIED, REFUSED = "away", "online", "asked", "replied", "refused"  # what a client does
State = Literal["starting", "running", "finished", "stopped"]


@dataclass(frozen=True)
class LiveClient:
    """A client of a server, and what it did last."""

    number: int
    name: str
    clips: int
    state: str

    @classmethod
    def of(cls, entry: Any) -> LiveClient:
        """The client of an entry in clients.json. Raises ValueError for what is not one."""
        try:
            client = cls(**entry)
        except TypeError as error:
            raise ValueError(f"{entry!r} is not a client") from error
        if not isinstance(client.number, int) or not isinstance(client.clips, int):
            raise ValueError(f"{entry!r} is not a client")
        return client


@dataclass(frozen=True)
class LiveRun:
    """A run now."""

    facts: RunFacts
    clients: list[LiveClient]  # of a server; empty in other modes
    state: State

    @property
    def total(self) -> int:
        """The rounds or epochs that the run is to have; 0 where that is not known yet."""
        return int(self.facts.options.get("epochs" if self.facts.mode == "train" else "rounds", 0))

    @property
    def done(self) -> int:
        """The number of the last round or epoch that is done."""
        return int(self.facts.history[-1][self.facts.counter]) if self.facts.history else 0

    @property
    def best(self) -> float | None:
        """The best validation accuracy so far; None where there are no validation clips, or no round is done."""
        best = max((line["validation_accuracy"] for line in self.facts.history), default=None)
        # Without clips to score on, accuracy and loss are 0.
        return best if best or any(line.get("validation_loss") for line in self.facts.history) else None

    def count(self, *states: str) -> int:
        """The clients in any of these states."""
        return sum(client.state in states for client in self.clients)


class Watched:
    """A run's folder, of which a file is read again only where it has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, tuple[tuple[int, int], Any]] = {}

    def now(self) -> LiveRun:
        """The run as it is now. Raises WordflockError where a file in it is damaged."""
        config = self._latest(CONFIG, lambda: read_config(self.folder), {})
        history = self._latest(HISTORY, self._history, [])
        metrics = self._latest(METRICS, lambda: read_metrics(self.folder), {})
        clients = self._latest(CLIENTS, self._clients, [])
        facts = RunFacts(self.folder, config, history, metrics, [])
        return LiveRun(facts, clients, self._state(config, metrics))

    def _latest(self, name: str | Path, read: Callable[[], Any], absent: Any) -> Any:
        path = self.folder / name
        try:
            found = path.stat()
        except OSError:
            return absent
        stamp = (found.st_mtime_ns, found.st_size)
        if path not in self._read or self._read[path][0] != stamp:
            try:
                self._read[path] = stamp, read()
            except (OSError, ValueError) as error:
                raise WordflockError(f"{path} cannot be read ({error}); is this the folder of a run?") from error
        return self._read[path][1]

    def _history(self) -> list[dict[str, Any]]:
        history = read_history(self.folder)
        for line in history:
            number, problems = line.get("epoch", line.get("round")), line.get("refused", [])
            if not isinstance(number, int) or not isinstance(problems, list):
                raise ValueError(f"{line!r} is not a line of history")
        return history

    def _clients(self) -> list[LiveClient]:
        entries = json.loads((self.folder / CLIENTS).read_bytes())
        if not isinstance(entries, list):
            raise ValueError("it is not a list")
        return sorted(map(LiveClient.of, entries), key=lambda client: client.number)

    def _state(self, config: dict[str, Any], metrics: dict[str, Any]) -> State:
        if metrics:
            return "finished"
        if not config:
            return "starting"
        return "running" if is_locked(self.folder) else "stopped"
