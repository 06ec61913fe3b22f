"""The figures of a run and of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


class NotebookFigure(Figure):
    """A figure that a notebook shows."""

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        self.savefig(content, dpi=120)
        return content.getvalue()


def plot_accuracy(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Write `draw_accuracy` as PNG."""
    _save(draw_accuracy(history), path)


def draw_accuracy(history: Sequence[dict[str, Any]]) -> Figure:
    """Validation accuracy over epochs or rounds, and that of clients where there is one."""
    figure, axes = _figure()
    counter = "round" if "round" in history[0] else "epoch"
    for key, name in (("validation_accuracy", "validation"), ("client_accuracy", "clients' holdout clips")):
        points = [(line[counter], 100 * line[key]) for line in history if line.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
    axes.set_xlabel(counter)
    axes.set_ylabel("accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def plot_clips_per_client(counts: Sequence[Sequence[int]], labels: Sequence[str], path: Path) -> None:
    """One bar a client, stacked by label; `counts` is of shape (clients, labels)."""
    figure, axes = _figure(wide=True)
    bottom = [0] * len(counts)
    for index, label in enumerate(labels):
        heights = [client[index] for client in counts]
        axes.bar(range(len(counts)), heights, bottom=bottom, width=0.9, label=label)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_xlabel("client")
    axes.set_ylabel("training clips")
    axes.set_xlim(-0.6, len(counts) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    _save(figure, path)


def _figure(wide: bool = False) -> tuple[Figure, Any]:
    figure = NotebookFigure(figsize=(9.0 if wide else 6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)  # no window, no global state
    return figure, figure.add_subplot()


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
