"""Figures as SVG that a page can style: light and dark, any width, text that can be selected and read aloud.

Written here and not by matplotlib, because its SVG has colours and sizes built in and needs a second to import. Every
function returns one `<svg>` element; colours are CSS classes, so a page defines them once for both themes. Coordinates
are those of a phone's width, at which text must be readable; a page scales figures up where there is room.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, SHOWN = 360, 190, 640  # SHOWN: pixels that a figure may be wide
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 22, 34
ROW, VALUE = 18, 46  # height of a horizontal bar, and room for its value
MAX_DOTS = 60  # of a line; more would hide it
LETTER = 6.6  # width of a letter; most are narrower
MARK = 4.5  # from the middle of a diamond to its corners
MAX_NAME = 18  # characters of a label in a figure; tables have all of them
MIN_CELL = 16  # of a confusion matrix; one that does not fit a phone is scrolled
SERIES = 8  # classes s0 to s7; more series repeat them with another dash or hatch


@dataclass(frozen=True)
class Mark:
    """One point beside a series' line, in its colour."""

    series: str
    name: str
    point: tuple[float, float]


def line_chart(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    percent: bool = True,
    marks: Sequence[Mark] = (),
) -> str:
    """Lines over a common x axis, and marks; points are (x, y), y from 0 to 1 where `percent`."""
    points = [*(point for line in series.values() for point in line), *(mark.point for mark in marks)]
    if not points:
        return ""
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = _padded(min(y for _, y in points), max(y for _, y in points), 1.0 if percent else math.inf)
    x_of = _Scale(x_low, x_high, LEFT, WIDTH - RIGHT)
    y_of = _Scale(y_low, y_high, HEIGHT - BOTTOM, TOP)
    parts = [_y_axis(y_low, y_high, y_of, y_label, percent), _x_axis(x_low, x_high, x_of, x_label)]
    for number, line in enumerate(series.values()):
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line)
        parts.append(f'<polyline class="line {_series(number)}" points="{path}"/>')
        parts += [
            f'<circle class="dot {_series(number)}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2"/>'
            for x, y in (line if len(line) <= MAX_DOTS else ())
        ]
    looks = [(name, f"dash {_series(number)}") for number, name in enumerate(series)]
    for mark in marks:
        look, (x, y) = _series(list(series).index(mark.series)), (x_of(mark.point[0]), y_of(mark.point[1]))
        corners = ((x, y - MARK), (x + MARK, y), (x, y + MARK), (x - MARK, y))
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in corners)
        parts.append(f'<polygon class="mark {look}" points="{path}"><title>{escape(mark.name)}</title></polygon>')
        looks.append((mark.name, f"diamond {look}"))
    return _svg(title, parts) + _legend(looks)


def bar_chart(title: str, bars: Mapping[str, float], percent: bool = True) -> str:
    """One horizontal bar a name, from the top down; values from 0 to 1 where `percent`."""
    if not bars:
        return ""
    names = {name: short(name) for name in bars}
    left = 8 + LETTER * max(map(len, names.values()))
    x_of = _Scale(0.0, 1.0 if percent else max(bars.values()) or 1.0, left, WIDTH - VALUE)
    parts = []
    for place, (name, value) in enumerate(bars.items()):
        said, y = f"{100 * value:.1f}%" if percent else f"{value:,.0f}", place * ROW
        parts.append(_text(left - 5, y + 13, names[name], anchor="end"))
        parts.append(
            f'<rect class="bar" x="{left:.1f}" y="{y + 2}" width="{x_of(value) - left:.1f}" height="{ROW - 4}">'
            f"<title>{escape(name)}: {said}</title></rect>"
        )
        parts.append(_text(x_of(value) + 4, y + 13, said, "tick", "start"))
    return _svg(title, parts, height=len(bars) * ROW + 2)


def stacked_bars(
    title: str, bars: Sequence[Mapping[str, int]], names: Sequence[str], x_label: str, y_label: str
) -> str:
    """One bar for each mapping, of parts by name, in the order of `names`."""
    if not bars:
        return ""
    high = max(sum(bar.values()) for bar in bars) or 1
    y_of, step = _Scale(0, high, HEIGHT - BOTTOM, TOP), (WIDTH - LEFT - RIGHT) / len(bars)
    x_of = _Scale(0, len(bars), LEFT, WIDTH - RIGHT)
    parts = [_y_axis(0, high, y_of, y_label, percent=False), _x_axis(0, len(bars) - 1, x_of, x_label, step / 2)]
    for place, bar in enumerate(bars):
        bottom = 0
        for number, name in enumerate(names):
            if count := bar.get(name, 0):
                top = y_of(bottom + count)
                parts.append(
                    f'<rect class="{_series(number)}" x="{x_of(place):.2f}" y="{top:.1f}" '
                    f'width="{max(0.3, 0.9 * step):.2f}" height="{y_of(bottom) - top:.1f}"/>'
                )
                bottom += count
    return _svg(title, parts) + _legend([(name, f"box {_series(number)}") for number, name in enumerate(names)])


