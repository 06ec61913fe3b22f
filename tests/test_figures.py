"""What a figure shows is what it was given: every label has a name and a look of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wordflock.figures import COLOURS, HATCHES, draw_accuracy, draw_clips_per_client, plot_clips_per_client

SPECIAL = ("_unknown_", "_silence_")


def looks(axes: Any) -> list[tuple[Any, ...]]:
    return [(container[0].get_facecolor(), container[0].get_hatch()) for container in axes.containers]


@pytest.mark.parametrize("words", [0, 2, 10, 18, 38])
@pytest.mark.parametrize("clients", [1, 30])
def test_every_label_is_in_the_legend_and_has_a_fill_of_its_own(words: int, clients: int) -> None:
    labels = [f"word{number}" for number in range(words)] + list(SPECIAL)
    counts = np.random.default_rng(words).integers(0, 9, (clients, len(labels)))
    (axes,) = draw_clips_per_client(counts.tolist(), labels).axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"(silence)", "(unknown)"} <= set(names)
    shown = len(COLOURS) * len(HATCHES)
    assert len(names) == len(set(names)) == len(set(looks(axes))) == min(words, shown) + 2
    if words <= shown:
        assert set(labels[:words]) <= set(names)
    else:
        assert f"{words - shown + 1} more words" in names
    heights = sum(np.array([bar.get_height() for bar in container]) for container in axes.containers)
    np.testing.assert_array_equal(heights, counts.sum(axis=1))


def test_the_size_of_a_label_is_drawn_under_its_own_name() -> None:
    (axes,) = draw_clips_per_client([[1, 2, 30, 4]], ["yes", "no", *SPECIAL]).axes
    heights = {container.get_label(): container[0].get_height() for container in axes.containers}
    assert heights == {"yes": 1, "no": 2, "(unknown)": 30, "(silence)": 4}


def test_a_figure_is_written_as_png(tmp_path: Path) -> None:
    plot_clips_per_client([[1, 2]], ["yes", "_silence_"], tmp_path / "new" / "clips.png")
    assert (tmp_path / "new" / "clips.png").read_bytes().startswith(b"\x89PNG")


def test_both_accuracies_have_lines_that_differ_in_more_than_colour() -> None:
    history = [{"round": n, "validation_accuracy": 0.5, "client_accuracy": 0.4} for n in (1, 2)]
    (axes,) = draw_accuracy(history).axes
    assert len({(line.get_linestyle(), line.get_marker()) for line in axes.lines}) == 2


def test_the_solved_last_layer_is_a_point_at_the_last_round() -> None:
    (axes,) = draw_accuracy([{"round": n, "validation_accuracy": 0.5} for n in (1, 2)], 0.75).axes
    assert axes.lines[-1].get_xydata().tolist() == [[2.0, 75.0]]
    assert "validation, last layer solved" in [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize("label", [r"$\nonsense{$", "$x$", "a$b", "w" * 300, "<b>&", "да"])
def test_any_label_can_be_drawn(label: str, tmp_path: Path) -> None:
    plot_clips_per_client([[3, 2]], [label, "no"], tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 0
