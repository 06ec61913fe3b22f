"""The folder of a run: everything that one training leaves behind.

config.toml (the settings), history.jsonl (a line an epoch or round), best.safetensors and last.safetensors,
metrics.json, accuracy.png, and TensorBoard's events.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from wordflock.checkpoint import Checkpoint, save_checkpoint, write_atomically
from wordflock.errors import WordflockError
from wordflock.settings import HeadSettings


class Run:
    """One run's folder, and the best validation accuracy in it so far."""

    def __init__(self, settings: HeadSettings, mode: str, *, going_on: bool = False) -> None:
        """Makes the folder. Raises WordflockError where it holds a run already, unless `going_on` with that one."""
        import tomli_w

        name = settings.name or time.strftime(f"{mode}-%Y%m%d-%H%M%S")
        self.folder = Path(settings.runs) / name
        if (self.folder / "config.toml").exists() and not going_on:
            raise WordflockError(f"The run {self.folder} exists already; give another --name, or delete that folder.")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "config.toml", tomli_w.dumps({"mode": mode, **settings.as_config()}).encode())
        self.history = read_history(self.folder) if going_on else []
        self.best = max((line["validation_accuracy"] for line in self.history), default=-1.0)
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(self.folder))

    def record(self, counter: str, checkpoint: Checkpoint, **values: Any) -> bool:
        """Keep the checkpoint of one epoch or round (`counter`) and its line of history; tells whether it is the best.

        The checkpoint comes first: a run that dies in between goes on from it and writes the line anew.
        """
        number = checkpoint.training[counter]
        accuracy = checkpoint.training["validation_accuracy"]
        save_checkpoint(self.folder / "last.safetensors", checkpoint)
        best = accuracy > self.best
        if best:
            self.best = accuracy
            save_checkpoint(self.folder / "best.safetensors", checkpoint)
        line = {counter: number, "validation_accuracy": accuracy, **values}
        self.history = [old for old in self.history if old[counter] < number] + [line]
        lines = "".join(json.dumps(old) + "\n" for old in self.history)
        write_atomically(self.folder / "history.jsonl", lines.encode())
        for key, value in line.items():
            if isinstance(value, float):
                self._events.add_scalar(key.replace("_", "/", 1), value, number)
        return bool(best)

    def finish(self, counter: str, metrics: dict[str, Any]) -> None:
        """Write metrics.json and the accuracy curve."""
        from wordflock.report import plot_accuracy

        write_atomically(self.folder / "metrics.json", json.dumps(metrics, indent=2).encode())
        plot_accuracy(self.history, counter, self.folder / "accuracy.png")
        self._events.close()


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's history."""
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
