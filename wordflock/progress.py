"""What the work reports while it goes on: lines, and the one progress bar.

Nobody is told anything unless someone asked, with `reporting`: the command line prints the lines, Python stays silent.
The bar is on standard error, only on a terminal or in a notebook, and gone when the work is done. The terminal may be
another process's: the server's ServerApp has a bar, and `wordflock server` has the terminal. Such a process relays its
bar, as lines of its standard output that the other one shows. Where there is no bar, in a pipe or a file, a line says
how far the work is whenever nothing else was said for a while.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

SILENCE = 30.0  # seconds
RELAYED = "\x01"  # what a line for the bar of another process begins with
Show = Callable[[int, str, str], None]  # how many are done, what they came to, and what is going on
Reporter = Callable[[str], None]

_open: list[Callable[[str], None]] = []
_reporters: list[Reporter] = []  # the last one counts
_last_line = 0.0  # when it was told


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Have what is reported inside the block told to `reporter`, a line at a time, and bars shown."""
    _reporters.append(reporter)
    try:
        yield
    finally:
        _reporters.pop()


def report(line: str) -> None:
    """Tell whoever asked what has happened."""
    global _last_line
    if _reporters:
        _last_line = time.monotonic()
        _reporters[-1](line)


def is_reported() -> bool:
    """Whether anyone asked."""
    return bool(_reporters)


def print_line(line: str) -> None:
    """The reporter of a process whose lines are read as they come."""
    print(line, flush=True)


@contextmanager
def progress(what: str, total: int, unit: str, *, relay: bool = False) -> Iterator[Callable[..., None]]:
    """Show how far `what` has come; yields `advance(count, came_to="")`, and shows the speed in `unit` a second.

    With `relay` the bar is shown by the process that passes this one's output to `relayed`.
    """
    done, last = 0, ""
    with ExitStack() as stack:
        show = _relay(what, total, unit) if relay else stack.enter_context(_bar(what, total, unit))

        def advance(count: int = 1, came_to: str = "") -> None:
            nonlocal done, last
            done, last = done + count, came_to
            show(done, last, "")

        _open.append(lambda text: show(done, last, text))
        stack.callback(_open.pop)
        yield advance


def going_on(text: str) -> None:
    """Say at the end of the bar that is open, where one is, what is going on."""
    if _open:
        _open[-1](text)


@contextmanager
def relayed() -> Iterator[Callable[[str], bool]]:
    """The bar of another process; yields what takes a line of its output, and tells whether it was one for the bar."""
    show: Show | None = None
    with ExitStack() as stack:

        def take(line: str) -> bool:
            nonlocal show
            if not line.startswith(RELAYED):
                return False
            bar, now = json.loads(line.removeprefix(RELAYED))
            show = show or stack.enter_context(_bar(*bar))
            show(*now)
            return True

        yield take


def _relay(what: str, total: int, unit: str) -> Show:
    said = ""

    def show(done: int, last: str, now: str) -> None:
        nonlocal said
        line = RELAYED + json.dumps([[what, total, unit], [done, last, now]])
        if line != said:
            report(line)
        said = line

    return show


@contextmanager
def _bar(what: str, total: int, unit: str) -> Iterator[Show]:
    if not _reporters:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    console = Console(stderr=True)
    widgets = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn(
            "{task.fields[note]}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        ),
    )
    # What is printed meanwhile goes above the bar, but not there from a pipe or a file.
    above = sys.stdout.isatty()
    shown, began = widgets if console.is_jupyter else console.is_terminal, time.monotonic()
    with Progress(
        *columns, console=console, expand=True, transient=True, redirect_stdout=above, disable=not shown
    ) as bar:
        task = bar.add_task(what, total=total, speed="", note="")

        def show(done: int, last: str, now: str) -> None:
            bar.update(task, completed=done, note=" · ".join(filter(None, (now, last))))
            speed = bar.tasks[0].speed or 0.0
            bar.update(task, speed=f"{speed:.0f} {unit}/s" if speed >= 1 else "")
            if not shown and 0 < done < total and time.monotonic() - max(began, _last_line) >= SILENCE:
                report(f"{what}: {done:,} of {total:,} {unit}")

        yield show
