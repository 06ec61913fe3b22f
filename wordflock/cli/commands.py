"""The table of commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module

from cyclopts import App, Group
from cyclopts.config import Env

import wordflock
from wordflock.cli.options import HELP_ALL

# By the headings of the help: the module below cli/ and the function of each command, whose docstring is its help.
COMMANDS: dict[str, dict[str, str]] = {
    "Train": {
        "train": "training:train",
        "simulate": "training:simulate",
        "prepare": "training:prepare",
        "forget": "training:forget",
        "learn": "training:learn",
    },
    "Use": {
        "evaluate": "use:evaluate",
        "predict": "use:predict",
        "listen": "hear:listen",
        "spot": "hear:spot",
        "evaluate-stream": "hear:evaluate_stream",
        "export": "hear:export",
    },
    "See": {
        "watch": "report:watch",
        "runs": "report:runs",
        "runs show": "report:show",
        "runs delete": "report:delete",
        "report": "report:report",
        "compare": "report:compare",
        "sweep": "report:sweep",
        "board": "report:board",
        "push": "report:push",
    },
    "Train on devices": {
        "server": "devices:server",
        "client": "devices:client",
        "certificates": "devices:certificates",
    },
    "Data and encoders": {
        "data download": "data:download",
        "data synthesize": "data:synthesize",
        "data cut": "recordings:cut",
        "data record": "recordings:record",
        "data describe": "data:describe",
        "encoder save": "data:save_encoder",
        "data check": "data:check",
    },
}
FAMILIES = {
    "data": "Download, synthesize, record, cut, describe and check data sets.",
    "encoder": "Write an encoder to a file.",
    "runs": "List runs; show or delete one.",
}
HELP_FLAGS = ["--help", "-h"]
EPILOGUE = (
    "`wordflock COMMAND --help` shows the usual options of a command, `--help-all` all of them. An option can also be "
    "set in the environment (WORDFLOCK_BATCH_SIZE=8) or in a file (--config run.toml)."
)


def run(arguments: Sequence[str]) -> None:
    """Run one command. Raises what it raises, and CycloptsError for arguments that it does not take."""
    words = ["--help" if word == HELP_ALL else word for word in arguments]
    first = next((word for word in words if not word.startswith("-")), "")
    app(first)(words, exit_on_error=False, print_error=False, result_action="return_value")


def app(first: str = "") -> App:
    """The commands that begin with a word as an application of cyclopts, or all where none does: modules of others are
    not imported, which a start of `predict` would notice."""
    chosen = {words for commands in COMMANDS.values() for words in commands if words.split()[0] == first}
    top = App(
        name="wordflock",
        help=(inspect.getdoc(wordflock) or "").splitlines()[0],
        help_format="plaintext",  # markdown takes a tenth of the time that help has
        help_epilogue=EPILOGUE,
        help_flags=HELP_FLAGS,
        version=wordflock.__version__,
        config=[Env("WORDFLOCK_", command=False, show=False)],
        suppress_keyboard_interrupt=False,
    )
    for place, (heading, commands) in enumerate(COMMANDS.items()):
        group = Group(heading, sort_key=place)
        for words, where in commands.items():
            if chosen and words not in chosen:
                continue
            function = function_of(where)
            family, _, name = words.rpartition(" ")
            if words in FAMILIES or (family and family not in top):
                about = FAMILIES[family or words]
                top.command(App(name=family or words, help=about, help_flags=HELP_FLAGS, group=group))
            if words in FAMILIES:  # a family that is a command itself
                top[words].default(function)
            else:
                (top[family] if family else top).command(function, name=name, group=None if family else group)
    if not chosen:
        top.register_install_completion_command(help="Install completion for this shell.", add_to_startup=False)
    return top


def function_of(place: str) -> Callable[..., None]:
    """The function of a command, by its row in the table."""
    module, _, name = place.partition(":")
    function: Callable[..., None] = getattr(import_module(f"wordflock.cli.{module}"), name)
    return function
