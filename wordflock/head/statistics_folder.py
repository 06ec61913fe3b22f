"""Sufficient statistics on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordflock.files import load_tensors, save_tensors
from wordflock.head.closed_form import Scale, Statistics

Array = NDArray[np.float64]


class StatisticsFolder:
    """Statistics on disk, as safetensors files: the total with the scale, and those of single clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, scale: Scale, total: Statistics) -> None:
        """Keep the total."""
        self._save("total", {**total.packed(), **scale.packed()})

    def keep_client(self, client: int, statistics: Statistics) -> None:
        """Keep what a client sent."""
        self._save(f"client-{client}", statistics.packed())

    def read(self) -> tuple[Scale, Statistics]:
        """The scale and the total. Raises WordflockError where there are none."""
        arrays = self._load("total")
        return Scale.unpacked(arrays), Statistics(arrays["triangle"], arrays["cross"], arrays["counts"])

    def client(self, client: int) -> Statistics | None:
        """What a client sent, where it was kept."""
        if not (self.folder / f"client-{client}.safetensors").exists():
            return None
        arrays = self._load(f"client-{client}")
        return Statistics(arrays["triangle"], arrays["cross"], arrays["counts"])

    @property
    def clients(self) -> list[int]:
        """The clients whose statistics were kept, in rising order."""
        return sorted(int(path.stem.removeprefix("client-")) for path in self.folder.glob("client-*.safetensors"))

    def keep_only(self, clients: Iterable[int]) -> None:
        """Delete what others sent, whose statistics are not in the total."""
        names = {f"client-{client}" for client in clients}
        for path in self.folder.glob("client-*.safetensors"):
            if path.stem not in names:
                path.unlink()

    def _save(self, name: str, arrays: dict[str, Array]) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_tensors(self.folder / f"{name}.safetensors", arrays, {})

    def _load(self, name: str) -> dict[str, Array]:
        return load_tensors(self.folder / f"{name}.safetensors")[0]
