"""The feature store: encode each clip once, memory-map its features ever after.

A store is a folder for one encoder, window and layer. `features.bin` holds rows of float16, one a clip, and
`index.sqlite` says which clip has which row. A row is written, and forced to the disk, before the index names it, and
both happen inside one transaction that shuts out other writers: whatever is killed, and whenever, no half-written row
is ever served, and two processes can fill one store.
"""

from __future__ import annotations

import errno
import math
import os
import re
import sqlite3
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordflock.audio import SAMPLE_RATE, fit
from wordflock.data import read_samples
from wordflock.data.clips import Clip
from wordflock.errors import WordflockError
from wordflock.processor import computes_bfloat16
from wordflock.progress import progress
from wordflock.settings import POOLED_HEADS, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from wordflock.weights import Dimensions, Source

BATCH_FRAMES = 1_120  # 16 clips of 1.4 s: more of them fall out of the processor's cache and take longer each
CUDA_BYTES_A_FRAME = 200_000  # of the encoder's work, at most; chosen on paper, as no GPU was at hand
CUDA_MOST_CLIPS = 2_048
CHECKED_ROWS = 32
FRAMES_PER_SECOND = 50
SHORTEST_WINDOW, LONGEST_WINDOW = 0.2, 30.0  # seconds
VARIED_SHARE = 0.5  # of the clips in a training batch that come as one of their variants


@dataclass(frozen=True)
class FeatureSpec:
    """What makes features what they are. Two clips' features go together only when this is the same for both."""

    encoder: str
    fingerprint: str
    window: float  # seconds, a whole number of 20 ms frames
    layer: str  # "last" is the top layer after the final norm; "2" the second layer as it is; "2+last" both
    pooled: bool = False  # over the frames: their mean and standard deviation in place of two frames
    frame_pooling: int = 1  # neighbouring frames that become one (see encoder.py); the last of a clip may be of fewer
    precision: str = "float32"  # in which the encoder computes; what is stored is float16 in any case
    runtime: str = "torch"  # which computes it, to the same digits but the last

    @property
    def frames(self) -> int:
        """Frames in a clip's features: of 50 a second, those that pooling leaves."""
        return 2 if self.pooled else math.ceil(round(self.window * FRAMES_PER_SECOND) / self.frame_pooling)

    @property
    def kind(self) -> str:
        """What a head must know of features to work on them. Precision and runtime are no part of it: heads are as
        often right on features of other ones (docs/performance.md), so one federation may have unlike processors."""
        merged = merged_frames(self.frame_pooling)
        frames = f"-by{'2x' if merged == 2 else ''}{self.frame_pooling // merged}" if self.frame_pooling > 1 else ""
        pooling = frames + "-pooled" * self.pooled
        return f"{self.fingerprint[:16]}-{self.window:.2f}s-{self.layer}{pooling}"

    @property
    def folder(self) -> str:
        """The store's folder below the cache."""
        way = f"-{self.precision}" * (self.precision != "float32") + f"-{self.runtime}" * (self.runtime != "torch")
        return self.kind + way

    def here(self) -> FeatureSpec:
        """These features as this machine makes them: not in bfloat16 where the processor would have to imitate it."""
        return self if computes_bfloat16() else replace(self, precision="float32")


def merged_frames(frame_pooling: int) -> int:
    """How many neighbouring frames become one after the encoder's first layer already, of those that do in the end."""
    return 2 if frame_pooling % 2 == 0 else 1


def spec_of(settings: Settings) -> FeatureSpec:
    """The spec of the features that the settings ask for, in the way that is fastest on this machine where they leave
    it open. Raises WordflockError as `feature_spec` and `choose_way` do."""
    from wordflock.runtime import choose_way

    runtime, precision = choose_way(settings)
    pooled, by = settings.head in POOLED_HEADS, settings.frame_pooling
    return feature_spec(settings.encoder, settings.window, settings.layer, pooled, by, precision, runtime)


