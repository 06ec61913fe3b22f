"""Finished tables of large data sets, kept in the cache: a second start looks at names, sizes and times only.

A table is found again while everything that it was made from is as it was: this code, the options, the contents of a
`--table`, and of every file its path, size, inode, and times of change of its content and of its inode. A file that is
written to gets another time of its inode, whatever is done to the other one. A table is not kept where a file was
changed right before, for a second change within the clock's resolution could not be told from the first; nor where a
file could not be read, for it is tried again.
"""

from __future__ import annotations

import gc
import json
import os
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.data.clips import Clip, ClipTable, Fault
from wordflock.data.listing import walk
from wordflock.data.scan import Scan
from wordflock.errors import WordflockError, WordflockWarning
from wordflock.files import load_tensors, save_tensors
from wordflock.progress import report, reporting

FOLDER = "tables"  # in the cache
MIN_KEPT = 10_000  # clips; with fewer it would save less than a second
MAX_TABLES = 20  # the last ones written stay
SETTLED = 2.0  # seconds that the last change must be away: clocks of file systems are coarse

Array = NDArray[Any]


def kept_table(
    source: str | Path,
    options: Sequence[object],
    cache: Path,
    look: Callable[[], Scan],
    make: Callable[[Scan], ClipTable],
) -> ClipTable:
    """The table that `make` gives of what a `look` at a folder or archive finds, or that it gave earlier with the same
    options, while the files are as they were. What it reported and warned of is said again.

    What goes wrong with the cache costs time and nothing else.
    """
    real = os.path.realpath(source)
    name = sha256(repr([real, *options]).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    path = cache / FOLDER / f"{name}.safetensors"
    state, settled = state_of(Path(real))
    key = sha256(repr([code(), state, *options]).encode("utf-8", "surrogateescape")).hexdigest()
    with suppress(WordflockError, OSError, ValueError, KeyError):
        if path.exists():
            table, said_before = _read(path, key)
            _say(said_before)
            return table
    scan = look()
    readable = all(recording.content for recording in scan.recordings)
    table, said = _made(scan, make)
    del scan  # a million files take 400 MB of it, and writing needs room
    if state and settled and readable and len(table.clips) >= MIN_KEPT:
        with suppress(OSError, ValueError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, key, table, said)
            written = sorted(path.parent.glob("*.safetensors"), key=lambda one: one.stat().st_mtime_ns)
            for old in written[:-MAX_TABLES]:
                old.unlink(missing_ok=True)
    return table


def state_of(source: Path) -> tuple[str, bool]:
    """A digest of what is known of all files without opening them, "" where they cannot be listed; and whether the last
    change is far enough away for the next one to be noticed."""
    digest, newest, now = blake2b(digest_size=32), 0, time.time_ns()
    try:
        found: Iterable[tuple[str, str, os.stat_result]]
        found = walk(source) if source.is_dir() else [("", str(source), source.stat())]
        for _, path, about in found:
            line = f"{path}\0{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino}\0"
            digest.update(line.encode("utf-8", "surrogateescape"))
            newest = max(newest, about.st_mtime_ns, about.st_ctime_ns)
    except (OSError, RuntimeError):
        return "", False
    return digest.hexdigest(), newest < now - SETTLED * 1e9


@cache
def code() -> str:
    """A digest of the modules that tables are made by."""
    digest = sha256()
    for folder in (Path(__file__).parent, Path(__file__).parents[1] / "audio"):
        for module in sorted(folder.glob("*.py")):
            digest.update(module.read_bytes())
    return digest.hexdigest()


def _made(scan: Scan, make: Callable[[Scan], ClipTable]) -> tuple[ClipTable, list[tuple[str, str]]]:
    """What `make` gives, and what it said meanwhile."""
    said: list[tuple[str, str]] = []
    try:
        with warnings.catch_warnings(record=True) as caught, reporting(lambda line: said.append(("report", line))):
            warnings.simplefilter("always", WordflockWarning)
            with _no_collection():
                table = make(scan)
    finally:  # what was wrong with it is said before an error, too
        said += [("warning", str(one.message)) for one in caught if issubclass(one.category, WordflockWarning)]
        _say(said)
    return table, said


def _say(said: Iterable[Sequence[str]]) -> None:
    for kind, line in said:
        if kind == "report":
            report(line)
        else:
            warnings.warn(line, WordflockWarning, stacklevel=5)


# The file: columns of numbers, and of texts with a NUL between them, which no name has.


def _write(path: Path, key: str, table: ClipTable, said: Sequence[tuple[str, str]]) -> None:
    about: dict[str, Any] = {"key": key, "said": said, "source": table.source, "protocol": table.protocol}
    parts = {"clips": table.clips, "background": table.background}
    arrays = {f"{part}.{name}": column for part, clips in parts.items() for name, column in _columns(clips)}
    arrays["faults.name"] = _packed([fault.name for fault in table.faults])
    arrays["faults.reason"] = _packed([fault.reason for fault in table.faults])
    about["crc"] = _crc(arrays)
    save_tensors(path, arrays, {"about": json.dumps(about)})


def _read(path: Path, key: str) -> tuple[ClipTable, list[Sequence[str]]]:
    """Raises ValueError for a table of something else and a damaged one."""
    arrays, metadata = load_tensors(path)
    about = json.loads(metadata["about"])
    if about["key"] != key or about["crc"] != _crc(arrays):
        raise ValueError("another table")
    with _no_collection():
        clips, background = (tuple(_clips(arrays, part)) for part in ("clips", "background"))
    faults = map(Fault, _unpacked(arrays["faults.name"]), _unpacked(arrays["faults.reason"]))
    return ClipTable(about["source"], about["protocol"], clips, background, tuple(faults)), about["said"]


_TEXTS = ("name", "content")
_CATEGORIES = ("word", "speaker", "split", "folder")  # many clips have the same
_NUMBERS = {"seconds": np.float64, "offset": np.int64, "size": np.int64, "start": np.float64, "gain": np.float64}


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from looking for garbage among a million new objects, which takes as long as making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _columns(clips: Sequence[Clip]) -> Iterator[tuple[str, Array]]:
    for name in _TEXTS:
        yield name, _packed([getattr(clip, name) for clip in clips])
    for name in _CATEGORIES:
        values = [_folder(clip) if name == "folder" else getattr(clip, name) for clip in clips]
        places = {value: place for place, value in enumerate(dict.fromkeys(values))}
        yield f"{name}.all", _packed(list(places))
        yield name, np.fromiter(map(places.__getitem__, values), np.int32, len(values))
    for name, kind in _NUMBERS.items():
        numbers = (getattr(clip, name) for clip in clips)
        yield name, np.fromiter((np.nan if number is None else number for number in numbers), kind, len(clips))


def _clips(arrays: dict[str, Array], part: str) -> Iterator[Clip]:
    columns: dict[str, Iterable[Any]] = {name: _unpacked(arrays[f"{part}.{name}"]) for name in _TEXTS}
    for name in _CATEGORIES:
        columns[name] = map(_unpacked(arrays[f"{part}.{name}.all"]).__getitem__, arrays[f"{part}.{name}"].tolist())
    for name in _NUMBERS:
        columns[name] = arrays[f"{part}.{name}"].tolist()
    # A folder's name ends with "/": the file in it has the clip's name; else it is the path of an archive.
    columns["path"] = (
        f"{folder}{name}" if folder.endswith("/") else folder
        for folder, name in zip(columns["folder"], columns["name"], strict=True)
    )
    starts = (None if start != start else start for start in columns["start"])
    order = ("word", "speaker", "split", "seconds", "path", "name", "offset", "size", "content")
    return map(Clip, *(columns[name] for name in order), starts, columns["gain"])


def _folder(clip: Clip) -> str:
    """The path without the clip's name at its end, with a "/"; the whole path where that is not there."""
    folder = clip.path.removesuffix(clip.name)
    return folder if folder.endswith("/") else clip.path


def _packed(texts: Sequence[str]) -> NDArray[np.uint8]:
    """The texts, each with a NUL after it. Raises ValueError where one has a NUL itself."""
    joined = "".join(f"{text}\0" for text in texts)
    if joined.count("\0") != len(texts):
        raise ValueError("a text has a NUL")
    return np.frombuffer(joined.encode("utf-8", "surrogateescape"), np.uint8)


def _unpacked(packed: NDArray[np.uint8]) -> list[str]:
    return packed.tobytes().decode("utf-8", "surrogateescape").split("\0")[:-1]


def _crc(arrays: dict[str, Array]) -> int:
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).data.cast("B"), zlib.crc32(name.encode(), crc))
    return crc
