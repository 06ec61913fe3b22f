"""Files that are whole or absent: written aside, forced to the disk, renamed. Tensors as safetensors, never pickled.

And folders that one process writes to at a time.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.errors import WordflockError

LOCK = ".lock"


def save_tensors(path: Path, tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically."""
    from safetensors.numpy import save

    write_atomically(path, save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content as one step: written aside, forced to the disk, renamed.

    Nobody may read it who may not read its folder.
    """
    aside, mode = path.with_name(f".{path.name}.{os.getpid()}"), path.parent.stat().st_mode & 0o666
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep all other processes out of a folder until the block ends, or the process in whatever way.

    Deletes what a killed process left half-written there. Raises WordflockError where another one has the folder.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WordflockError(
                f"The run {folder} is in use by another process; wait for its end, or give another --name."
            ) from None
        for path in folder.rglob(".*"):
            if re.fullmatch(r"\..+\.\d+", path.name):
                path.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def load_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    if path.exists() and not path.is_file():
        raise WordflockError(f"The checkpoint {path} cannot be read (it is not a file); take another one.")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise WordflockError(
            f"There is no checkpoint {path}; runs keep theirs in runs/<name>/best.safetensors."
        ) from error
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two: a type numpy lacks
        raise WordflockError(f"The checkpoint {path} cannot be read ({error}); take another one.") from error
