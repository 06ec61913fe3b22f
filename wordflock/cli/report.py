"""Commands that show how good a run is."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wordflock.cli.options import command
from wordflock.errors import WordflockError

RunName = Annotated[str, Parameter(help="Run: its folder, or its name below runs/.")]


@command
def report(
    run: RunName,
    /,
    *,
    open: Annotated[bool, Parameter(help="Open the page in a browser.", negative=())] = False,
    audio: Annotated[
        bool, Parameter(help="Embed the sound of the worst mistakes; pages get shared.", negative=())
    ] = False,
    out: Annotated[str, Parameter(help="File to write. (default: report.html in the run's folder)")] = "",
) -> None:
    """Write a page about a run: accuracy, mistakes, speakers, clients, costs."""
    from wordflock.report.page import write_report
    from wordflock.runs import find_run

    path = write_report(find_run(run), audio=audio, target=Path(out) if out else None)
    print(path)
    if open:
        webbrowser.open(path.resolve().as_uri())


@command
def compare(
    runs: Annotated[list[str], Parameter(help="Two or more runs; the others are compared with the first.")],
    /,
    *,
    out: Annotated[str, Parameter(help="Write a page to this file in place of the table.")] = "",
) -> None:
    """Compare runs: options that differ, accuracy with paired intervals, bytes, seconds."""
    from wordflock.report.compare import comparison_rows, difference, in_words
    from wordflock.report.facts import read_run
    from wordflock.report.page import write_comparison
    from wordflock.runs import find_run

    if len(runs) < 2:
        raise WordflockError("One run cannot be compared; name two or more.")
    read = [read_run(find_run(run)) for run in runs]
    if out:
        print(write_comparison(read, Path(out)))
        return
    rows = [["", *(run.name for run in read)], *comparison_rows(read)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for run in read[1:]:
        found = difference(run, read[0])
        print(in_words(found) if found else f"{run.name} and {read[0].name} have no test clips in common.")


@command
def push(
    run: Annotated[str, Parameter(help="Run or export: its folder, or a run's name below runs/.")],
    repository: Annotated[str, Parameter(help="Repository of the Hugging Face Hub, OWNER/NAME.")],
    /,
    *,
    private: Annotated[bool, Parameter(help="Create a private repository.", negative=())] = False,
) -> None:
    """Upload a head and its model card to the Hugging Face Hub; settings, history and predictions stay here."""
    from wordflock.report.hub import push
    from wordflock.report.model_card import CARD
    from wordflock.runs import find_run

    folder = Path(run) if (Path(run) / CARD).is_file() else find_run(run)
    print(push(folder, repository, private=private))


@command
def board(runs: Annotated[str, Parameter(help="Folder with runs, or one run.")] = "runs", /) -> None:
    """Show curves of runs in TensorBoard, also while they train, until Ctrl-C."""
    import subprocess
    import sys

    subprocess.run([sys.executable, "-m", "tensorboard.main", "--logdir", runs, "--load_fast", "false"], check=False)
