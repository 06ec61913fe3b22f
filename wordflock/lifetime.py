"""Of processes: one does not outlive the one that started it, however that one ends; and the memory that it needed."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress


def end_with_parent() -> None:
    """Let this process be told to end when the one that started it ends, however it ends."""
    parent = os.getppid()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, where there is Linux
    if os.getppid() != parent:
        sys.exit("The process that started this one is gone.")


def peak_memory() -> int:
    """Bytes of memory that this process had at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
