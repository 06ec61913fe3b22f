"""A real device's own clips: encoded once, before it connects; a round finds them by one small file.

Every message to a device starts a process of its own (Flower's SuperNode does so), which should load nothing that it
does not need: no data set is read in a round, no encoder, no partitioner.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from wordflock.data.clips import Clip, ClipTable
from wordflock.data.task import SILENCE, UNKNOWN, Examples, Task
from wordflock.encoder.spec import FeatureSpec
from wordflock.encoder.store import Features, FeatureStore
from wordflock.errors import WordflockError
from wordflock.federation_settings import ClientSettings
from wordflock.files import write_atomically

_Placed = tuple[Clip, str]  # a clip and its word

MAX_CLIENTS = 10**9  # numbers of devices that nobody numbered are below this


@dataclass(frozen=True)
class Device:
    """What a device knows about its clips. Their words become labels when a server says which words it teaches."""

    client: int
    name: str
    cache: str
    spec: FeatureSpec
    train: list[tuple[list[int], str]]  # the rows of a clip and its variants in the feature store, and its word
    holdout: list[tuple[list[int], str]]
    encode_seconds: float
    min_clips: int = 8
    secure_aggregation: bool = False

    def features(self, labels: list[str]) -> tuple[Features, Features]:
        """The clips for training and those held back, without the ones whose words the task has no place for."""
        task, store = Task.of_labels(labels), FeatureStore(Path(self.cache), self.spec)
        store.check(row for rows, _ in (*self.train, *self.holdout) for row in rows)
        array = store.array()

        def chosen(clips: list[tuple[list[int], str]]) -> Features:
            placed = [(rows, label) for rows, word in clips if (label := task.label_of(word)) is not None]
            rows = np.array([rows for rows, _ in placed] or np.empty((0, 1)), dtype=np.int64)
            numbers = np.array([label for _, label in placed], dtype=np.int64)
            return Features(array, rows[:, 0], numbers, rows[:, 1:] if rows.shape[1] > 1 else None)

        return chosen(self.train), chosen(self.holdout)


def prepare_device(settings: ClientSettings) -> Path:
    """Encode the device's clips, and write down where they are; returns that file, which `load_device` reads.

    Raises WordflockError where there are no clips, or the number of the client is not below that of all clients.
    """
    from wordflock.encoder.backend import spec_of
    from wordflock.prepare import encode_augmented, load_table

    if not settings.data:
        raise WordflockError("A client needs recordings; say where they are with --data.")
    if settings.cid is not None and not 0 <= settings.cid < settings.clients:
        raise WordflockError(f"--cid {settings.cid} is not one of 0 to {settings.clients - 1}; see --clients.")
    table = load_table(settings)
    train, holdout = _of_simulation(table, settings) if settings.cid is not None else _own(table, settings)
    chosen = [*train, *holdout]
    if not chosen:
        raise WordflockError(f"There are no clips in {table.source}; --data names a folder with a folder a word.")
    spec = spec_of(settings)
    started = time.perf_counter()
    features = encode_augmented([clip for clip, _ in chosen], [0] * len(chosen), spec, settings, settings)
    versions = np.stack([version.rows for version in features.versions()], axis=1).tolist()
    seconds = time.perf_counter() - started
    placed = [(versions[place], word) for place, (_, word) in enumerate(chosen)]
    cache = settings.cache_folder.resolve()
    known = Device(
        _number(settings),
        settings.name,
        str(cache),
        spec,
        placed[: len(train)],
        placed[len(train) :],
        seconds,
        settings.min_clips,
        settings.secure_aggregation,
    )
    name = sha256(json.dumps(settings.as_config(), sort_keys=True).encode()).hexdigest()[:16]
    path = cache / "devices" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(known)).encode())
    return path


def load_device(path: str) -> Device:
    """Read what `prepare_device` wrote."""
    known = json.loads(Path(path).read_text())
    return Device(**{**known, "spec": FeatureSpec(**known["spec"])})


def _of_simulation(table: ClipTable, settings: ClientSettings) -> tuple[list[_Placed], list[_Placed]]:
    """Clips and their words as this client has them in a simulation, for training and held back."""
    from wordflock.data.task import examples
    from wordflock.partition import hold_back, partition_clips
    from wordflock.prepare import task_of, training_examples

    assert settings.cid is not None
    task = task_of(table, settings)
    base = examples(table, task, "train", settings.seed)
    labels = np.array(base.labels, dtype=np.int64)
    parts = partition_clips([clip.speaker for clip in base.clips], labels, settings)
    train, holdout = hold_back(parts[settings.cid], settings.holdout, settings.seed, settings.cid)
    return _parts(training_examples(base, task, settings), task, train, holdout)


def _own(table: ClipTable, settings: ClientSettings) -> tuple[list[_Placed], list[_Placed]]:
    """All clips of this device and their words, for training and held back."""
    from wordflock.data.task import examples
    from wordflock.partition import hold_back
    from wordflock.prepare import training_examples

    words = tuple(sorted({clip.word for clip in table.clips} - {SILENCE, UNKNOWN}))
    task = Task(words, silence=settings.for_streams or bool(table.background), unknown=True)
    # A device's own recordings are all for training.
    splits = [examples(table, task, split, settings.seed) for split in ("train", "validation", "test")]
    base = Examples.of(
        (clip for those in splits for clip in those.clips), (label for those in splits for label in those.labels)
    )
    train, holdout = hold_back(np.arange(len(base.clips)), settings.holdout, settings.seed, _number(settings))
    return _parts(training_examples(base, task, settings), task, train, holdout)


def _parts(
    whole: Examples, task: Task, train: NDArray[np.int64], holdout: NDArray[np.int64]
) -> tuple[list[_Placed], list[_Placed]]:
    """The clips at some places with the windows made of them, and those at others without."""

    def placed(places: NDArray[np.int64]) -> list[_Placed]:
        return [(whole.clips[place], task.labels[whole.labels[place]]) for place in places]

    return placed(whole.made_of(train)), placed(holdout)


def _number(settings: ClientSettings) -> int:
    """The number of the client: the same whenever this device comes back with the same data."""
    if settings.cid is not None:
        return settings.cid
    name = (
        settings.name
        or f"{socket.gethostname()}:{' + '.join(str(Path(source).resolve()) for source in settings.sources)}"
    )
    return crc32(name.encode()) % MAX_CLIENTS
