"""Files that are whole or absent: written aside, forced to the disk, renamed. Tensors as safetensors, never pickled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.errors import WordflockError


def save_tensors(path: Path, tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically."""
    from safetensors.numpy import save

    write_atomically(path, save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content as one step: written aside, forced to the disk, renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


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
