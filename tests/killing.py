"""Work that is killed before any of its file operations, as by kill -9."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

OPERATIONS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree"}
FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def killed_at(number: int, folder: Path, work: Callable[[], Any]) -> bool:
    """Do work in a child of this process, which ends before its file operation `number` (from 0) below the folder.

    File operations are all that change a name, open a file for writing or force it to the disk. Returns whether it
    came so far; where it did not, the work is done.
    """
    left = number

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & FOR_WRITING
        if (writes or event in OPERATIONS) and str(arguments[0]).startswith(str(folder)):
            count()

    def prepare() -> None:
        force = os.fsync
        os.fsync = lambda file: (count(), force(file))[1]
        sys.addaudithook(watch)

    return _died(work, prepare)


def killed_after(seconds: float, work: Callable[[], Any]) -> bool:
    """Do work in a child of this process, which is killed after so many seconds; returns whether it was."""

    def kill() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    return _died(work, Thread(target=kill, daemon=True).start)


def _died(work: Callable[[], Any], prepare: Callable[[], Any]) -> bool:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            prepare()
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, "the work failed; see its traceback"
    return os.WIFSIGNALED(status)
