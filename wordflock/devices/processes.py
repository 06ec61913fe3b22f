"""Start, watch and stop the processes of a server or a client; nothing outlives the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from wordflock.errors import show_warnings
from wordflock.lifetime import end_with_parent
from wordflock.progress import is_reported, print_line, reporting

T = TypeVar("T")
PATIENCE = 10.0  # seconds between asking a process to end and ending it


@contextmanager
def flower(
    program: str,
    arguments: list[str],
    log: Path,
    environment: Mapping[str, str],
    output: Path | None = None,
    proxies: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """One of Flower's programs, in a process group of its own that is gone when the block ends.

    What it writes goes to `log`; what it prints to `output`, if that is given. With `proxies` it goes through those
    of the environment; without, as is right for this machine's own processes, through none.
    """
    command = [sys.executable, "-m", "wordflock.devices.flower", program, *arguments]
    inherited = {name: value for name, value in os.environ.items() if proxies or not is_proxy(name)}
    variables = {**inherited, "PYTHONUNBUFFERED": "1", **environment}
    with log.open("ab") as errors, (output or log).open("ab") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=errors,
            env=variables,
            start_new_session=True,
            umask=0o077,
        )
    try:
        yield process
    finally:
        _end(process)


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM, which systemd and kill send, ends the block as Ctrl-C does: with everything stopped and kept."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def in_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a process that is gone afterwards, with all the memory that it needed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:
        return pool.submit(_reporting_too, is_reported(), function, *arguments).result()


def _reporting_too(reported: bool, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that reports where the process that started this one does."""
    if reported:
        show_warnings()
    with reporting(print_line) if reported else nullcontext():
        return function(*arguments)


def is_proxy(variable: str) -> bool:
    """Whether an environment variable names a proxy."""
    return variable.lower() in ("http_proxy", "https_proxy", "all_proxy")


@contextmanager
def without_proxies() -> Iterator[None]:
    """Clients of this machine's own servers are made in this block: they go through no proxy."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if is_proxy(name)}
    try:
        yield
    finally:
        os.environ.update(taken)


def free_port(host: str = "127.0.0.1", port: int = 0) -> int:
    """The port, or one that nobody uses for 0. Raises OSError where somebody listens there already."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


class Tail:
    """What is added to a file, line by line."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open(errors="replace")
        self._file.seek(0, os.SEEK_END)
        self._rest = ""

    def lines(self) -> list[str]:
        """The lines that were finished since the last call."""
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        return lines


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        os.killpg(process.pid, signal.SIGKILL)  # its children are in its group, and may have been busy
    process.wait()
