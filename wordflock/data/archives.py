"""Archives, read in place: tar (plain, gzip, bzip2, xz or Zstandard), zip, and Parquet with embedded audio.

A member has a place, its `offset`, above 0: in a tar's uncompressed stream where its bytes begin, in a zip where its
header ends, in a Parquet file the number of its row, counted from 1.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_left
from dataclasses import dataclass, field
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from wordflock.data.bounds import MAX_FOLDER_LINKS, BoundedMember, BoundedStream, check_count, check_expansion
from wordflock.data.clips import Fault
from wordflock.errors import WordflockError

KINDS = "a zip, tar, tar.gz, tar.bz2, tar.xz, tar.zst or Parquet file"
# What a damaged archive raises; pyarrow's errors are ValueErrors and OSErrors.
BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, struct.error,
    OSError, EOFError, ValueError, NotImplementedError, RuntimeError,
)  # fmt: skip

_BLOCK = 512  # bytes, of a tar archive
_BUFFER = 1 << 20  # bytes; short seeks backwards inside it do not start a compressed stream again
_ZIP_HEADER = 30  # bytes, the fixed part
_UTF8_NAME, _ENCRYPTED = 0x800, 0x1  # flags of a zip's member
_LINKS = 40  # links that lead to links: more are a circle


@dataclass
class Members:
    """What an archive holds: name, offset and size of each file, in its order, and what cannot be read."""

    files: list[tuple[str, int, int]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


class Archive(Protocol):
    """An open archive."""

    def members(self) -> Members:
        """List it, to its very end."""

    def read(self, offset: int, size: int) -> bytes:
        """The bytes of a member; cheap in rising order of offsets."""

    def close(self) -> None:
        """Close it."""


def open_archive(path: Path) -> Archive:
    """Open an archive of whatever kind it is by its first bytes. Raises WordflockError for what is none of them."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04" or start == b"PK\x05\x06":
        return _Zip(path)
    if start == b"PAR1":
        from wordflock.data.parquet import ParquetArchive

        return ParquetArchive(path)
    return _Tar(path, start)


