"""Of processes: one does not outlive the one that started it, however that one ends; and the memory that it needed."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from typing import Any


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


class Stages:
    """What each stage of a run took: seconds, and the most memory that the process has had until its end, in bytes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, int] = {}
        self._began = time.perf_counter()

    def end(self, stage: str) -> None:
        """End a stage; the next one begins."""
        now = time.perf_counter()
        self.seconds[stage], self.memory[stage], self._began = now - self._began, peak_memory(), now

    def as_metrics(self) -> dict[str, Any]:
        """What metrics.json says of them."""
        return {"seconds": self.seconds, "memory": self.memory}
