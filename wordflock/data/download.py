"""Public data sets by name: one table, and a download that goes on where it was cut.

A file has its own name only when it is whole and its checksum is right; until then it is `<name>.part`.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from wordflock.addresses import host_name, is_ip_address
from wordflock.errors import WordflockError, WordflockWarning, did_you_mean
from wordflock.progress import progress

FOLDER = "datasets"  # in the cache
_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30.0  # seconds without a byte
_ATTEMPTS = 6  # in a row that bring nothing new
_MARGIN = 64 << 20  # bytes that stay free on the disk
_RANGE = re.compile(r"bytes (\d+)-\d*/(\d+|\*)")


@dataclass(frozen=True)
class DataSet:
    """A public data set: one file."""

    url: str
    size: int  # bytes
    content: str  # SHA-256, hexadecimal
    licence: str
    changes: bool = False  # its publisher may replace it, or has done so
    own_name: str = ""  # of its file, where the address ends with a name that says nothing

    @property
    def file(self) -> str:
        """What it is called on the disk."""
        return self.own_name or self.url.rpartition("/")[2]


_SPEECH_COMMANDS = "http://download.tensorflow.org/data/speech_commands_"
DATA_SETS = {
    "speech-commands": DataSet(
        f"{_SPEECH_COMMANDS}v0.02.tar.gz",
        2_428_923_189,
        "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        "CC BY 4.0",
    ),
    "speech-commands-test": DataSet(
        f"{_SPEECH_COMMANDS}test_set_v0.02.tar.gz",
        112_563_277,
        "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
        "CC BY 4.0",
        changes=True,
    ),
    "speech-commands-0.01": DataSet(
        f"{_SPEECH_COMMANDS}v0.01.tar.gz",
        1_489_096_277,
        "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
        "CC BY 4.0",
    ),
    # The Free Spoken Digit Dataset; size and hash are those that TensorFlow Datasets pins. GitHub packs it on request.
    "fsdd": DataSet(
        "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz",
        11_975_353,
        "8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0",
        "CC BY-SA 4.0",
        changes=True,
        own_name="free-spoken-digit-dataset-1.0.9.tar.gz",
    ),
}


class _CutOff(Exception):
    """The connection broke, or the server is in trouble; asking again may help."""


def find(name: str, cache: Path) -> Path:
    """Where a data set of the table is. Raises WordflockError where it was not downloaded yet."""
    data_set = data_set_named(name)
    path = Path(cache) / FOLDER / data_set.file
    if not path.exists():
        raise WordflockError(
            f"The data set {name} is not on this machine ({path}); get it with `wordflock data download {name}` "
            f"({size_text(data_set.size)})."
        )
    return path


def data_set_named(name: str) -> DataSet:
    """The data set with this name. Raises WordflockError for none."""
    if name not in DATA_SETS:
        hint = did_you_mean(name, DATA_SETS, f"; there are {', '.join(DATA_SETS)}.")
        raise WordflockError(f"There is no data set {name!r} to download{hint}")
    return DATA_SETS[name]


def size_text(size: int) -> str:
    """A number of bytes as people say it: 2.4 GB, 12 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def download(
    data_set: DataSet,
    folder: Path,
    *,
    url: str = "",
    accept: bool = False,
    pause: Callable[[int], None] = lambda attempt: time.sleep(min(2**attempt, 30)),
) -> Path:
    """Download a data set into a folder, from `url` where that is given, and return its file.

    Goes on where an earlier download was cut, where the server allows that, and tries again while the server still
    brings something; proxies are those of the environment. `accept` keeps a file with another checksum where the
    publisher has replaced such files before. Raises WordflockError for too little space, a server that does not answer
    or refuses, and a file that is not the one wanted, which is removed.
    """
    url = url or data_set.url
    if not _is_of_the_web(url):
        raise WordflockError(f"--url {url} is not an address of the web; begin it with http:// or https:// and a host.")
    path = Path(folder) / data_set.file
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _own_file(path.with_name(f"{path.name}.part")) as file:
            check_space(path.parent, data_set.size - file.seek(0, os.SEEK_END), "--folder")
            _fetch(url, file, data_set.size, accept and data_set.changes, pause)
            _check_content(url, file, data_set, accept)
            os.fsync(file.fileno())
            Path(file.name).replace(path)
    except OSError as error:
        raise WordflockError(f"{path} cannot be written ({error.strerror or error}); name another --folder.") from error
    return path


