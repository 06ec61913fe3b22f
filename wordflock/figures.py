"""The figures of a run and of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from wordflock.files import write_atomically

# Colours that colour-blind eyes tell apart (Okabe and Ito, https://jfly.uni-koeln.de/color/), without black and yellow.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
HATCHES = ("", "////", "...")  # for the second and the third word of a colour
SPECIAL = {"_unknown_": "#999999", "_silence_": "#D9D9D9"}  # classes that are no words, in greys
REST = "#333333"
MAX_MARKERS = 60  # of a line; more would hide it
MAX_NAME = 24  # characters of a label in a legend
LINES = (
    ("validation_accuracy", "validation", {"marker": "o", "color": COLOURS[0]}),
    ("client_accuracy", "clients' holdout clips", {"marker": "s", "color": COLOURS[1], "linestyle": "--"}),
)  # key of the history, name, and how it is drawn


class NotebookFigure(Figure):
    """A figure that a notebook shows."""

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        self.savefig(content, dpi=120)
        return content.getvalue()


def plot_accuracy(history: Sequence[dict[str, Any]], solved: float | None, path: Path) -> None:
    """Write `draw_accuracy` as PNG."""
    _save(draw_accuracy(history, solved), path)


def draw_accuracy(history: Sequence[dict[str, Any]], solved: float | None = None) -> Figure:
    """Validation accuracy over epochs or rounds, and that of clients where there is one; `solved` is that of the last
    head with its last layer solved."""
    figure, axes = _figure()
    counter = "round" if "round" in history[0] else "epoch"
    for key, name, line_style in LINES:
        points = [(line[counter], 100 * line[key]) for line in history if line.get(key) is not None]
        if points:
            size = 4 if len(points) <= MAX_MARKERS else 0
            axes.plot(*zip(*points, strict=True), markersize=size, label=name, **line_style)
    if solved is not None:
        diamond = {"marker": "D", "markersize": 7, "markerfacecolor": "none", "linestyle": "", "color": COLOURS[0]}
        axes.plot(history[-1][counter], 100 * solved, label="validation, last layer solved", **diamond)
    axes.set_xlabel(counter)
    axes.set_ylabel("accuracy (%)")
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def plot_det(points: Sequence[tuple[float, float]], folder: Path) -> None:
    """Write the DET curve of a detector, false alarms per hour and misses (0 to 1), as det.png and det.svg."""
    figure, axes = _figure()
    axes.plot([alarms for alarms, _ in points], [100 * misses for _, misses in points], marker="o", markersize=3)
    axes.set_xscale("symlog", linthresh=0.5)
    axes.set_xlabel("false alarms per hour")
    axes.set_ylabel("misses (%)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    _save(figure, folder / "det.png")
    figure.savefig(folder / "det.svg")


def plot_clips_per_client(counts: Sequence[Sequence[int]], labels: Sequence[str], path: Path) -> None:
    """Write `draw_clips_per_client` as PNG."""
    _save(draw_clips_per_client(counts, labels), path)


def draw_clips_per_client(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """One bar a client, stacked by label; `counts` is of shape (clients, labels).

    Of more labels than there are fills that eyes tell apart, the most frequent have their own; the rest are one.
    """
    figure, axes = _figure(wide=True)
    table = np.asarray(counts, dtype=np.int64).reshape(-1, len(labels))
    bottom = np.zeros(len(table))
    for name, fill, columns in _fills(table.sum(axis=0), labels):
        heights = table[:, columns].sum(axis=1)
        axes.bar(range(len(table)), heights, bottom=bottom, width=0.9, label=name, edgecolor="white", lw=0, **fill)
        bottom += heights
    axes.set_xlabel("client")
    axes.set_ylabel("training clips")
    axes.set_xlim(-0.6, len(table) - 0.4)
    axes.xaxis.set_major_locator(_whole_numbers())
    bars = axes.containers[::-1]  # upwards as in the figure
    names = [_plain(bar.get_label()) for bar in bars]
    axes.legend(bars, names, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    return figure


def _fills(totals: NDArray[np.int64], labels: Sequence[str]) -> list[tuple[str, dict[str, Any], list[int]]]:
    """The parts of a bar from below: name, fill, and the columns that it counts."""
    words = [index for index, label in enumerate(labels) if label not in SPECIAL]
    most = len(COLOURS) * len(HATCHES)
    if len(words) > most:
        words = sorted(sorted(words, key=lambda index: -totals[index])[: most - 1])
    parts = [
        (labels[index], {"color": COLOURS[i % len(COLOURS)], "hatch": HATCHES[i // len(COLOURS)]}, [index])
        for i, index in enumerate(words)
    ]
    rest = [index for index, label in enumerate(labels) if label not in SPECIAL and index not in words]
    if rest:
        parts.append((f"{len(rest)} more words", {"color": REST}, rest))
    # matplotlib leaves names that begin with "_" out of legends.
    special = [index for index, label in enumerate(labels) if label in SPECIAL]
    return parts + [(f"({labels[i].strip('_')})", {"color": SPECIAL[labels[i]]}, [i]) for i in special]


def _whole_numbers() -> MaxNLocator:
    return MaxNLocator(integer=True, min_n_ticks=1)


def _plain(name: str) -> str:
    """A name as text, which matplotlib would take for a formula between dollars, and as long as there is room for."""
    short = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
    return short.replace("$", r"\$")


def _figure(wide: bool = False) -> tuple[Figure, Any]:
    figure = NotebookFigure(figsize=(9.0 if wide else 6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)  # no window, no global state
    return figure, figure.add_subplot()


def _save(figure: Figure, path: Path) -> None:
    content = BytesIO()
    figure.savefig(content, dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
