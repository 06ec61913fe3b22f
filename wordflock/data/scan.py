"""What is in the files of a data set: looked at once, remembered in a small database ever after."""

from __future__ import annotations

import json
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from wordflock.audio.faults import AudioFault
from wordflock.audio.reading import Decoder
from wordflock.data.bounds import MAX_LIST, MAX_RECORDING
from wordflock.data.clips import Clip, Fault
from wordflock.data.listing import Entry, Listing, Reader, list_files
from wordflock.data.manifests import encoding_of
from wordflock.data.names import printable
from wordflock.errors import WordflockError, WordflockWarning, counted
from wordflock.progress import progress

MIN_SECONDS = 0.1  # seconds; less cannot hold a word

_VERSION = 4  # of the tables below and of what counts as a fault; another one rebuilds the database
_TABLES = """
DROP TABLE IF EXISTS archives; DROP TABLE IF EXISTS files;
CREATE TABLE archives (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, root TEXT, entries TEXT, faults TEXT);
CREATE TABLE files (
    path BLOB, offset INTEGER, size INTEGER, mtime_ns INTEGER, content TEXT, seconds REAL, fault TEXT, text TEXT,
    PRIMARY KEY (path, offset)
) WITHOUT ROWID;
"""
_BATCH = 256  # files in a transaction: what a killed scan loses at most
_BATCH_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Recording:
    """What a look at one audio file found: its content and length, or its fault."""

    entry: Entry
    content: str  # SHA-256 of its bytes, hexadecimal
    seconds: float
    fault: str  # "" for a usable one

    def clip(self, word: str, speaker: str, split: str) -> Clip:
        """The clip that is this whole recording."""
        entry = self.entry
        return Clip(word, speaker, split, self.seconds, entry.path, entry.name, entry.offset, entry.size, self.content)


@dataclass(frozen=True)
class Scan:
    """All recordings of a data set, sorted by name, and those of its text files that were asked for."""

    listing: Listing
    recordings: tuple[Recording, ...]
    texts: dict[str, str]  # by name


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at a file's bytes tells; a row of the database."""

    content: str = ""  # SHA-256; "" for what could not be read, and is tried again next time
    seconds: float = 0.0
    fault: str = ""
    text: str = ""
    cancels: bool = False  # whether its channels are in opposite phase; told of when it is looked at, and not kept


def scan_files(source: str | Path, cache: Path, is_text: Callable[[str], bool] = lambda name: False) -> Scan:
    """List a folder or archive and decode every recording in it to its end, but only where nobody did so before.

    What was found is kept in `files.sqlite` in the folder `cache`, by path, place, size and time of change; an archive
    that has not changed is not opened at all. `is_text` tells, by its name, whether a text file's contents are wanted.
    Raises WordflockError for a source that cannot be listed and a cache that cannot be written; warns of a damaged
    database, which is rebuilt.
    """
    database = Path(cache) / "files.sqlite"
    try:
        with _open(database) as files:
            return _scan(source, files, is_text)
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:  # its subclasses do not mean damage
            raise _unusable(database, error) from error
        warnings.warn(f"{database} is damaged ({error}) and is rebuilt.", WordflockWarning, stacklevel=2)
    try:
        for name in (database, database.with_name("files.sqlite-journal")):
            name.unlink(missing_ok=True)
        with _open(database) as files:
            return _scan(source, files, is_text)
    except (sqlite3.Error, OSError) as error:
        raise _unusable(database, error) from error


def _open(database: Path) -> closing[sqlite3.Connection]:
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(database, error) from error
    return closing(sqlite3.connect(database, timeout=60, isolation_level=None))


def _unusable(database: Path, error: Exception) -> WordflockError:
    return WordflockError(f"{database} cannot be used ({error}); delete it or name another cache folder.")


def _scan(source: str | Path, files: sqlite3.Connection, is_text: Callable[[str], bool]) -> Scan:
    _make_tables(files)
    listing = list_of(source, files)
    wanted = [entry for entry in listing.entries if entry.is_audio or is_text(entry.name)]
    looks = _known(listing.source, wanted, files)
    missing = [entry for entry in wanted if entry not in looks]
    if missing:
        looks.update(_look_at(sorted(missing, key=lambda entry: (entry.path, entry.offset)), files))
    recordings = ((entry, looks[entry]) for entry in wanted if entry.is_audio)
    return Scan(
        listing,
        tuple(Recording(entry, look.content, look.seconds, look.fault) for entry, look in recordings),
        {entry.name: looks[entry].text for entry in wanted if not entry.is_audio},
    )


def _make_tables(files: sqlite3.Connection) -> None:
    if _version(files) == _VERSION:
        return
    with _transaction(files):
        if _version(files) != _VERSION:  # another process may have been faster
            for statement in _TABLES.split(";"):
                files.execute(statement)
            files.execute(f"PRAGMA user_version = {_VERSION}")


