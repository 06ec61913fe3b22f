"""How much a data set may hold, so that no file that somebody sends fills the memory or takes for ever."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from wordflock.errors import WordflockError

MAX_FILES = 500_000  # of an archive
MAX_FOLDER_LINKS = 1_000  # of an archive
MAX_FOLDER_VISITS = 100  # of one folder, by links to it in a data set's folder
MAX_NAME = 1_024  # characters of a member's name, folders included
MAX_RECORDING = 256 << 20  # bytes; 1 h of 16-bit stereo at 32 kHz has 230 MB
MAX_LIST = 64 << 20  # bytes of a table or a list
HEADER = 8 << 10  # bytes that the headers of each member of a tar archive may have, with its long names
MAX_HEADER = 1 << 20  # bytes that they may have beyond that
MAX_DIGITS = 1_000  # in a row in such a header: Python searches them in quadratic time
MAX_UNPACKED = 1 << 30  # bytes that any compressed archive may come to
MAX_EXPANSION = 100  # times its own size, for those that come to more; WAV files of speech are packed to a half
PATTERN_SECONDS = 20.0  # for a pattern of the user's on all names

_SEARCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
expression = re.compile(pattern)
group = "speaker" if "speaker" in expression.groupindex else 1
json.dump([(found[group] or "") if (found := expression.search(name)) else "" for name in names], sys.stdout)
"""


class BoundedStream:
    """The uncompressed stream of a tar archive, of which headers are read: they are small and well-formed, and it does
    not expand without end."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self._end = most_unpacked(path)
        self._left = MAX_HEADER  # bytes that headers may still have
        self._records = -1  # bytes of extended headers that are read next; -1 for other headers
        self.tell, self.close = stream.tell, stream.close

    def next_member(self) -> None:
        """The headers that are read from here on are those of the next member."""
        self._left = min(self._left + HEADER, MAX_HEADER)

    def expect_records(self, size: int) -> None:
        """Extended headers are read next."""
        self._records = size

    def read(self, size: int) -> bytes:
        """Raises WordflockError for headers that are too large, and ValueError for extended ones that are malformed."""
        self._left -= size
        if size < 0 or self._left < 0:
            raise WordflockError(
                f"{self._path} has members with headers of more than {MAX_HEADER:,} bytes; pack it again with names "
                "as usual."
            )
        content = self._stream.read(size)
        if self._records >= 0:
            _check_records(content[: self._records])
            self._records = -1
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Raises WordflockError for a place that a compressed archive of this size should not have."""
        if offset > self._end:
            check_expansion(offset, self._path)
        return self._stream.seek(offset, whence)


class BoundedMember(tarfile.TarInfo):
    """A member of an archive whose file is a BoundedStream."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """The entry point that `tarfile` leaves to subclasses."""
        if self.size < 0:
            raise ValueError("a member has a negative size")
        if self.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
            cast(BoundedStream, archive.fileobj).expect_records(self.size)
        member: tarfile.TarInfo = cast(Any, super())._proc_member(archive)
        return member


def _check_records(content: bytes) -> None:
    """Raises ValueError unless extended headers are what POSIX says, "LENGTH NAME=VALUE" in lines of that length.

    `tarfile` reads other ones in quadratic time.
    """
    place, size = 0, len(content)
    while place < size:
        record = re.compile(rb"(\d{1,7}) [^=\n]{1,1024}=").match(content, place)
        end = place + int(record[1]) if record else 0
        if not record or not record.end() < end <= size or content[end - 1] != ord("\n"):
            raise ValueError("an extended header is malformed")
        place = end
    if any(len(digits) > MAX_DIGITS for digits in re.findall(rb"\d+", content)):
        raise ValueError("an extended header has a number of too many digits")


def most_unpacked(path: Path) -> int:
    """Bytes that a compressed archive of this size may come to."""
    return max(MAX_UNPACKED, MAX_EXPANSION * path.stat().st_size)


def check_expansion(size: int, path: Path) -> None:
    """Raises WordflockError for an archive that comes to so many bytes, where that is too many for its own size."""
    if size > (most := most_unpacked(path)):
        raise WordflockError(
            f"{path} expands to over {most:,} bytes, {MAX_EXPANSION} times its size; unpack it and name the folder."
        )


def check_count(count: int, path: Path) -> None:
    """Raises WordflockError for an archive of too many files."""
    if count > MAX_FILES:
        raise WordflockError(f"{path} holds more than {MAX_FILES:,} files; split it, or unpack it and name the folder.")


def search_all(pattern: str, names: Sequence[str]) -> list[str]:
    """What a user's pattern finds in each name, in a process that can be ended: some patterns take for ever.

    Raises WordflockError where it takes longer than PATTERN_SECONDS.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _SEARCH],
            input=json.dumps([pattern, names]),
            capture_output=True,
            text=True,
            check=True,
            timeout=PATTERN_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise WordflockError(
            f"The speaker pattern '{pattern}' takes longer than {PATTERN_SECONDS:.0f} s on {len(names)} names; write "
            "it without repetitions inside repetitions."
        ) from error
    found: list[str] = json.loads(done.stdout)
    return found
