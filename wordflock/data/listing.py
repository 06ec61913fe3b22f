"""The files of a data set: those of a folder, or those of a tar archive, which is read in place."""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import BufferedReader, RawIOBase
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from wordflock.data.clips import Clip
from wordflock.errors import WordflockError

# What people record in, readable here or not: a recording that cannot be read must be named, not passed over.
# fmt: off
AUDIO_SUFFIXES = (
    ".wav", ".wave", ".bwf", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc",
    ".au", ".snd", ".sph", ".caf", ".w64",
    ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".aac", ".wma", ".amr", ".3gp", ".3g2", ".webm", ".weba", ".mka", ".mkv",
    ".spx", ".ogx", ".ape", ".wv", ".ac3", ".avi",
)
# fmt: on

_BLOCK = 512  # bytes, of a tar archive
_BUFFER = 1 << 20  # bytes; short seeks backwards inside it do not start a gzip stream anew
_BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError)  # what a damaged archive raises


@dataclass(frozen=True, slots=True)
class Entry:
    """One file and where its bytes are: in a file of its own, or in an archive's uncompressed stream."""

    name: str  # inside its folder or archive, with "/" between the parts
    path: str  # absolute, of the file or of the archive
    offset: int  # 0 for a file of its own: in an archive a header stands before every member
    size: int  # bytes
    mtime_ns: int  # of the file or of the archive

    @property
    def is_audio(self) -> bool:
        """Whether the name says that this is a recording."""
        return self.name.lower().endswith(AUDIO_SUFFIXES)


@dataclass(frozen=True)
class Listing:
    """The files of one data set, sorted by name."""

    source: str  # absolute path of the folder or archive
    entries: tuple[Entry, ...]
    root: str = ""  # the folder around all recordings that was taken off the names


def list_files(source: str | Path) -> Listing:
    """List the files of a folder, with its subfolders, or of a tar or tar.gz archive, without unpacking it.

    Hidden files, and members with absolute or climbing names, are skipped. A single folder around all recordings
    is taken off the names. Raises WordflockError for what is missing, unreadable, no archive, or a broken one.
    """
    try:
        path = Path(source).resolve()
        if path.is_dir():
            return _listing(path, _walk(path))
        if path.is_file():
            return _listing(path, _list_archive(path))
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise WordflockError(f"{source} cannot be read ({error}); check its permissions.") from error
    raise WordflockError(f"{source} does not exist; name a folder of recordings or a tar or tar.gz archive of one.")


class Reader:
    """Reads the bytes of files; in rising (path, offset) order every archive is opened and streamed through once."""

    def __init__(self) -> None:
        self._path = ""
        self._stream: BinaryIO | None = None

    def read_bytes(self, entry: Entry | Clip) -> bytes:
        """The bytes of one recording. Raises WordflockError when they are no longer there."""
        try:
            data = self._member(entry) if entry.offset else Path(entry.path).read_bytes()
        except _BROKEN as error:
            raise WordflockError(
                f"{entry.name} cannot be read from {entry.path} ({_reason(error)}); look whether it was moved."
            ) from error
        if len(data) != entry.size:
            raise changed(entry)
        return data

    def close(self) -> None:
        """Close the archive that is open."""
        if self._stream is not None:
            self._stream.close()
        self._path, self._stream = "", None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _member(self, entry: Entry | Clip) -> bytes:
        if self._stream is None or self._path != entry.path:
            self.close()
            self._path, self._stream = entry.path, _open_stream(Path(entry.path))
        self._stream.seek(entry.offset)
        return self._stream.read(entry.size)


def changed(entry: Entry | Clip) -> WordflockError:
    """The error for a file that is not what it was when the data set was loaded."""
    return WordflockError(f"{entry.name} in {entry.path} changed since it was listed; load the data set again.")


def _listing(source: Path, found: Iterable[Entry]) -> Listing:
    entries = {entry.name: entry for entry in found}  # of two members with one name the later counts, as when unpacked
    root = _common_folder(entry.name for entry in entries.values() if entry.is_audio)
    if root:
        stripped = (replace(entry, name=entry.name.removeprefix(f"{root}/")) for entry in entries.values())
        entries = {entry.name: entry for entry in stripped}
    return Listing(str(source), tuple(entries[name] for name in sorted(entries)), root)


def _common_folder(names: Iterable[str]) -> str:
    """The one folder that all recordings stand under, or "": a lone folder right above recordings is a label."""
    parts = [name.split("/") for name in names]
    tops = {part[0] for part in parts}
    return tops.pop() if len(tops) == 1 and any(len(part) > 2 for part in parts) else ""


def _walk(folder: Path, inside: str = "", above: frozenset[str] = frozenset()) -> Iterator[Entry]:
    real = os.path.realpath(folder)
    if real in above:  # a link back to where we came from
        return
    with os.scandir(folder) as files:
        for file in files:
            if file.name.startswith("."):
                continue
            name = f"{inside}{file.name}"
            if file.is_dir():
                yield from _walk(Path(file.path), f"{name}/", above | {real})
            elif file.is_file():
                about = file.stat()
                yield Entry(name, file.path, 0, about.st_size, about.st_mtime_ns)
            elif file.is_symlink():  # to nowhere; named among the faults when it is read
                yield Entry(name, file.path, 0, 0, 0)


def _list_archive(path: Path) -> list[Entry]:
    mtime_ns = path.stat().st_mtime_ns
    entries = []
    with _open_stream(path) as stream:
        try:
            archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115  closing it would close nothing
        except tarfile.ReadError as error:
            raise WordflockError(f"{path} is no tar or tar.gz archive; unpack it and name the folder.") from error
        except _BROKEN as error:
            raise _broken(path, error) from error
        try:
            for member in archive:
                name = _plain_name(member.name)
                if name and member.isreg() and not member.issparse():
                    entries.append(Entry(name, str(path), member.offset_data, member.size, mtime_ns))
            _read_to_end(stream, archive.offset)
        except _BROKEN as error:
            raise _broken(path, error) from error
    return entries


def _plain_name(name: str) -> str:
    """A member's name without "./" in front, or "" where it is hidden, absolute or climbs."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or any(part.startswith(".") for part in parts):
        return ""
    return "/".join(parts)


def _read_to_end(stream: BinaryIO, end: int) -> None:
    """Look for the block of zeros that ends an archive: tarfile takes a damaged header for the end in silence.

    The rest is read too, for the checksum of a gzip stream comes last.
    """
    stream.seek(end)
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError("its end is missing")
    while stream.read(_BUFFER):
        pass


def _open_stream(path: Path) -> BinaryIO:
    """Open an archive's uncompressed stream."""
    file = path.open("rb")
    try:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
    except OSError:
        file.close()
        raise
    if not is_gzip:
        return file
    stream = gzip.GzipFile(fileobj=file)
    stream.myfileobj = file  # type: ignore[assignment]  # so that closing the one closes the other
    return BufferedReader(cast(RawIOBase, stream), _BUFFER)


def _broken(path: Path, error: BaseException) -> WordflockError:
    return WordflockError(f"{path} is a broken archive ({_reason(error)}); download it or pack it again.")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
