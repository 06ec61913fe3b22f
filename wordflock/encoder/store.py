"""The feature store: encode each clip once, memory-map its features ever after.

A store is a folder for one encoder, window and layer. `features.bin` holds rows of float16, one a clip, and
`index.sqlite` says which clip has which row. A row is written, and forced to the disk, before the index names it, and
both happen inside one transaction that shuts out other writers: whatever is killed, and whenever, no half-written row
is ever served, and two processes can fill one store.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import warnings
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.augment import NOWHERE, Surroundings
from wordflock.audio.reading import SAMPLE_RATE, fit
from wordflock.data.clips import Clip
from wordflock.data.loading import read_samples
from wordflock.encoder.backend import batch_size
from wordflock.encoder.spec import FeatureSpec
from wordflock.errors import WordflockError, WordflockWarning, counted
from wordflock.progress import progress

if TYPE_CHECKING:
    from torch import Tensor

AUGMENTED_SHARE = 0.5  # of the clips in a training batch that come as one of their augmented versions

# By features file: what it was when its rows were checked, and the rows that this process has checked.
_CHECKED: dict[Path, tuple[tuple[int, int, int], set[int]]] = {}


@dataclass(frozen=True)
class Features:
    """The features and labels of some clips; the features stay on the disk until a batch of them is asked for."""

    array: NDArray[np.float16]  # (rows of the store, frames, width), memory-mapped
    rows: NDArray[np.int64]  # (clips,), where in `array` each clip is
    labels: NDArray[np.int64]  # (clips,)
    augmentations: NDArray[np.int64] | None = None  # (clips, versions), where its augmented versions are

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, chosen: NDArray[np.int64] | slice) -> Features:
        """Some of the clips."""
        augmentations = None if self.augmentations is None else self.augmentations[chosen]
        return Features(self.array, self.rows[chosen], self.labels[chosen], augmentations)

    def part(self, start: int, stop: int) -> Features:
        """The clips from `start` up to `stop`."""
        return self.select(slice(start, stop))

    def versions(self) -> Iterator[Features]:
        """All clips as they were recorded, then augmented version 1 of all, and so on."""
        yield Features(self.array, self.rows, self.labels)
        for rows in () if self.augmentations is None else self.augmentations.T:
            yield Features(self.array, rows, self.labels)

    def batch(self, chosen: NDArray[np.int64], generator: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Features, float32 of shape (chosen, frames, width), and labels of shape (chosen,).

        Given a generator, half of the clips, drawn by it, are replaced by one of their augmented versions.
        """
        import torch

        rows = self.rows[chosen]
        if generator is not None and self.augmentations is not None:
            drawn = self.augmentations[chosen, generator.integers(self.augmentations.shape[1], size=len(chosen))]
            rows = np.where(generator.random(len(chosen)) < AUGMENTED_SHARE, drawn, rows)
        return torch.from_numpy(self.array[rows]).float(), torch.from_numpy(self.labels[chosen])


def encode_clips(clips: Sequence[Clip], labels: Sequence[int], spec: FeatureSpec, cache: Path, device: str) -> Features:
    """The features of clips, encoding those that the store below `cache` does not have yet.

    Augmented versions are clips of their own here: see `with_augmentations`.

    Interrupted, it keeps what it has read so far; killed, it loses the few batches in memory. Raises WordflockError
    where a clip can no longer be read, the disk is full or the store is damaged.
    """
    store = FeatureStore(cache, spec)
    keys = [clip.key for clip in clips]
    known = store.rows(keys)
    missing = {clip.key: clip for clip in clips if clip.key not in known}
    if missing:
        _encode(sorted(missing.values(), key=lambda clip: (clip.path, clip.offset)), store, device)
        known = store.rows(keys)
    rows = np.array([known[key] for key in keys], dtype=np.int64)
    return Features(store.array(), rows, np.array(labels, dtype=np.int64))


def with_augmentations(clips: Sequence[Clip], count: float, surroundings: Surroundings = NOWHERE) -> list[Clip]:
    """The clips, then augmented version 1 of all of them, in the given surroundings, and so on; with a `count` below 1
    the clips alone, of which that share are replaced by version 1; not windows made of clips, which are in noise and
    rooms already.

    Which ones follows from the clips, so that it does not depend on who has them.
    """
    if count < 1:
        limit = count * 2**32
        return [
            clip
            if clip.view or zlib.crc32(clip.key.encode()) >= limit
            else replace(clip, augmentation=1, surroundings=surroundings)
            for clip in clips
        ]
    numbers = range(1, int(count) + 1)
    augmented = [replace(clip, augmentation=n, surroundings=surroundings) for n in numbers for clip in clips]
    return [*clips, *augmented]


