"""The command line: commands hold no logic, and all printing is here. `commands.py` has the table of them."""

from __future__ import annotations

import errno
import gc
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

from wordflock.errors import OptionError, WordflockError, brief, show_warnings
from wordflock.settings import default_cache

FAILED, USERS_MISTAKE, INTERRUPTED = 1, 2, 130  # exit statuses, beside 0


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # in a pipe or a file too, progress is for those who wait
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # of what a terminal cannot show
    gc.set_threshold(10_000, 50, 50)  # torch's modules are much to look through: a tenth of a start went into it
    os.environ.setdefault("MPLCONFIGDIR", str(default_cache() / "matplotlib"))  # its list of fonts, with all we keep
    show_warnings()
    with one_sentence():
        from wordflock.cli.commands import run

        run(sys.argv[1:])


@contextmanager
def one_sentence() -> Iterator[None]:
    """What goes wrong is said in one sentence on standard error: status 2 for a user's mistake, no traceback."""
    try:
        yield
    except OptionError as error:
        _end(f"Error: {on_command_line(error)}", USERS_MISTAKE)
    except WordflockError as error:
        _end(f"Error: {error}", USERS_MISTAKE)
    except KeyboardInterrupt as interrupt:  # its text, where it has one, says how to go on
        _end(f"Interrupted; what was finished is kept{f': {interrupt}' if interrupt.args else ''}.", INTERRUPTED)
    except BrokenPipeError:
        raise SystemExit(FAILED) from None
    except ModuleNotFoundError as error:
        if (error.name or "wordflock").startswith("wordflock"):
            raise  # a fault of ours
        _end(f"Error: This needs {error.name}, which is not installed; pip install 'wordflock[train]'.", USERS_MISTAKE)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _end("Error: The disk is full; make room and run again: what was finished is kept.", USERS_MISTAKE)
        where = f" ({error.filename})" if error.filename else ""
        _end(f"Error: {error.strerror or error}{where}.", USERS_MISTAKE)
    except Exception as error:
        from cyclopts import CycloptsError

        if not isinstance(error, CycloptsError):
            traceback.print_exc()
            raise SystemExit(FAILED) from None
        _end(f"Error: {' '.join(str(error).split())}", USERS_MISTAKE)


def on_command_line(error: OptionError) -> str:
    """An option's error as the command line spells it."""
    import shlex

    return f"--{error.option.replace('_', '-')} {shlex.quote(str(error.value))} {error.problem}"


def _end(sentence: str, status: int) -> None:
    print(brief(sentence), file=sys.stderr)
    raise SystemExit(status) from None