def feature_spec(
    encoder: str,
    window: float,
    layer: str,
    pooled: bool = False,
    frame_pooling: int = 1,
    precision: str = "float32",
    runtime: str = "torch",
) -> FeatureSpec:
    """The spec of an encoder's features; finds the encoder, but does not load it.

    Raises WordflockError for a window outside 0.2 to 30 s, a layer that is neither "last" nor a number, and an
    encoder that is nowhere.
    """
    from wordflock.weights import find  # here, because who only reads a store has no use for it

    if not SHORTEST_WINDOW <= window <= LONGEST_WINDOW:
        raise WordflockError(f"A window of {window} s is outside {SHORTEST_WINDOW} to {LONGEST_WINDOW:.0f} s.")
    if not names_layers(layer):
        raise WordflockError(
            f"Layer {layer!r} is neither 'last' nor a number from 1 on, nor rising ones joined by '+'."
        )
    frames = round(window * FRAMES_PER_SECOND)
    # The pooling over all frames leaves nothing for that of neighbours to do, but after the first layer.
    by = merged_frames(frame_pooling) if pooled else frame_pooling
    fingerprint, window = find(encoder).fingerprint, frames / FRAMES_PER_SECOND
    return FeatureSpec(encoder, fingerprint, window, layer, pooled, by, precision, runtime)


def weights_for(spec: FeatureSpec, source: Source | None = None) -> tuple[Dimensions, dict[str, NDArray[np.float32]]]:
    """The sizes and the tensors of a spec's encoder, from wherever they are: `source`, where they were found.

    Raises WordflockError for a window that is longer than it can see.
    """
    from wordflock.weights import find, load

    dimensions, tensors = load(source or find(spec.encoder))
    if spec.window * FRAMES_PER_SECOND > dimensions.positions:
        raise WordflockError(
            f"The encoder {spec.encoder} sees {dimensions.positions / FRAMES_PER_SECOND} s at most; "
            f"take a shorter --window than {spec.window}."
        )
    return dimensions, tensors


def highest_layer(layer: str, dimensions: Dimensions) -> int:
    """The last layer that has to be computed. Raises WordflockError where the encoder does not have all of them."""
    depths = [dimensions.layers if part == "last" else int(part) for part in layer.split("+")]
    if min(depths) < 1 or max(depths) > dimensions.layers:
        raise WordflockError(f"The encoder has layers 1 to {dimensions.layers}, and not all of {layer}.")
    return max(depths)


def names_layers(layer: str) -> bool:
    """Whether this is "last", a number from 1 on, or rising ones joined by "+"."""
    parts = layer.split("+")
    if not all(re.fullmatch("last|[1-9][0-9]?", part) for part in parts):
        return False
    depths = [math.inf if part == "last" else int(part) for part in parts]
    return depths == sorted(set(depths))