def gathered(features: Features, clips: int) -> Features:
    """The features of `clips` clips from those of `with_augmentations`, each clip with its augmented versions."""
    rows = features.rows.reshape(-1, clips)
    return Features(features.array, rows[0], features.labels[:clips], rows[1:].T if len(rows) > 1 else None)


def _encode(clips: Sequence[Clip], store: FeatureStore, device: str) -> None:
    import torch
    from threadpoolctl import threadpool_limits

    from wordflock.encoder.backend import open_encoder

    encode = open_encoder(store.spec, device)
    samples = round(store.spec.window * SAMPLE_RATE)
    together = batch_size(store.spec, device)

    def encoded(batch: NDArray[np.float32]) -> NDArray[np.float16]:
        torch.set_num_threads(1)
        return encode(batch)

    # A thread a core, each with batches of its own: they never wait for one another, as the threads inside torch and
    # numpy do (numpy's spin while they wait), and the features do not depend on how many there are.
    workers, threads = os.cpu_count() or 1, torch.get_num_threads()
    recordings = read_samples(clips)
    pending: deque[tuple[list[str], Future[NDArray[np.float16]]]] = deque()

    def read(count: int) -> NDArray[np.float32]:
        return np.stack([fit(next(recordings), samples) for _ in range(count)])

    def keep() -> None:
        keys, features = pending.popleft()
        store.add(keys, features.result())
        advance(len(keys))

    try:
        with (
            threadpool_limits(1, user_api="blas"),
            ThreadPoolExecutor(workers) as pool,
            ThreadPoolExecutor(1) as reader,
            progress("encoding", len(clips), "clips") as advance,
        ):
            for start in range(0, len(clips), together):
                keys = [clip.key for clip in clips[start : start + together]]
                # Not in this thread: Ctrl-C is raised here, and inside libsndfile's callbacks it would be swallowed.
                batch = reader.submit(read, len(keys)).result()
                pending.append((keys, pool.submit(encoded, batch)))
                if len(pending) > 2 * workers:  # so that none is idle while the oldest is stored
                    keep()
            while pending:
                keep()
    except BaseException:
        with suppress(WordflockError):
            while pending:
                keep()
        raise
    finally:
        torch.set_num_threads(threads)


