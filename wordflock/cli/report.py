"""Commands that show how good a run is."""

from __future__ import annotations

import json
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from wordflock.cli.options import command
from wordflock.errors import WordflockError

RunName = Annotated[str, Parameter(help="Run: its folder, or its name below runs/.")]


@command
def watch(
    run: RunName,
    /,
    *,
    dashboard: Annotated[
        str, Parameter(help="Serve a page with the same at this address and port, such as 127.0.0.1:8080.")
    ] = "",
) -> None:
    """Show a run while it goes on: rounds, clients, the curve of its accuracy; until its end, or Ctrl-C."""
    from wordflock.report.terminal import watch
    from wordflock.runs import find_run

    folder = find_run(run)
    with suppress(KeyboardInterrupt), ExitStack() as stack:  # how a user ends it; the run goes on
        if dashboard:
            from wordflock.report.dashboard import dashboard as serve

            print(f"dashboard: {stack.enter_context(serve(folder, dashboard))}", flush=True)
        watch(folder, stay=bool(dashboard))


@command
def runs(
    *,
    runs: Annotated[str, Parameter(help="Folder with runs.")] = "runs",
    sort: Annotated[Literal["date", "accuracy", "name"], Parameter(help="Order of the list.")] = "date",
    as_json: Annotated[bool, Parameter(name="--json", help="Print JSON.", negative=())] = False,
) -> None:
    """List the runs: name, mode, data, accuracy on the test split, date."""
    from wordflock.options import split_lines
    from wordflock.runs import list_runs

    order = {"date": lambda run: run.date, "accuracy": lambda run: -(run.accuracy or 0.0), "name": lambda run: run.name}
    listed = sorted(list_runs(Path(runs)), key=order[sort])
    if as_json:
        print(json.dumps([{**asdict(run), "date": run.date.isoformat()} for run in listed], indent=2))
        return
    rows = [["name", "mode", "data", "accuracy", "date"]]
    for run in listed:
        accuracy = "" if run.accuracy is None else f"{run.accuracy:.4f}"
        rows.append([run.name, run.mode, ", ".join(split_lines(run.data)), accuracy, f"{run.date:%Y-%m-%d %H:%M}"])
    _print_table(rows)


@command
def show(run: RunName, /) -> None:
    """Show one run: what was trained on what, its scores, what was not measured."""
    from wordflock.report.facts import read_run, undamaged
    from wordflock.report.summary import guarantees, headline, unmeasured
    from wordflock.runs import find_run

    with undamaged(run):
        facts = read_run(find_run(run))
        _print_table([[f"{name}:", value] for name, value in headline(facts)])
        print("\n".join(guarantees(facts)))
        if missing := unmeasured(facts):
            print(f"Not measured: {'; '.join(missing)}.")


@command
def delete(
    run: RunName, /, *, yes: Annotated[bool, Parameter(help="Do not ask whether to delete it.", negative=())] = False
) -> None:
    """Delete a run's folder with all that is in it."""
    from wordflock.runs import delete_run, find_run

    folder = find_run(run)
    if not yes:
        if not sys.stdin.isatty():
            raise WordflockError(f"Deleting {folder} cannot be undone; add --yes.")
        if input(f"Delete {folder} and everything in it? [y/N] ").strip().lower() not in ("y", "yes"):
            return
    delete_run(folder)
    print(f"deleted: {folder}")


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
    from wordflock.report.facts import undamaged
    from wordflock.report.page import write_report
    from wordflock.runs import find_run

    with undamaged(run):
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
    from wordflock.report.facts import read_run, undamaged
    from wordflock.report.page import write_comparison
    from wordflock.runs import find_run

    if len(runs) < 2:
        raise WordflockError("One run cannot be compared; name two or more.")
    with undamaged(*runs):
        read = [read_run(find_run(run)) for run in runs]
        if out:
            print(write_comparison(read, Path(out)))
            return
        rows = [["", *(run.name for run in read)], *comparison_rows(read)]
        _print_table(rows)
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


@command
def sweep(
    file: Annotated[str, Parameter(help="TOML file: mode, search, [options], [space].")],
    /,
    *,
    name: Annotated[
        str, Parameter(help="Name of the sweep, its folder below --runs. (default: that of the file)")
    ] = "",
    runs: Annotated[str, Parameter(help="Folder for runs.")] = "runs",
    parallel: Annotated[int, Parameter(help="Trials at the same time; 0: one for each processor core.")] = 0,
) -> None:
    """Train with many settings, compare them on validation clips, and score the best on the test split."""
    from wordflock.report.page import write_sweep
    from wordflock.sweep import importances, shown
    from wordflock.sweep import sweep as run_sweep

    folder = Path(runs) / (Path(name).name or Path(file).stem)
    trials, best = run_sweep(Path(file), folder, parallel)
    keys = list(trials[0].tried)
    rows = [["trial", "accuracy", *keys]]
    for trial in trials:
        accuracy = "pruned" if trial.pruned else "failed" if trial.accuracy is None else f"{trial.accuracy:.4f}"
        rows.append([trial.folder.name, accuracy, *(shown(trial.tried[key]) for key in keys)])
    _print_table(rows)
    print(write_sweep(folder / "sweep.html", rows, importances(trials)))
    print(f"best: {best}")


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
