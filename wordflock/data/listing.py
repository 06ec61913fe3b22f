"""The files of a data set: those of a folder, or those of an archive, which is read in place."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from wordflock.data.archives import BROKEN, KINDS, Archive, open_archive
from wordflock.data.bounds import MAX_FOLDER_VISITS, MAX_NAME
from wordflock.data.clips import Clip, Fault
from wordflock.data.names import nfc
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


@dataclass(frozen=True, slots=True)
class Entry:
    """One file and where its bytes are: in a file of its own, or in an archive."""

    name: str  # inside its folder or archive, in NFC, with "/" between the parts
    path: str  # absolute, of the file or of the archive
    offset: int  # 0 for a file of its own, else its place in the archive: see archives.py
    size: int  # bytes
    mtime_ns: int  # of the file or of the archive

    @property
    def is_audio(self) -> bool:
        """Whether the name says that this is a recording."""
        return is_audio(self.name)


def is_audio(name: str) -> bool:
    """Whether a file's name says that it is a recording."""
    return name.lower().endswith(AUDIO_SUFFIXES)


def is_parquet(name: str) -> bool:
    """Whether a file's name says that it is a Parquet file."""
    return name.lower().endswith(".parquet")


@dataclass(frozen=True)
class Listing:
    """The files of one data set, sorted by name."""

    source: str  # absolute path of the folder or archive
    entries: tuple[Entry, ...]
    root: str = ""  # the folders around all recordings that were taken off the names
    faults: tuple[Fault, ...] = ()  # members of an archive that cannot be read


def list_files(source: str | Path) -> Listing:
    """List the files of a folder, with its subfolders, or of an archive (see archives.py), without unpacking it.

    Hidden files are skipped. Folders around all recordings are taken off the names.
    Raises WordflockError for what is missing, unreadable, no archive, or a broken one.
    """
    try:
        path = Path(source).resolve()
        if path.is_dir():
            return _listing(path, _walk(path), ())
        if path.is_file():
            entries, faults = _list_archive(path)
            return _listing(path, entries, faults)
        if path.exists():
            raise WordflockError(f"{source} is neither a folder nor a file; name a folder of recordings, or {KINDS}.")
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise WordflockError(f"{source} cannot be read ({error}); check its permissions.") from error
    raise WordflockError(f"{source} does not exist; name a folder of recordings, or {KINDS} of one.")


def parquets_in(listing: Listing) -> dict[str, str]:
    """The paths of the Parquet files that recordings are in, by the names of these files (whose own is "")."""
    if is_parquet(listing.source):
        return {"": listing.source}
    inside = {entry.path for entry in listing.entries if entry.offset and is_parquet(entry.path)}
    return {entry.name: entry.path for entry in listing.entries if entry.path in inside and not entry.offset}


class Reader:
    """Reads the bytes of files; in rising (path, offset) order every archive is opened and streamed through once."""

    def __init__(self) -> None:
        self._path = ""
        self._archive: Archive | None = None

    def read_bytes(self, entry: Entry | Clip) -> bytes:
        """The bytes of one recording. Raises WordflockError when they are no longer there."""
        try:
            data = self._member(entry) if entry.offset else Path(entry.path).read_bytes()
        except BROKEN as error:
            raise WordflockError(
                f"{entry.name} cannot be read from {entry.path} ({_reason(error)}); look whether it was moved."
            ) from error
        if len(data) != entry.size:
            raise changed(entry)
        return data

    def close(self) -> None:
        """Close the archive that is open."""
        if self._archive is not None:
            self._archive.close()
        self._path, self._archive = "", None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _member(self, entry: Entry | Clip) -> bytes:
        if self._archive is None or self._path != entry.path:
            self.close()
            self._path, self._archive = entry.path, open_archive(Path(entry.path))
        return self._archive.read(entry.offset, entry.size)


def changed(entry: Entry | Clip) -> WordflockError:
    """The error for a file that is not what it was when the data set was loaded."""
    return WordflockError(f"{entry.name} in {entry.path} changed since it was listed; load the data set again.")