class FeatureStore:
    """The features of one spec, on disk. A store that is complete may be read-only."""

    def __init__(self, cache: Path, spec: FeatureSpec) -> None:
        """Opens the store below `cache`, and makes it where there is none.

        Raises WordflockError where the store is damaged or cannot be written.
        """
        self.folder = cache / "features" / spec.folder
        self.spec = spec
        self._file, self._database = self.folder / "features.bin", self.folder / "index.sqlite"
        files = (self.folder, self._file, self._database)
        self._read_only = not all(os.access(path, os.W_OK) for path in files if path.exists())
        with self._index() as index:
            if not self._read_only:
                index.execute(
                    "CREATE TABLE IF NOT EXISTS clips"
                    " (row INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, width INTEGER NOT NULL, crc INTEGER NOT NULL)"
                )

    def rows(self, keys: Sequence[str]) -> dict[str, int]:
        """The row of every key whose features the store has, undamaged.

        The CRC-32 of a row is checked the first time that a process asks for it. Damaged rows leave the index, with a
        warning, so that their clips are encoded again.
        """
        with self._index() as index:
            index.execute("CREATE TEMP TABLE wanted (key TEXT PRIMARY KEY)")
            index.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((key,) for key in keys))
            found = index.execute("SELECT key, row, crc FROM clips JOIN wanted USING (key)").fetchall()
            damaged = self._damaged_rows({row: crc for _, row, crc in found})
            if damaged:
                if self._read_only:
                    raise self._damaged()
                index.executemany("DELETE FROM clips WHERE row = ? AND crc = ?", damaged.items())
        if damaged:
            warnings.warn(
                f"{counted(len(damaged), 'clip', 'have')} damaged features in {self.folder}, which are encoded again.",
                WordflockWarning,
                stacklevel=2,
            )
        return {key: row for key, row, _ in found if row not in damaged}

    def check(self, rows: Iterable[int]) -> None:
        """Raises WordflockError where a row is damaged or is no longer in the index."""
        with self._index() as index:
            crcs = dict(index.execute("SELECT row, crc FROM clips").fetchall())
        wanted = {row: crcs.get(row, -1) for row in rows}
        if self._damaged_rows(wanted):
            raise self._damaged()

    def _damaged_rows(self, crcs: dict[int, int]) -> dict[int, int]:
        """Those of the rows, given with their CRC-32, that do not have it."""
        array, about = self.array(), self._file.stat()
        signature = (about.st_ino, about.st_mtime_ns, about.st_size)  # other bytes are checked again
        known, checked = _CHECKED.get(self._file, (signature, set[int]()))
        if known != signature:
            checked = set()
        size = self.spec.frames * array.shape[2] * array.itemsize
        content = memoryview(np.asarray(array).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        damaged = {}
        for row in sorted(crcs.keys() - checked):
            if row < len(array) and zlib.crc32(content[row * size : (row + 1) * size]) == crcs[row]:
                checked.add(row)
            else:
                damaged[row] = crcs[row]
        _CHECKED[self._file] = signature, checked
        return damaged

    def add(self, keys: Sequence[str], features: NDArray[np.float16]) -> None:
        """Write the features, shape (keys, frames, width), of clips; what is there already stays as it is."""
        with self._index() as index:
            index.execute("BEGIN IMMEDIATE")  # from here to the commit nobody else writes
            rows, _ = _extent(index)
            with self._file.open("r+b") as file:
                file.seek(rows * features[0].nbytes)
                for key, feature in zip(keys, features, strict=True):
                    if index.execute("SELECT 1 FROM clips WHERE key = ?", (key,)).fetchone():
                        continue  # another process was faster, or it stands twice
                    content = feature.tobytes()
                    file.write(content)
                    entry = (rows, key, features.shape[2], zlib.crc32(content))
                    index.execute("INSERT INTO clips VALUES (?, ?, ?, ?)", entry)
                    rows += 1
                file.flush()
                os.fsync(file.fileno())
            index.execute("COMMIT")

    def array(self) -> NDArray[np.float16]:
        """All rows, shape (rows, frames, width), memory-mapped and read-only."""
        with self._index() as index:
            rows, width = _extent(index)
            if rows:  # fewer where the file was cut short
                rows = min(rows, self._file.stat().st_size // (self.spec.frames * width * 2))
            shape = (rows, self.spec.frames, width)
            return np.memmap(self._file, np.float16, "r", shape=shape) if rows else np.empty(shape, np.float16)

    @contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        """The index, opened for one piece of work; what goes wrong with the disk is said in one sentence."""
        try:
            if not self._read_only:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file.open("ab").close()  # which, unlike touch, leaves the time of the last change
            address = self._database.absolute().as_uri() + "?mode=ro" * self._read_only
            index = sqlite3.connect(address, timeout=60, isolation_level=None, uri=True)
            try:
                index.execute("PRAGMA temp_store=MEMORY")  # reading must go on when the disk is full
                yield index
            finally:
                index.close()  # what was not committed is as if it had never been
        except (OSError, sqlite3.OperationalError) as error:
            code = getattr(error, "sqlite_errorcode", None)
            if getattr(error, "errno", None) == errno.ENOSPC or code == sqlite3.SQLITE_FULL:
                raise WordflockError(
                    f"The disk is full below {self.folder}; make room and run again: what is encoded so far is kept."
                ) from error
            raise WordflockError(
                f"The feature store {self.folder} cannot be used ({error}); name another folder with --cache."
            ) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise self._damaged() from error

    def _damaged(self) -> WordflockError:
        return WordflockError(f"The feature store {self.folder} is damaged; delete that folder and run again.")


def _extent(index: sqlite3.Connection) -> tuple[int, int]:
    """How many rows there are, and the width of their features (0 in an empty store)."""
    rows, width = index.execute("SELECT COALESCE(MAX(row) + 1, 0), COALESCE(MAX(width), 0) FROM clips").fetchone()
    return int(rows), int(width)
