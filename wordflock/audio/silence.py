"""mpg123 writes notes on damaged frames to the terminal, past Python, and takes no order not to."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

_lock = threading.Lock()
_inside = 0  # threads that are in a silent block
_kept: tuple[int, TextIO | None] = (-1, None)  # the terminal's file descriptor, and sys.stderr, as they were before


@contextmanager
def silent_libraries() -> Iterator[None]:
    """What compiled code writes to standard error inside the block is dropped; what Python writes is shown."""
    with _lock:
        _enter()
    try:
        yield
    finally:
        with _lock:
            _leave()


def _enter() -> None:
    global _inside, _kept
    _inside += 1
    if _inside > 1:
        return
    _kept = (-1, None)
    with suppress(OSError, ValueError, AttributeError, io.UnsupportedOperation):  # no standard error: nothing to drop
        if sys.stderr.fileno() == 2:
            sys.stderr.flush()
            terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            _kept = (terminal, sys.stderr)
            sys.stderr = open(terminal, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def _leave() -> None:
    global _inside
    _inside -= 1
    terminal, before = _kept
    if _inside == 0 and before is not None:
        sys.stderr.flush()
        sys.stderr = before
        os.dup2(terminal, 2)
        os.close(terminal)
