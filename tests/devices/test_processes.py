from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wordflock.devices.processes import in_own_process

SECONDS = 30.0  # until a process that should end is taken for one that does not


def test_what_is_called_in_a_process_of_its_own_answers_and_raises_as_here() -> None:
    assert in_own_process(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        in_own_process(divmod, 1, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_it_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    (tmp_path / "sleeper.py").write_text(
        "import os, pathlib, time\n"
        "def sleep(path):\n"
        "    pathlib.Path(path + '.new').write_text(str(os.getpid()))\n"
        "    os.rename(path + '.new', path)\n"
        "    time.sleep(600)\n"
    )
    code = (
        "from sleeper import sleep; from wordflock.devices.processes import in_own_process\n"
        f"in_own_process(sleep, {str(told)!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL) as parent:
        assert _happens(told.exists)
        child = int(told.read_text())
        assert _runs(child)
        parent.send_signal(signal.SIGKILL)
    assert _happens(lambda: not _runs(child))


def _runs(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def _happens(what: Callable[[], bool]) -> bool:
    until = time.monotonic() + SECONDS
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
