"""The command line: one thin module a command, and nothing imported before it is needed."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from io import TextIOWrapper

import typer

from wordflock.errors import WordflockWarning

app = typer.Typer(
    help="Teach devices to recognise spoken words from recordings that never leave them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make and describe data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


def main() -> None:
    """Run the command line."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in a pipe or a file too, progress is for those who wait
    gc.set_threshold(10_000, 50, 50)  # torch's modules are much to look through: a tenth of a start went into it
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # nothing leaves this machine that was not asked to
    warnings.simplefilter("ignore")  # other people's; ours are for users
    warnings.simplefilter("always", WordflockWarning)
    warnings.showwarning = lambda message, *_, **__: print(f"Warning: {message}", file=sys.stderr)
    from wordflock.cli import certificates, client, data, evaluate, predict, prepare, revise, server, simulate, train  # noqa: F401

    app()