def _listing(source: Path, found: Iterable[Entry], faults: Iterable[Fault]) -> Listing:
    entries = list(found)
    root = _common_folders(entry.name for entry in entries if entry.is_audio)
    if root:
        entries = [replace(entry, name=entry.name.removeprefix(f"{root}/")) for entry in entries]
    entries.sort(key=lambda entry: (entry.name, entry.path, entry.offset))
    return Listing(str(source), tuple(entries), root, tuple(faults))


def _common_folders(names: Iterable[str]) -> str:
    """The folders that all recordings stand under, or "": a lone folder right above recordings is a label."""
    common: list[str] | None = None
    for name in names:
        folders = name.split("/")[:-1]
        if common is None:
            common, longest = folders, len(folders)
            continue
        longest = max(longest, len(folders))
        same = next((i for i, (a, b) in enumerate(zip(common, folders, strict=False)) if a != b), None)
        common = common[: len(folders) if same is None else same]
    return "/".join(common[: longest - 1] if common and longest == len(common) else common or ())


def walk(folder: str | Path) -> Iterator[tuple[str, str, os.stat_result]]:
    """The files of a folder and its subfolders that are not hidden: name inside it in NFC, path, and what the system
    says of the file, or of the link where it leads nowhere.

    Raises WordflockError where links lead to one folder more than MAX_FOLDER_VISITS times.
    """
    visits = Counter[str]()

    def below(path: str | Path, inside: str, above: frozenset[str]) -> Iterator[tuple[str, str, os.stat_result]]:
        real = os.path.realpath(path)
        if real in above:  # a link back to where we came from
            return
        visits[real] += 1
        if visits[real] > MAX_FOLDER_VISITS:  # links to links, each of which doubles the files
            raise WordflockError(f"{folder} has more than {MAX_FOLDER_VISITS} ways to its folder {real}; remove links.")
        with os.scandir(path) as files:
            for file in files:
                if file.name.startswith("."):
                    continue
                name = f"{inside}{nfc(file.name)}"
                if file.is_dir():
                    yield from below(file.path, f"{name}/", above | {real})
                elif file.is_file():
                    yield name, file.path, file.stat()
                elif file.is_symlink():
                    yield name, file.path, file.stat(follow_symlinks=False)

    return below(folder, "", frozenset())


def _walk(folder: Path) -> Iterator[Entry]:
    for name, path, about in walk(folder):
        if stat.S_ISLNK(about.st_mode):  # to nowhere; named among the faults when it is read
            yield Entry(name, path, 0, 0, 0)
            continue
        if is_parquet(name) and (members := _list_archive(Path(path))[0]):
            yield from (replace(member, name=f"{name}/{member.name}") for member in members)
        yield Entry(name, path, 0, about.st_size, about.st_mtime_ns)


def _list_archive(path: Path) -> tuple[list[Entry], list[Fault]]:
    mtime_ns = path.stat().st_mtime_ns
    try:
        archive = open_archive(path)
        try:
            members = archive.members()
        finally:
            archive.close()
    except WordflockError:
        raise
    except BROKEN as error:
        raise WordflockError(f"{path} is a broken archive ({_reason(error)}); download it or pack it again.") from error
    for name, _, _ in members.files:
        if len(name) > MAX_NAME:
            raise WordflockError(f"{path} has a member whose name is longer than {MAX_NAME:,} characters; rename it.")
    files = {name: (offset, size) for name, offset, size in members.files}  # of one name the later, as when unpacked
    entries = [
        Entry(nfc(name), str(path), offset, size, mtime_ns) for name, (offset, size) in files.items() if _seen(name)
    ]
    return entries, [fault for fault in members.faults if _seen(fault.name) and is_audio(fault.name)]


def _seen(name: str) -> bool:
    """Whether neither a file nor a folder that it stands in is hidden."""
    return not any(part.startswith(".") and part != ".." for part in name.split("/"))


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
