"""A session on a real terminal: the word and the level are shown in place, and keys are the terminal's."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest
from speakers import RATE, spoken


def take_controlling_terminal() -> None:
    fcntl.ioctl(2, termios.TIOCSCTTY, 0)


def shown(terminal: int) -> str:
    """What was written to the terminal since the last look."""
    found = b""
    while select.select([terminal], [], [], 0.02)[0]:
        try:
            content = os.read(terminal, 65_536)
        except OSError:  # its last user ended
            break
        if not content:
            break
        found += content
    return found.decode(errors="replace")


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_the_word_is_shown_and_a_key_ends_the_session(locale: str, tmp_path: Path) -> None:
    terminal, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    arguments = ["data", "record", "yes", "--speaker", "anna", "--takes", "2", "--no-room", "--out", "out", "-"]
    environment = {**os.environ, "TERM": "xterm", "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "wordflock", *arguments],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=slave,
        start_new_session=True,
        preexec_fn=take_controlling_terminal,
    )
    try:
        assert process.stdin and process.stdout
        process.stdin.write(spoken(1, room=0).tobytes())
        said, silence = "", bytes(RATE // 10)
        with suppress(BrokenPipeError):
            while process.poll() is None and "kept" not in said:
                said += shown(terminal)
                process.stdin.write(silence)
                process.stdin.flush()
            os.write(terminal, b"q")
            while process.poll() is None:
                said += shown(terminal)
                process.stdin.write(silence)
                process.stdin.flush()
        assert process.poll() == 0, said[-300:]
        assert process.stdout.read() == b"out: 1 take of anna, 1 missing\n"
        assert process.wait(30) == 0
        assert "Get ready for" in said and "yes: kept" in said and " dB" in said
        assert termios.tcgetattr(slave) == before
    finally:
        process.kill()
        process.communicate()
        os.close(slave)
        os.close(terminal)
