"""The bar, on a real terminal: shown by the process that works, or by another one that it relays to."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest

from wordflock.progress import going_on, print_line, progress, report, reporting

WORKS = """
import sys
from wordflock.progress import going_on, print_line, progress, reporting
with reporting(print_line), progress("rounds", 3, "rounds", relay="relay" in sys.argv) as advance:
    advance(1, "accuracy 0.5000")
    print("a line")
    going_on("waiting for [2]")
"""
SHOWS = """
import sys
from wordflock.progress import print_line, relayed, reporting
with reporting(print_line), relayed() as for_the_bar:
    for line in map(str.rstrip, sys.stdin):
        if not for_the_bar(line):
            print(line)
"""


def shown(program: str, *, terminal: bool, given: str = "") -> tuple[str, str]:
    """What a program writes to standard output, which is a pipe, and to standard error, which may be a terminal."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with (
        os.fdopen(ours, "rb") as reader,
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment,
            text=True,
        ) as process,
    ):
        os.close(theirs)
        out, _ = process.communicate(given)
        seen = b""
        try:
            while part := reader.read1():
                seen += part
        except OSError:
            pass  # so a terminal says that nobody writes to it any more
        assert process.returncode == 0, seen.decode()
        return out, seen.decode()


def relay() -> str:
    return subprocess.run([sys.executable, "-c", WORKS, "relay"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("relayed", [False, True])
def test_a_terminal_shows_how_far_it_is_and_a_pipe_gets_the_lines_alone(relayed: bool) -> None:
    program, given = (SHOWS, relay()) if relayed else (WORKS, "")
    out, seen = shown(program, terminal=True, given=given)
    assert out == "a line\n"
    assert "1/3" in seen and "waiting for [2] · accuracy 0.5000" in seen
    assert shown(program, terminal=False, given=given) == ("a line\n", "")


def test_where_no_bar_is_open_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    going_on("waiting")
    with reporting(print_line), progress("rounds", 3, "rounds", relay=True) as advance:
        advance(1)
        advance(0)
    going_on("waiting")
    assert len(capfd.readouterr().out.splitlines()) == 1, "what is as it was is not said again"


def test_nothing_is_printed_unless_someone_asked(capfd: pytest.CaptureFixture[str]) -> None:
    report("a line")
    with progress("rounds", 3, "rounds", relay=True) as advance:
        advance(1)
    assert capfd.readouterr() == ("", "")
    lines: list[str] = []
    with reporting(lines.append):
        report("a line")
    report("another")
    assert lines == ["a line"] and capfd.readouterr() == ("", "")


def test_where_there_is_no_bar_lines_break_the_silence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.monotonic()
    now = [start]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with reporting(print_line), progress("listening", 5_000, "clips") as advance:
        for seconds, count in ((29, 1), (31, 1000), (40, 1000), (62, 1000), (62.5, 0), (93, 1999)):
            now[0] = start + seconds
            advance(count)
            if seconds == 40:
                report("another line")
    said = ["listening: 1,001 of 5,000 clips", "another line"]
    assert capsys.readouterr().out.splitlines() == said  # nothing more: 62 is too soon, and at 93 it is done
