"""Processes that do not outlive the one that started them, however that one ends."""

from __future__ import annotations

import ctypes
import os
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