def confusion_matrix(title: str, labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """Rows are true labels, columns predictions; a cell is darker the larger its share of the row."""
    names = [short(label) for label in labels]
    longest = LETTER * max(map(len, names))
    left, top = longest + 8, 0.9 * longest + 8
    size = max(MIN_CELL, min(60.0, (WIDTH - left - 0.5 * longest - 6) / len(labels)))
    parts = []
    for i, (label, row) in enumerate(zip(labels, confusion, strict=True)):
        total, y = sum(row), top + i * size
        parts.append(_text(left - 6, y + size / 2 + 4, names[i], anchor="end"))
        move = f"translate({left + (i + 0.6) * size:.1f},{top - 6:.1f}) rotate(-60)"
        parts.append(_text(0, 0, names[i], anchor="start", move=move))
        for j, count in enumerate(row):
            share, kind = count / (total or 1), "right" if i == j else "wrong"
            x = left + j * size
            parts.append(
                f'<rect class="cell {kind}" style="fill-opacity:{share**0.5:.3f}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{size - 1:.1f}" height="{size - 1:.1f}"><title>{escape(label)} taken for {escape(labels[j])}: '
                f"{count} of {total}</title></rect>"
            )
            if count and LETTER * len(str(count)) < size:
                shade = " on-dark" if share > 0.4 else ""
                middle = f'x="{x + (size - 1) / 2:.1f}" y="{y + size / 2 + 3.5:.1f}"'
                parts.append(f'<text class="count{shade}" {middle} text-anchor="middle">{count}</text>')
    width = left + size * len(labels) + 0.5 * longest + 6
    return _svg(title, parts, width, top + size * len(labels) + 4)


def short(name: str) -> str:
    """A name, as a figure has room for."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _svg(title: str, parts: Sequence[str], width: float = WIDTH, height: float = HEIGHT) -> str:
    """A figure that is as wide as there is room, or, wider than a phone, one that is scrolled there."""
    least = f";min-width:{width:.0f}px" if width > WIDTH + 1 else ""
    most = max(SHOWN, width * 1.2)
    figure = (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width:{most:.0f}px{least}">{"".join(parts)}</svg>'
    )
    if not least:
        return figure
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(title)}: figure">{figure}</div>'


def _legend(looks: Sequence[tuple[str, str]]) -> str:
    """Names, each with its classes: a dash, box or diamond of a series' colour."""
    if len(looks) < 2:
        return ""
    items = (f'<li><span class="{look}"></span>{escape(name)}</li>' for name, look in looks)
    return f'<ul class="legend">{"".join(items)}</ul>'


def _series(number: int) -> str:
    return f"s{number % SERIES} h{number // SERIES % 3}"


def _y_axis(low: float, high: float, y_of: _Scale, label: str, percent: bool) -> str:
    parts = [_text(0, 11, label, anchor="start")]
    for value in _ticks(low, high):
        y, said = y_of(value), f"{100 * value:g}%" if percent else f"{value:g}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 5, y + 4, said, "tick", "end"))
    return "".join(parts)


def _x_axis(low: float, high: float, x_of: _Scale, label: str, shift: float = 0.0) -> str:
    values = [value for value in _ticks(low, high) if value == int(value)] or [low, high]
    parts = [_text(x_of(value) + shift, HEIGHT - BOTTOM + 14, f"{value:g}", "tick") for value in values]
    return "".join([*parts, _text((LEFT + WIDTH) / 2, HEIGHT - 5, label)])


def _text(x: float, y: float, text: str, kind: str = "label", anchor: str = "middle", move: str = "") -> str:
    place = f'transform="{move}"' if move else f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text class="{kind}" {place} text-anchor="{anchor}">{escape(text)}</text>'


class _Scale:
    """A linear map from values to places."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        self._low, self._start = low, start
        self._factor = (stop - start) / (high - low or 1.0)

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) * self._factor


def _padded(low: float, high: float, most: float) -> tuple[float, float]:
    margin = max(0.01, 0.08 * (high - low))
    return max(0.0, low - margin), min(most, high + margin)


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values between low and high, about `count` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]
