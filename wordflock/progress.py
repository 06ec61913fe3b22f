"""The one progress bar: on standard error, only where a person looks, gone when the work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    """Show how far `what` has come; yields `advance(count, note="")`, and shows the speed in `unit` a second."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, speed="", note="")

        def advance(count: int = 1, note: str = "") -> None:
            bar.advance(task, count)
            speed = bar.tasks[0].speed
            bar.update(task, note=note, speed=f"{speed:.0f} {unit}/s" if speed else "")

        yield advance
