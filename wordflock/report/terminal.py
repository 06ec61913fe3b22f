"""`wordflock watch`: a run in the terminal while it goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wordflock.report.live import ASKED, AWAY, REFUSED, REPLIED, LiveRun, Watched
from wordflock.report.sections import SOLVED, share_of

INTERVAL = 1.0  # seconds between two looks
HEIGHT = 8  # lines of the curve
EIGHTHS = " ▁▂▃▄▅▆▇█"
MAX_CLIENTS = 12  # that are listed one by one: those that need attention first
MAX_PROBLEMS = 5
ORDER = (REFUSED, ASKED, AWAY, REPLIED)
OVER = ("finished", "stopped")
STYLES = {REFUSED: "red", ASKED: "yellow", AWAY: "dim", REPLIED: "green"}


def watch(folder: Path, *, stay: bool = False) -> None:
    """Show the run in a folder until it is over, or, with `stay`, until Ctrl-C.

    Where standard output is not a terminal, the state is printed once. Raises WordflockError where a file of the run is
    damaged.
    """
    console, watched = Console(), Watched(folder)
    if not console.is_terminal:
        console.print(picture(watched.now(), console))
        while stay:
            time.sleep(INTERVAL)
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            run = watched.now()
            live.update(picture(run, console), refresh=True)
            if run.state in OVER and not stay:
                return
            time.sleep(INTERVAL)


def picture(run: LiveRun, console: Console) -> RenderableType:
    """The run as a terminal shows it."""
    facts = run.facts
    words = [facts.name, run.state, f"{facts.counter} {run.done}{f' of {run.total}' if run.total else ''}"]
    if run.best is not None:
        last = facts.history[-1]["validation_accuracy"]
        words.append(f"accuracy {share_of(last)}, best {share_of(run.best)}")
    if facts.solved:
        words.append(f"{SOLVED} {share_of(facts.solved[1])}")
    if facts.test:
        words.append(f"test {share_of(facts.test['accuracy'])}")
    parts: list[RenderableType] = [Text(" · ".join(words), style="bold")]
    values = [line["validation_accuracy"] for line in facts.history]
    if len(values) > 1 and run.best is not None:
        parts.append(Text("\n".join(plot(values, console.width - 8, ascii_only=console.options.ascii_only))))
    if run.clients:
        parts += [Text(_counts(run)), _table(run)]
    problems = [
        f"{facts.counter} {line[facts.counter]}: {problem}"
        for line in facts.history
        for problem in line.get("refused", ())
    ]
    parts += [Text(problem, style="red", no_wrap=True, overflow="ellipsis") for problem in problems[-MAX_PROBLEMS:]]
    return Group(*parts)


def plot(values: Sequence[float], width: int, *, ascii_only: bool = False) -> list[str]:
    """A curve of shares as lines of blocks, from the top down, with a scale; the newest `width` values fit."""
    shown = values[-max(1, width) :]
    low, high = min(shown), max(shown)
    room = max(high - low, 0.01)
    low, high = max(0.0, low - 0.1 * room), min(1.0, high + 0.1 * room)
    heights = [round((value - low) / (high - low) * 8 * HEIGHT) for value in shown]
    across = max(1, min(4, width // len(shown)))
    lines = []
    for row in range(HEIGHT - 1, -1, -1):
        eighths = [min(8, max(0, height - 8 * row)) for height in heights]
        cells = ("#" if eighth >= 4 else " " for eighth in eighths) if ascii_only else (EIGHTHS[e] for e in eighths)
        scale = high if row == HEIGHT - 1 else low if row == 0 else None
        label = "" if scale is None else f"{100 * scale:.1f}%"
        lines.append(f"{label:>6} {''.join(cell * across for cell in cells)}".rstrip())
    return lines


def _counts(run: LiveRun) -> str:
    here = len(run.clients) - run.count(AWAY)
    asked = run.count(ASKED, REPLIED)
    counts = f"{here} of {len(run.clients)} clients online, {run.count(REPLIED)} of {asked} replied"
    return f"{counts}, {run.count(REFUSED)} refused"


def _table(run: LiveRun) -> Table:
    table = Table("client", "name", "clips", "state", box=None, pad_edge=False, header_style="dim")
    order: dict[str, Any] = {state: place for place, state in enumerate(ORDER)}
    ranked = sorted(run.clients, key=lambda client: (order.get(client.state, len(ORDER)), client.number))
    for client in ranked[:MAX_CLIENTS]:
        state = Text(client.state, style=STYLES.get(client.state, ""))
        table.add_row(str(client.number), Text(client.name), str(client.clips), state)
    if len(ranked) > MAX_CLIENTS:
        table.add_row("…", f"{len(ranked) - MAX_CLIENTS} more", "", "")
    return table
