"""The table of commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from cyclopts import App, Group
from cyclopts.config import Env

import wordflock
from wordflock.cli import data, devices, hear, report, training, use
from wordflock.cli.options import HELP_ALL

# By the headings of the help; the first line of a function's docstring is its help.
COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Train": {
        "train": training.train,
        "simulate": training.simulate,
        "prepare": training.prepare,
        "forget": training.forget,
        "learn": training.learn,
    },
    "Use": {
        "evaluate": use.evaluate,
        "predict": use.predict,
        "listen": hear.listen,
        "spot": hear.spot,
        "evaluate-stream": hear.evaluate_stream,
        "export": hear.export,
    },
    "See": {
        "runs": report.runs,
        "runs show": report.show,
        "runs delete": report.delete,
        "report": report.report,
        "compare": report.compare,
        "sweep": report.sweep,
        "board": report.board,
        "push": report.push,
    },
    "Train on devices": {
        "server": devices.server,
        "client": devices.client,
        "certificates": devices.certificates,
    },
    "Data and encoders": {
        "data download": data.download,
        "data synthesize": data.synthesize,
        "data describe": data.describe,
        "encoder save": data.save_encoder,
    },
}
FAMILIES = {
    "data": "Make and describe data sets.",
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
    app()(words, exit_on_error=False, print_error=False, result_action="return_value")


def app() -> App:
    """All commands as an application of cyclopts."""
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
        for words, function in commands.items():
            family, _, name = words.rpartition(" ")
            if words in FAMILIES or (family and family not in top):
                about = FAMILIES[family or words]
                top.command(App(name=family or words, help=about, help_flags=HELP_FLAGS, group=group))
            if words in FAMILIES:  # a family that is a command itself
                top[words].default(function)
            else:
                (top[family] if family else top).command(function, name=name, group=None if family else group)
    top.register_install_completion_command(help="Install completion for this shell.", add_to_startup=False)
    return top
