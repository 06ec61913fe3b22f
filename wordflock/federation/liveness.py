"""Whether a run's process lives: it holds a lock on a file for as long as it does."""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import suppress
from pathlib import Path


def alive(folder: Path) -> Path:
    """The file that a run's ServerApp holds a lock on."""
    return folder / "server" / "alive"


def hold(path: Path) -> None:
    """Lock a file until this process ends, in whatever way it does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, b"%d\n" % os.getpid())


def is_held(path: Path) -> bool:
    """Whether some process holds the lock on a file."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def end_holder(path: Path) -> None:
    """End the process that holds a lock, where one does."""
    if path.exists() and is_held(path):
        with suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGTERM)
