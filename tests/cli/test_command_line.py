"""The command line as a whole: help, versions, completion, exit statuses, and who prints what."""

from __future__ import annotations

import ast
import errno
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import wordflock
from wordflock.cli import on_command_line, one_sentence
from wordflock.cli.commands import COMMANDS, FAMILIES, app, function_of, run
from wordflock.errors import OptionError, WordflockError
from wordflock.options import dashed
from wordflock.settings import EvaluateSettings, TrainSettings

NAMES = [words for commands in COMMANDS.values() for words in commands]


def printed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `python -m wordflock` prints."""
    command = [sys.executable, "-m", "wordflock", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# Help


@pytest.mark.parametrize("words", NAMES)
def test_every_command_has_help(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        run([*words.split(), flag])
        shown = capsys.readouterr().out
        function = function_of(next(commands[words] for commands in COMMANDS.values() if words in commands))
        assert f"Usage: wordflock {words}" in shown
        help = FAMILIES.get(words) or inspect.getdoc(function) or ""
        assert " ".join(help.split()[:4]) in shown
        assert "--quiet" in shown and "--verbose" in shown


def test_the_help_lists_every_command_below_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    shown = capsys.readouterr().out
    places = [shown.index(f" {heading} ") for heading in COMMANDS]
    assert places == sorted(places)
    assert all(words.split()[0] in shown for words in NAMES)
    assert (inspect.getdoc(wordflock) or "").splitlines()[0].split()[1] in shown


def test_rare_options_are_in_the_whole_help_alone() -> None:
    usual, whole = (printed("train", flag).stdout for flag in ("--help", "--help-all"))
    for f in fields(TrainSettings):
        option = f"│ --{dashed(f.name)} "
        assert option in whole
        assert (option in usual) != f.metadata["rare"]
    groups = [usual.index(f"─ {group} ─") for group in ("Data", "Features", "Training", "Privacy", "Output")]
    assert groups == sorted(groups)


def test_versions_and_completion() -> None:
    assert printed("--version").stdout == f"{wordflock.__version__}\n"
    for shell in ("bash", "zsh", "fish"):
        script = app().generate_completion(shell=shell)  # type: ignore[arg-type]
        assert all(text in script for text in ("simulate", "batch-size", "closed-form"))


# Errors


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (WordflockError("The thing is wrong; mend it."), 2, "Error: The thing is wrong; mend it."),
        (OptionError("batch_size", -1, "is too small"), 2, "Error: --batch-size -1 is too small."),
        (OptionError("name", "a b", "is long"), 2, "Error: --name 'a b' is long."),
        (KeyboardInterrupt(), 130, "Interrupted; what was finished is kept."),
        (KeyboardInterrupt("go on so"), 130, "Interrupted; what was finished is kept: go on so."),
        (ModuleNotFoundError(name="torch"), 2, "Error: This needs torch, which is not installed"),
        (OSError(errno.ENOSPC, "full"), 2, "Error: The disk is full; make room"),
        (PermissionError(13, "Permission denied", "a.txt"), 2, "Error: Permission denied (a.txt)."),
        (ZeroDivisionError("a fault of ours"), 1, "ZeroDivisionError: a fault of ours"),
        (BrokenPipeError(), 1, ""),
    ],
    ids=repr,
)
def test_what_goes_wrong_has_a_sentence_and_a_status(
    error: BaseException, status: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, one_sentence():
        raise error
    assert end.value.code == status
    said = capsys.readouterr()
    assert said.out == "" and sentence in said.err
    assert ("Traceback" in said.err) == (status == 1 and bool(sentence))


@pytest.mark.parametrize("kind", [TrainSettings, EvaluateSettings])
def test_an_option_is_named_as_it_was_given(kind: type[TrainSettings]) -> None:
    with pytest.raises(OptionError) as error:
        kind(seed=-1)
    assert on_command_line(error.value) == "--seed -1 is too small; the minimum is 0."


def test_verbose_shows_the_traceback_and_quiet_nothing_but_the_error(tmp_path: Path) -> None:
    command = ["evaluate", str(tmp_path / "none.safetensors")]
    quiet, loud = printed(*command, "-q"), printed(*command, "-v")
    assert quiet.returncode == loud.returncode == 2
    assert quiet.stderr.count("\n") == 1 and quiet.stderr.startswith("Error: There is no checkpoint")
    assert "Traceback" in loud.stderr and loud.stderr.endswith(quiet.stderr)


# Who prints


def test_all_printing_is_in_the_command_line() -> None:
    """But for the one reporter, warnings, and Flower's processes, whose output is a log."""
    package = Path(inspect.getfile(wordflock)).parent
    found = set()
    for path in package.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        if any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls):
            found.add(str(path.relative_to(package)))
    logs = {"devices/flower.py", "federation/client_app.py"}
    assert {name for name in found if not name.startswith("cli/")} <= {"progress.py", "errors.py", *logs}