@dataclass(frozen=True)
class Features:
    """The features and labels of some clips; the features stay on the disk until a batch of them is asked for."""

    array: NDArray[np.float16]  # (rows of the store, frames, width), memory-mapped
    rows: NDArray[np.int64]  # (clips,), where in `array` each clip is
    labels: NDArray[np.int64]  # (clips,)
    variants: NDArray[np.int64] | None = None  # (clips, variants), where in `array` each clip's variants are

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, chosen: NDArray[np.int64] | slice) -> Features:
        """Some of the clips."""
        variants = None if self.variants is None else self.variants[chosen]
        return Features(self.array, self.rows[chosen], self.labels[chosen], variants)

    def part(self, start: int, stop: int) -> Features:
        """The clips from `start` up to `stop`."""
        return self.select(slice(start, stop))

    def batch(self, chosen: NDArray[np.int64], generator: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Features, float32 of shape (chosen, frames, width), and labels of shape (chosen,).

        Given a generator, half of the clips, drawn by it, are replaced by one of their variants, where there are any.
        """
        import torch

        rows = self.rows[chosen]
        if generator is not None and self.variants is not None:
            drawn = self.variants[chosen, generator.integers(self.variants.shape[1], size=len(chosen))]
            rows = np.where(generator.random(len(chosen)) < VARIED_SHARE, drawn, rows)
        return torch.from_numpy(self.array[rows]).float(), torch.from_numpy(self.labels[chosen])


def encode_clips(clips: Sequence[Clip], labels: Sequence[int], spec: FeatureSpec, cache: Path, device: str) -> Features:
    """The features of clips, encoding those that the store below `cache` does not have yet.

    Variants are clips of their own here: see `with_variants`.

    Interrupted, it keeps what it has read so far; killed, it loses the few batches in hand. Raises WordflockError where
    a clip can no longer be read, the disk is full or the store is damaged.
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


def with_variants(clips: Sequence[Clip], count: int) -> list[Clip]:
    """The clips, then variant 1 of all of them, and so on."""
    return [replace(clip, variant=number) for number in range(count + 1) for clip in clips]


def gathered(features: Features, clips: int) -> Features:
    """The features of `clips` clips from those of `with_variants`, each clip with its variants at hand."""
    rows = features.rows.reshape(-1, clips)
    return Features(features.array, rows[0], features.labels[:clips], rows[1:].T if len(rows) > 1 else None)


def _encode(clips: Sequence[Clip], store: FeatureStore, device: str) -> None:
    import torch
    from threadpoolctl import threadpool_limits

    from wordflock.runtime import open_encoder

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


def batch_size(spec: FeatureSpec, device: str) -> int:
    """Clips that are encoded together: what the processor's cache holds, or a GPU's free memory. Two at the least, for
    one takes as long (`encoder.encode`)."""
    frames, most = BATCH_FRAMES, math.inf
    if device == "cuda":
        import torch

        frames, most = torch.cuda.mem_get_info()[0] // CUDA_BYTES_A_FRAME, CUDA_MOST_CLIPS
    return int(min(most, max(2, frames // round(spec.window * FRAMES_PER_SECOND))))


class FeatureStore:
    """The features of one spec, on disk."""

    def __init__(self, cache: Path, spec: FeatureSpec) -> None:
        """Opens the store below `cache`, and makes it where there is none.

        Raises WordflockError where the store is damaged or cannot be written.
        """
        self.folder = cache / "features" / spec.folder
        self.spec = spec
        self._file = self.folder / "features.bin"
        with self._index() as index:
            index.execute(
                "CREATE TABLE IF NOT EXISTS clips"
                " (row INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, width INTEGER NOT NULL, crc INTEGER NOT NULL)"
            )
            rows, _ = _extent(index)
            sample = index.execute("SELECT row, crc FROM clips WHERE row % ? = 0", (max(1, rows // CHECKED_ROWS),))
            written = sample.fetchall()
        array = self.array()
        # A sample of the rows is enough to tell a file that something else has written to.
        if any(zlib.crc32(array[row].tobytes()) != crc for row, crc in written):
            raise self._damaged()

    def rows(self, keys: Sequence[str]) -> dict[str, int]:
        """The row of every key that the store has."""
        with self._index() as index:
            index.execute("CREATE TEMP TABLE wanted (key TEXT PRIMARY KEY)")
            index.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((key,) for key in keys))
            return dict(index.execute("SELECT key, row FROM clips JOIN wanted USING (key)").fetchall())

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
            shape = (rows, self.spec.frames, width)
            if not rows:
                return np.empty(shape, dtype=np.float16)
            if self._file.stat().st_size < rows * self.spec.frames * width * 2:
                raise self._damaged()
            return np.memmap(self._file, dtype=np.float16, mode="r", shape=shape)

    @contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        """The index, opened for one piece of work; what goes wrong with the disk is said in one sentence."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file.touch()
            index = sqlite3.connect(self.folder / "index.sqlite", timeout=60, isolation_level=None)
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
            raise WordflockError(f"The feature store {self.folder} cannot be used: {error}.") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise self._damaged() from error

    def _damaged(self) -> WordflockError:
        return WordflockError(f"The feature store {self.folder} is damaged; delete that folder and run again.")


def _extent(index: sqlite3.Connection) -> tuple[int, int]:
    """How many rows there are, and the width of their features (0 in an empty store)."""
    rows, width = index.execute("SELECT COALESCE(MAX(row) + 1, 0), COALESCE(MAX(width), 0) FROM clips").fetchone()
    return int(rows), int(width)
