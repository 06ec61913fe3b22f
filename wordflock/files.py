"""Files that are whole or absent: written aside, forced to the disk, renamed. Tensors as safetensors, never pickled.

And folders that one process writes to at a time.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.errors import WordflockError

LOCK, SWITCH = ".lock", ".switch"
MAX_TENSORS = 1 << 30  # bytes of a file of tensors


def read_named(path: Path) -> bytes:
    """The content of a file that a user names. Raises OSError, also for a pipe or a device: reading may never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, os.strerror(errno.EISDIR) if path.is_dir() else "it is not a file", str(path))
    return path.read_bytes()


def parse_json(text: str | bytes) -> Any:
    """What JSON says. Raises ValueError for what is not JSON, or is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_toml(content: bytes) -> dict[str, Any]:
    """What TOML says. Raises ValueError for what is not TOML, or is nested too deeply to be read."""
    try:
        return tomllib.loads(content.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def save_tensors(path: Path, tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically. Raises OSError, as where the disk is full."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    with _aside(path) as aside:
        try:
            save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, aside, metadata)
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content as one step: written aside, forced to the disk, renamed.

    Nobody may read it who may not read its folder.
    """
    with _aside(path) as aside:
        aside.write_bytes(content)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """An empty file beside a path, which takes its place at the end of the block, forced to the disk."""
    aside, mode = path.with_name(f".{path.name}.{os.getpid()}"), path.parent.stat().st_mode & 0o666
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        yield aside
        os.fsync(descriptor)
        aside.replace(path)
    finally:
        os.close(descriptor)
        aside.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep all other processes out of a folder until the block ends, or the process in whatever way.

    Deletes what a killed process left half-written there. Raises WordflockError where another one has the folder.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock(descriptor):
            raise WordflockError(
                f"{folder} is in use by another process; wait for its end, or name another folder (a run: --name)."
            )
        for path in folder.rglob(".*"):
            if re.fullmatch(r"\..+\.\d+", path.name):
                path.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def is_locked(folder: Path) -> bool:
    """Whether a process keeps others out of a folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int) -> bool:
    """Lock a file, if no other process has it for longer than `is_locked` needs to look."""
    for wait in (0.0, 0.05, 0.05):
        time.sleep(wait)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


@contextmanager
def switching(folder: Path, outdated: Sequence[str] = ()) -> Iterator[Path]:
    """Change many files of a folder in one step: all of it happens or nothing, whatever is killed and whenever.

    Yields an empty folder for the new files, which take their places in `folder` at the end of the block, while what
    matches the patterns `outdated` is deleted. The step is a rename; what follows it is done by `finish_switch`, if
    not here then by whoever opens the folder next. The folder must be `locked`.
    """
    aside, files = folder / f"{SWITCH}.new", folder / f"{SWITCH}.new" / "files"
    files.mkdir(mode=0o700, parents=True)
    aside.chmod(0o700)
    try:
        yield files
        write_atomically(aside / "outdated.json", json.dumps(list(outdated)).encode())
        aside.rename(folder / SWITCH)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    finish_switch(folder)


def finish_switch(folder: Path) -> None:
    """Do what is left of a switch that was begun, and undo one that was not."""
    begun, list_of_outdated = folder / SWITCH, folder / SWITCH / "outdated.json"
    shutil.rmtree(folder / f"{SWITCH}.new", ignore_errors=True)
    if list_of_outdated.exists():
        outdated = {path for pattern in json.loads(list_of_outdated.read_text()) for path in folder.glob(pattern)}
        for path in outdated:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        # After the deletions, which are done again where this was killed: they may match a file's old version.
        for file in [path for path in (begun / "files").rglob("*") if path.is_file()]:
            target = folder / file.relative_to(begun / "files")
            target.parent.mkdir(mode=0o700, exist_ok=True)
            file.replace(target)
        list_of_outdated.unlink()
    shutil.rmtree(begun, ignore_errors=True)


def load_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    if path.exists() and not path.is_file():
        raise WordflockError(f"The checkpoint {path} cannot be read (it is not a file); take another one.")
    if path.exists() and path.stat().st_size > MAX_TENSORS:
        raise WordflockError(f"The checkpoint {path} has more than {MAX_TENSORS >> 20:,} MiB; take another one.")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise WordflockError(
            f"There is no checkpoint {path}; runs keep theirs in runs/<name>/best.safetensors."
        ) from error
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two: a type numpy lacks
        raise WordflockError(f"The checkpoint {path} cannot be read ({error}); take another one.") from error
