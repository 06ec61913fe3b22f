"""How much a data set may hold, so that no file that somebody sends fills the memory or takes for ever."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

from wordflock.errors import WordflockError

MAX_FILES = 500_000  # of an archive
MAX_FOLDER_LINKS = 1_000  # of an archive
MAX_NAME = 1_024  # characters of a member's name, folders included
MAX_RECORDING = 256 << 20  # bytes; 1 h of 16-bit stereo at 32 kHz has 230 MB
MAX_LIST = 64 << 20  # bytes of a table or a list
MAX_HEADER = 1 << 20  # bytes that a tar header may have, with its long names
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
    """The uncompressed stream of an archive: whole headers are small, and it does not expand without end."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self._end = most_unpacked(path)
        self.tell, self.close = stream.tell, stream.close

    def read(self, size: int) -> bytes:
        """At most MAX_HEADER bytes, for `tarfile` reads headers only. Raises WordflockError for more."""
        if size > MAX_HEADER:
            raise WordflockError(f"{self._path} has a header of {size:,} bytes; pack it again with names as usual.")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Raises WordflockError for a place that a compressed archive of this size should not have."""
        if offset > self._end:
            check_expansion(offset, self._path)
        return self._stream.seek(offset, whence)


def bounded(stream: BinaryIO, path: Path) -> BinaryIO:
    """The stream with bounds."""
    return cast(BinaryIO, BoundedStream(stream, path))


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