class _Tar:
    def __init__(self, path: Path, start: bytes) -> None:
        self._path = path
        self._stream = _open_stream(path, start)

    def members(self) -> Members:
        stream = BoundedStream(self._stream, self._path)
        try:
            archive = tarfile.TarFile(fileobj=cast(BinaryIO, stream), tarinfo=BoundedMember)
        except tarfile.ReadError as error:
            raise WordflockError(f"{self._path} is not {KINDS}; unpack it and name the folder.") from error
        found = Members()
        links: dict[str, str] = {}
        count = 0
        while (member := archive.next()) is not None:
            # A list of all members that nobody needs, and headers for all that follow: both would only grow.
            cast(Any, archive).members.clear()
            cast(Any, archive).pax_headers.clear()
            stream.next_member()
            count += 1
            check_count(count, self._path)
            if member.size < 0:  # as an extended header may say
                raise ValueError("a member has a negative size")
            stream.seek(member.offset_data + member.size)  # within bounds
            name = plain_name(member.name)
            if member.issym():  # relative to its own folder; a hard link is relative to the archive
                links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            elif member.islnk():
                links[name] = posixpath.normpath(member.linkname.lstrip("/"))
            elif member.isreg() and ".." in name.split("/"):
                found.faults.append(Fault(name, "has a name that leads out of the archive"))
            elif member.issparse():
                found.faults.append(Fault(name, "is stored as a sparse file"))
            elif member.isreg():
                found.files.append((name, member.offset_data, member.size))
            elif not member.isdir():
                found.faults.append(Fault(name, "is neither a file nor a link"))
        self._read_to_end(archive.offset)
        _follow(links, found, self._path)
        return found

    def read(self, offset: int, size: int) -> bytes:
        self._stream.seek(offset)
        return self._stream.read(size)

    def close(self) -> None:
        self._stream.close()

    def _read_to_end(self, end: int) -> None:
        """Look for the block of zeros that ends an archive: tarfile takes a damaged header for the end in silence.

        The rest is read too, for the checksum of a compressed stream comes last.
        """
        self._stream.seek(end)
        if self._stream.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError("its end is missing")
        while self._stream.read(_BUFFER):
            check_expansion(self._stream.tell(), self._path)


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = zipfile.ZipFile(path)
        self._infos: dict[int, zipfile.ZipInfo] = {}

    def members(self) -> Members:
        found = Members()
        check_count(len(self._file.infolist()), self._path)
        check_expansion(sum(info.file_size for info in self._file.infolist()), self._path)
        for info in self._file.infolist():
            if not info.filename or info.is_dir():
                continue
            name = plain_name(_zip_name(info))
            if ".." in name.split("/"):
                found.faults.append(Fault(name, "has a name that leads out of the archive"))
            elif info.flag_bits & _ENCRYPTED:
                found.faults.append(Fault(name, "is encrypted"))
            else:
                found.files.append((name, info.header_offset + _ZIP_HEADER, info.file_size))
        return found

    def read(self, offset: int, size: int) -> bytes:
        if not self._infos:
            self._infos = {info.header_offset + _ZIP_HEADER: info for info in self._file.infolist()}
        if offset not in self._infos:
            raise zipfile.BadZipFile("the member is gone")
        with self._file.open(self._infos[offset]) as member:
            return member.read(size + 1)[:size]  # the byte more makes it compare the checksum

    def close(self) -> None:
        self._file.close()


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Some programs write UTF-8 and do not say so, in which case zipfile takes it for code page 437."""
    if not info.flag_bits & _UTF8_NAME:
        try:
            return info.filename.encode("cp437").decode()
        except UnicodeError:
            pass
    return info.filename


def plain_name(name: str) -> str:
    """A member's name with "/" between its parts, without "./" or "/" in front."""
    if "\\" in name and "/" not in name:  # packed on Windows by a program that did not translate
        name = name.replace("\\", "/")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _follow(links: dict[str, str], found: Members, path: Path) -> None:
    """Give every link to a file, and every file below a link to a folder, the place of what it leads to."""
    to_folders = 0
    files = {name: (offset, size) for name, offset, size in found.files}
    folders: set[str] = set()
    names = sorted(files)
    for name in files:
        while (name := posixpath.dirname(name)) and name not in folders:
            folders.add(name)
    for name, target in links.items():
        for _ in range(_LINKS):
            if target not in links:
                break
            target = links[target]
        if target in files:
            found.files.append((name, *files[target]))
        elif target in folders and not f"{name}/".startswith(f"{target}/"):
            to_folders += 1
            if to_folders > MAX_FOLDER_LINKS:
                raise WordflockError(f"{path} holds more than {MAX_FOLDER_LINKS:,} links to folders; pack it without.")
            first, last = (bisect_left(names, f"{target}{end}") for end in "/0")  # "0" comes after "/"
            below = names[first:last]
            found.files += [(name + other.removeprefix(target), *files[other]) for other in below]
            check_count(len(found.files), path)
        elif target not in folders:  # a link to a folder around itself holds nothing new
            found.faults.append(Fault(name, "is a link to something outside the archive"))


def _open_stream(path: Path, start: bytes) -> BinaryIO:
    """Open a tar archive's uncompressed stream."""
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return cast(BinaryIO, BufferedReader(_Zstandard(path), _BUFFER))
    for magic, opened in ((b"\x1f\x8b", gzip.GzipFile), (b"BZh", bz2.BZ2File), (b"\xfd7zX", lzma.LZMAFile)):
        if start.startswith(magic):
            return BufferedReader(cast(RawIOBase, opened(path)), _BUFFER)
    return path.open("rb")


class _Zstandard(RawIOBase):
    """An uncompressed Zstandard stream that can go to any place: forwards by reading, backwards from the start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0
        self._stream = self._open()

    def _open(self) -> Any:
        try:
            import pyarrow
        except ImportError as error:
            raise WordflockError(f"{self._path} needs pyarrow, of the extra [train]; pack it as tar.gz.") from error
        return pyarrow.input_stream(str(self._path), compression="zstd")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence:
            offset += self._place if whence == 1 else self._length()
        if offset < self._place:
            self._stream.close()
            self._stream, self._place = self._open(), 0
        while self._place < offset and (data := self._stream.read(min(_BUFFER, offset - self._place))):
            self._place += len(data)
        return self._place

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _length(self) -> int:
        while data := self._stream.read(_BUFFER):
            self._place += len(data)
        return self._place
