"""The training clips that sound most like the mistakes of a head: `neighbours.json` in a run's folder.

A test clip that is in training as well, or a clip with a wrong label, has a neighbour that is nearly the same sound.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.data.clips import Clip
from wordflock.encoder.store import Features
from wordflock.errors import WordflockError
from wordflock.files import write_atomically

NEIGHBOURS = "neighbours.json"
CHUNK = 1024  # clips whose features are in memory together


@dataclass(frozen=True)
class Neighbour:
    """The training clip that is nearest to a test clip."""

    clip: str  # the test clip: name and start in seconds, as in predictions.csv
    start: float
    nearest: str  # the training clip's name
    speaker: str
    label: str
    similarity: float  # cosine of their mean features, from which the mean over training clips is subtracted; 1: equal


def nearest(
    chosen: Sequence[tuple[str, float]], test: Features, train: Features, clips: Sequence[Clip], labels: Sequence[str]
) -> list[Neighbour]:
    """The nearest training clip of each chosen test clip, which has its row in `test`; `clips` are those of `train`."""
    if not chosen or not len(train):
        return []
    known = _means(train)
    middle = known.mean(axis=0)
    similarity = _directions(_means(test) - middle) @ _directions(known - middle).T
    found = []
    for (name, start), row in zip(chosen, similarity, strict=True):
        best = int(row.argmax())
        about = clips[best]
        label = labels[train.labels[best]]
        found.append(Neighbour(name, start, about.name, about.speaker, label, float(row[best])))
    return found


def write_neighbours(folder: Path, neighbours: Sequence[Neighbour]) -> None:
    """Write them into a run's folder."""
    write_atomically(folder / NEIGHBOURS, json.dumps([asdict(one) for one in neighbours], indent=1).encode())


def read_neighbours(folder: Path) -> list[Neighbour]:
    """Those of a run; empty where it has none. Raises WordflockError for a damaged file."""
    path = folder / NEIGHBOURS
    try:
        entries: Any = json.loads(path.read_bytes()) if path.is_file() else []
        return [Neighbour(**entry) for entry in entries]
    except (TypeError, ValueError) as error:
        raise WordflockError(f"{path} is damaged ({error}); delete it, and the report will do without it.") from error


def _means(features: Features) -> NDArray[np.float32]:
    """The mean over frames of each clip's features, of shape (clips, width)."""
    parts = [
        features.array[features.rows[start : start + CHUNK]].mean(axis=1, dtype=np.float32)
        for start in range(0, len(features), CHUNK)
    ]
    return np.concatenate(parts)


def _directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return directions