def _version(files: sqlite3.Connection) -> int:
    return int(files.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def _transaction(files: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and waiting for its turn: a transaction that starts as a reader could not wait later."""
    files.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if files.in_transaction:  # some errors roll back by themselves
            files.execute("ROLLBACK")
        raise
    files.execute("COMMIT")


def list_of(given: str | Path, files: sqlite3.Connection) -> Listing:
    """The files of a folder as they are now; those of an archive from the database while it has not changed."""
    try:
        source = Path(given).resolve()
        about = source.stat()
    except (OSError, RuntimeError):
        return list_files(given)  # which says what is wrong
    if not source.is_file():
        return list_files(source)
    path, mtime_ns = os.fsencode(source), about.st_mtime_ns
    row = files.execute(
        "SELECT root, entries, faults FROM archives WHERE path = ? AND size = ? AND mtime_ns = ?",
        (path, about.st_size, mtime_ns),
    ).fetchone()
    if row is not None:
        entries = (Entry(name, str(source), offset, size, mtime_ns) for name, offset, size in json.loads(row[1]))
        faults = tuple(Fault(*fault) for fault in json.loads(row[2]))
        return Listing(str(source), tuple(entries), json.loads(row[0]), faults)
    with progress(f"listing {source.name}", 1, "archives"):
        listing = list_files(source)
    members = json.dumps([(entry.name, entry.offset, entry.size) for entry in listing.entries])
    with _transaction(files):
        files.execute("DELETE FROM files WHERE path = ?", (path,))
        # JSON for the root as well: it escapes the stray bytes that a name may hold.
        unreadable = json.dumps([(fault.name, fault.reason) for fault in listing.faults])
        row = (path, about.st_size, mtime_ns, json.dumps(listing.root), members, unreadable)
        files.execute("REPLACE INTO archives VALUES (?, ?, ?, ?, ?, ?)", row)
    return listing


def _known(source: str, entries: Sequence[Entry], files: sqlite3.Connection) -> dict[Entry, _Look]:
    """What the database says of the entries that have not changed since."""
    inside = os.fsencode(source.rstrip("/") + "/")
    rows = files.execute(
        "SELECT path, offset, size, mtime_ns, content, seconds, fault, text FROM files"
        " WHERE path = ? OR (path > ? AND path < ?)",
        (os.fsencode(source), inside, inside[:-1] + b"0"),  # "0" comes after "/": everything that starts with `inside`
    )
    places = {(entry.path, entry.offset): entry for entry in entries}
    looks = {}
    for path, offset, size, mtime_ns, *look in rows:  # one after the other: a million of them have no room twice
        entry = places.get((os.fsdecode(path), offset))
        if entry is not None and (entry.size, entry.mtime_ns) == (size, mtime_ns):
            looks[entry] = _Look(*look)
    return looks


def _look_at(entries: Sequence[Entry], files: sqlite3.Connection) -> Iterator[tuple[Entry, _Look]]:
    """Look at files in the given order, a few hundred at a time, and remember each batch before the next."""
    cancelling: list[str] = []
    bar = progress("looking at recordings", len(entries), "files")
    with Reader() as reader, ThreadPoolExecutor(os.cpu_count()) as pool, bar as advance:
        for batch in _batches(entries):
            # One thread reads, since an archive has one order; libsndfile and SHA-256 let the others work meanwhile.
            looks = list(pool.map(_look, batch, (_read(entry, reader) for entry in batch)))
            if rows := [_row(entry, look) for entry, look in zip(batch, looks, strict=True) if look.content]:
                with _transaction(files):
                    files.executemany("REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            advance(len(batch))
            cancelling += [entry.name for entry, look in zip(batch, looks, strict=True) if look.cancels]
            yield from zip(batch, looks, strict=True)
    if cancelling:
        warnings.warn(
            f"{counted(len(cancelling), 'recording', 'have')} channels in opposite phase, whose mean is almost silent "
            f"(the first: {printable(cancelling[0])}); the loudest channel of each is used alone.",
            WordflockWarning,
            stacklevel=2,
        )


def _row(entry: Entry, look: _Look) -> tuple[bytes | str | float, ...]:
    place = (os.fsencode(entry.path), entry.offset, entry.size, entry.mtime_ns)
    return (*place, look.content, look.seconds, look.fault, look.text)


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if batch and (len(batch) == _BATCH or size + entry.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.size
    yield batch


def _read(entry: Entry, reader: Reader) -> bytes | None:
    if entry.size > (MAX_RECORDING if entry.is_audio else MAX_LIST):
        return None
    try:
        return reader.read_bytes(entry)
    except WordflockError:
        if entry.offset:  # an archive that fails half way is not one clip's fault
            raise
        return None


def _look(entry: Entry, data: bytes | None) -> _Look:
    if entry.size > (most := MAX_RECORDING if entry.is_audio else MAX_LIST):
        if not entry.is_audio:
            raise WordflockError(f"{entry.name} in {entry.path} is larger than {most >> 20} MiB; shorten the list.")
        return _Look(fault=f"is larger than {most >> 20} MiB; cut it into shorter files")
    if data is None:
        return _Look(fault="cannot be read")
    content = sha256(data).hexdigest()
    if not entry.is_audio:
        return _Look(content, text=_text(data))
    if not data:
        return _Look(content, fault="is empty")
    try:
        decoder = Decoder(BytesIO(data))
        for _ in decoder.blocks():
            pass
    except AudioFault as fault:
        return _Look(content, fault=str(fault))
    seconds = decoder.seconds
    if seconds < MIN_SECONDS:
        return _Look(content, fault=f"lasts {seconds:.3f} s, less than {MIN_SECONDS} s")
    return _Look(content, seconds, cancels=decoder.loudest_of_cancelling() is not None)


def _text(data: bytes) -> str:
    """A text file's contents; what cannot be decoded becomes U+FFFD, which no label may have."""
    return data.decode(encoding_of(data), "replace")
