"""`wordflock report`: one HTML page about a run, self-contained, for any browser and for paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wordflock.errors import counted
from wordflock.files import write_atomically
from wordflock.report import charts, compare, facts
from wordflock.report.facts import RunFacts
from wordflock.report.sections import SOLVED, Section, points_of, sections_of, share_of
from wordflock.report.summary import guarantees, headline, percent, unmeasured

if TYPE_CHECKING:
    import jinja2

TRIALS = (
    "Accuracy is that on validation clips. A pruned trial was ended because it was below the median of the others at "
    "the same epoch or round."
)
IMPORTANCE = (
    "The share of the variance of accuracy between an option's values, among the trials that were not ended; shares of "
    "options that act together overlap."
)


def write_report(folder: Path, *, audio: bool = False, target: Path | None = None) -> Path:
    """Write the report of a finished run as `report.html` in its folder, or to `target`; returns the file.

    `audio` embeds the sound of the most confident mistakes. Raises WordflockError where the run cannot be read, or
    where its recordings are needed and no longer found.
    """
    run = facts.read_run(folder)
    page = render(run, _players(run) if audio else {})
    path = target or folder / "report.html"
    write_atomically(path, page.encode())
    return path


def render(run: RunFacts, players: dict[str, str]) -> str:
    """The page of one run; `players` has data URLs of clips by their name."""
    before = compare.run_before(run)
    found = compare.difference(run, before) if before else None
    lines = [*guarantees(run), *([f"Accuracy of {compare.in_words(found)}"] if found else [])]
    return _page(run.name, lines, sections_of(run, players), headline(run), unmeasured(run))


def render_comparison(runs: Sequence[RunFacts]) -> str:
    """A page with the runs side by side; the first is the one that the others are compared with."""
    first, *others = runs
    found = [compare.difference(run, first) for run in others]
    verdicts = [compare.in_words(difference) for difference in found if difference]
    recall = [run.test["recall"] if run.test else {} for run in runs]
    labels = list(dict.fromkeys(label for values in recall for label in values))
    by_label = [[label, *(share_of(values.get(label)) for values in recall)] for label in labels]
    names = [run.name for run in runs]
    return _page(
        " · ".join(names),
        verdicts or ["The runs have no test clips in common, so their accuracy cannot be compared."],
        [
            Section("Figures and options", columns=["", *names], rows=compare.comparison_rows(runs), open=True),
            _curves(runs),
            Section("Recall by label", columns=["label", *names], rows=by_label, open=True),
        ],
    )


def _curves(runs: Sequence[RunFacts]) -> Section:
    """The curves of all runs in one figure."""
    title, counter = "Validation accuracy", "epoch or round"
    series = {run.name: points_of(run, "validation_accuracy") for run in runs}
    marks = [charts.Mark(run.name, f"{run.name}, {SOLVED}", run.solved) for run in runs if run.solved]
    figure = charts.line_chart(title, series, counter, "accuracy", marks=marks)
    accuracies = [dict(points_of(run, "validation_accuracy")) for run in runs]
    numbers = sorted({number for values in accuracies for number in values})
    rows = [[f"{number:g}", *(share_of(values.get(number)) for values in accuracies)] for number in numbers]
    if marks:
        rows.append([SOLVED, *(share_of(run.solved[1] if run.solved else None) for run in runs)])
    return Section(title, "", figure if len(numbers) > 1 else "", [counter, *(run.name for run in runs)], rows)


def write_comparison(runs: Sequence[RunFacts], path: Path) -> Path:
    """Write the page that compares runs; returns the file."""
    write_atomically(path, render_comparison(runs).encode())
    return path


def write_sweep(path: Path, rows: Sequence[Sequence[str]], importances: dict[str, float]) -> Path:
    """Write the page of a sweep: its table, whose first row names the columns, and how much each option mattered."""
    figure = charts.bar_chart("Share of the variance of accuracy", importances)
    shares = [[key, percent(value)] for key, value in importances.items()]
    sections = [
        Section("Trials", TRIALS, columns=rows[0], rows=rows[1:], open=True),
        Section("Importance of options", IMPORTANCE if shares else "", figure, ["option", "share"], shares),
    ]
    write_atomically(
        path, _page(f"Sweep {path.parent.name}", [f"{counted(len(rows) - 1, 'trial')}."], sections).encode()
    )
    return path


def _page(
    title: str,
    lines: Sequence[str],
    sections: Sequence[Section],
    headline: Sequence[tuple[str, str]] = (),
    missing: Sequence[str] = (),
) -> str:
    shown = [section for section in sections if section.figure or section.rows or section.text]
    return (
        templates()
        .get_template("page.html.j2")
        .render(title=title, lines=lines, sections=shown, headline=headline, missing=missing)
    )


@cache
def templates() -> jinja2.Environment:
    """The templates of all pages, which escape what they are given."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("wordflock.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def _players(run: RunFacts) -> dict[str, str]:
    """The most confident mistakes as FLAC, in data URLs, by the clips' names."""
    import soundfile

    from wordflock.audio.reading import SAMPLE_RATE
    from wordflock.data.loading import read_samples
    from wordflock.prepare import load_table
    from wordflock.settings import Settings

    wanted = {row.clip for row in facts.confident_mistakes(run.predictions) if not row.start}
    table = load_table(Settings.from_config(run.config))
    clips = [clip for clip in table.of_split("test") if clip.name in wanted]
    players = {}
    for clip, samples in zip(clips, read_samples(clips), strict=True):
        content = io.BytesIO()
        soundfile.write(content, np.clip(samples, -1, 1), SAMPLE_RATE, format="FLAC")
        players[clip.name] = f"data:audio/flac;base64,{base64.b64encode(content.getvalue()).decode()}"
    return players
