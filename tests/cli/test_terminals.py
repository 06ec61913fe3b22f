"""Terminals that cannot show every letter, and warnings of processes that are not the command's own."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

from wordflock.devices.processes import in_own_process
from wordflock.errors import WordflockWarning
from wordflock.progress import print_line, reporting


@pytest.mark.parametrize("command", [["--help"], ["train", "--help"], ["server", "--help-all"]])
def test_help_is_shown_on_a_terminal_of_ascii(command: list[str]) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    done = subprocess.run(
        [sys.executable, "-m", "wordflock", *command], env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()


def warn() -> None:
    warnings.warn("One file is left out.", WordflockWarning, stacklevel=1)
    warnings.warn("A library's own.", UserWarning, stacklevel=1)


def test_a_warning_of_a_process_of_our_own_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    with reporting(print_line):
        in_own_process(warn)
    assert capfd.readouterr().err == "Warning: One file is left out.\n"