def _is_of_the_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return parts.scheme in ("http", "https") and parts.port != 0 and (is_ip_address(host) or bool(host_name(host)))
    except ValueError:  # brackets or a port
        return False


@contextmanager
def _own_file(part: Path) -> Iterator[BinaryIO]:
    """The unfinished file, which no other process writes meanwhile."""
    with part.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WordflockError(f"{part} is being downloaded by another process; wait for it.") from error
        yield file


def check_space(folder: Path, missing: int, option: str) -> None:
    """Raises WordflockError where a folder, which `option` names, has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < missing + _MARGIN:
        raise WordflockError(
            f"{folder} has {free / 1e9:.2f} GB free, and the download needs {(missing + _MARGIN) / 1e9:.2f} GB; make "
            f"room or name another {option}."
        )


def _fetch(url: str, file: BinaryIO, size: int, any_size: bool, pause: Callable[[int], None]) -> None:
    """Fill the file up to its size, with as many connections as that takes."""
    attempt = 0
    with progress(f"downloading {url.rpartition('/')[2]}", round(size / 1e6), "MB") as advance:
        shown = file.seek(0, os.SEEK_END)
        advance(round(shown / 1e6))
        while True:
            before = file.seek(0, os.SEEK_END)
            reason = ""
            try:
                for _ in _stream(url, file, size, any_size):
                    now = file.tell()
                    advance(round(now / 1e6) - round(shown / 1e6))
                    shown = now
                return
            except (http.client.InvalidURL, UnicodeError) as error:  # of a proxy: the address itself is right
                raise WordflockError(
                    f"{url} cannot be asked for ({error}); see the environment variables http_proxy and https_proxy."
                ) from error
            except (_CutOff, http.client.HTTPException, OSError) as error:  # URLError is an OSError
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                reason = str(getattr(error, "reason", "") or error) or type(error).__name__
            attempt = 0 if file.seek(0, os.SEEK_END) > before else attempt + 1
            if attempt == _ATTEMPTS:
                raise WordflockError(
                    f"{url} cannot be downloaded ({reason}); what came so far is kept, so run it again, or name a "
                    "mirror with --url."
                )
            pause(attempt)


def _stream(url: str, file: BinaryIO, size: int, any_size: bool) -> Iterator[None]:
    """One connection: append what it brings. Raises _CutOff where it ends before the file is whole."""
    have = file.seek(0, os.SEEK_END)
    if have == size:
        return
    headers = {"User-Agent": "wordflock", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        opener = urllib.request.build_opener()  # its own: the common one keeps the proxies of its first use
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # what we have is not the beginning of what is there
                file.truncate(0)
                raise _CutOff("the file on the server is shorter than before") from error
            if error.code in (408, 425, 429) or error.code >= 500:
                raise _CutOff(f"the server answers {error.code}") from error
            raise WordflockError(f"{url} answers {error.code} {error.reason}; name a mirror with --url.") from error
    with response:
        start, whole = _extent(response, have)
        if whole is not None and whole != size and not any_size:
            raise WordflockError(f"{url} has {whole:,} bytes, and the data set has {size:,}; name a mirror with --url.")
        if start != have:  # it has no ranges, or other ones than asked for: from the beginning
            file.truncate(0)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            file.flush()
            if file.tell() > (whole or size):
                raise WordflockError(f"{url} sends more than the {whole or size:,} bytes of the data set; see --url.")
            yield
        if file.tell() < (whole or size):
            raise _CutOff(f"the connection ended after {file.tell():,} of {whole or size:,} bytes")


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where in the file an answer starts, and how long the file is, None where the server does not say."""
    length = response.headers.get("Content-Length", "")
    if response.status != 206:
        return 0, int(length) if length.isdecimal() else None
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != have:
        raise _CutOff("the server sends another part than the one asked for")
    return have, int(found[2]) if found[2].isdecimal() else None


def _check_content(url: str, file: BinaryIO, data_set: DataSet, accept: bool) -> None:
    """Compare the checksum. Raises WordflockError, and empties the file, where it is another one."""
    digest = sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    found = digest.hexdigest()
    if found == data_set.content:
        return
    differs = f"{url} has the SHA-256 {found}, not {data_set.content}"
    if data_set.changes and accept:
        warnings.warn(f"{differs}; it is kept.", WordflockWarning, stacklevel=3)
        return
    remedy = "keep it all the same with --accept" if data_set.changes else "it was removed; name a mirror with --url"
    if not data_set.changes:
        file.truncate(0)
        Path(file.name).unlink(missing_ok=True)
    raise WordflockError(f"{differs}; {remedy}.")
