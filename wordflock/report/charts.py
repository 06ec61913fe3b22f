"""Figures as SVG that a page can style: light and dark, any width, text that can be selected and read aloud.

Written here and not by matplotlib, because its SVG has colours and sizes built in and needs a second to import. Every
function returns one `<svg>` element; colours are CSS classes, so a page defines them once for both themes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 44
MAX_DOTS = 60  # of a line; more would hide it
SERIES = 8  # classes s0 to s7; more series repeat them with another dash or hatch


def line_chart(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str, percent: bool = True
) -> str:
    """Lines over a common x axis; points are (x, y), y from 0 to 1 where `percent`."""
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = _padded(min(y for _, y in points), max(y for _, y in points), 1.0 if percent else math.inf)
    x_of = _Scale(x_low, x_high, LEFT, WIDTH - RIGHT)
    y_of = _Scale(y_low, y_high, HEIGHT - BOTTOM, TOP)
    parts = [_y_axis(y_low, y_high, y_of, y_label, percent), _x_axis(x_low, x_high, x_of, x_label)]
    for number, line in enumerate(series.values()):
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line)
        parts.append(f'<polyline class="line s{number % SERIES}" points="{path}"/>')
        parts += [
            f'<circle class="dot s{number % SERIES}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3"/>' for x, y in line
        ]
    return _svg(title, parts) + _legend(list(series))


def bar_chart(title: str, bars: Mapping[str, float], y_label: str, percent: bool = True) -> str:
    """One bar a name; values from 0 to 1 where `percent`."""
    if not bars:
        return ""
    high = 1.0 if percent else max(bars.values()) or 1.0
    y_of, step = _Scale(0.0, high, HEIGHT - BOTTOM, TOP), (WIDTH - LEFT - RIGHT) / len(bars)
    names = max(map(len, bars)) * 4  # pixels that tilted names need
    parts = [_y_axis(0.0, high, y_of, y_label, percent)]
    for place, (name, value) in enumerate(bars.items()):
        x = LEFT + place * step
        said = f"{100 * value:.1f}%" if percent else f"{value:,.0f}"
        parts.append(
            f'<rect class="bar" x="{x + 0.1 * step:.1f}" y="{y_of(value):.1f}" width="{0.8 * step:.1f}" '
            f'height="{HEIGHT - BOTTOM - y_of(value):.1f}"><title>{escape(name)}: {said}</title></rect>'
        )
        if len(bars) <= 40:
            move = f"translate({x + step / 2:.1f},{HEIGHT - BOTTOM + 12}) rotate(-35)"
            parts.append(_text(0, 0, name, "tick", "end", move))
    return _svg(title, parts, height=HEIGHT - BOTTOM + max(BOTTOM, 20 + names))


def stacked_bars(
    title: str, bars: Sequence[Mapping[str, int]], names: Sequence[str], x_label: str, y_label: str
) -> str:
    """One bar for each mapping, of parts by name, in the order of `names`."""
    if not bars:
        return ""
    high = max(sum(bar.values()) for bar in bars) or 1
    y_of, step = _Scale(0, high, HEIGHT - BOTTOM, TOP), (WIDTH - LEFT - RIGHT) / len(bars)
    parts = [_y_axis(0, high, y_of, y_label, percent=False)]
    parts.append(
        f'<text class="label" x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
    )
    for place, bar in enumerate(bars):
        bottom = 0
        for number, name in enumerate(names):
            if count := bar.get(name, 0):
                top = y_of(bottom + count)
                parts.append(
                    f'<rect class="{_series(number)}" x="{LEFT + place * step:.2f}" y="{top:.1f}" '
                    f'width="{max(0.5, 0.9 * step):.2f}" height="{y_of(bottom) - top:.1f}"/>'
                )
                bottom += count
    return _svg(title, parts) + _legend(list(names), boxes=True)


def confusion_matrix(title: str, labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """Rows are true labels, columns predictions; a cell is darker the larger its share of the row."""
    size, left, top = max(14.0, 420 / max(1, len(labels))), 110, 100
    width, height = left + size * len(labels) + 64, top + size * len(labels) + 8
    parts = []
    for i, (label, row) in enumerate(zip(labels, confusion, strict=True)):
        total = sum(row) or 1
        y = top + i * size
        parts.append(_text(left - 6, y + size / 2 + 4, label, anchor="end"))
        move = f"translate({left + (i + 0.6) * size:.1f},{top - 6}) rotate(-60)"
        parts.append(_text(0, 0, label, anchor="start", move=move))
        for j, count in enumerate(row):
            share = count / total
            kind = "right" if i == j else "wrong"
            x = left + j * size
            parts.append(
                f'<rect class="cell {kind}" style="fill-opacity:{share**0.5:.3f}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{size - 1:.1f}" height="{size - 1:.1f}"><title>{escape(label)} taken for {escape(labels[j])}: '
                f"{count} of {total}</title></rect>"
            )
            if count and size >= 26:
                shade = " on-dark" if share > 0.4 else ""
                parts.append(
                    f'<text class="count{shade}" x="{x + size / 2:.1f}" y="{y + size / 2 + 4:.1f}" '
                    f'text-anchor="middle">{count}</text>'
                )
    return _svg(title, parts, width, height)


def _svg(title: str, parts: Sequence[str], width: float = WIDTH, height: float = HEIGHT) -> str:
    inside = "".join(parts)
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width:{width:.0f}px">{inside}</svg>'
    )


def _legend(names: Sequence[str], boxes: bool = False) -> str:
    if len(names) < 2:
        return ""
    kind = "box" if boxes else "dash"
    items = (f'<li><span class="{kind} {_series(n)}"></span>{escape(name)}</li>' for n, name in enumerate(names))
    return f'<ul class="legend">{"".join(items)}</ul>'


def _series(number: int) -> str:
    return f"s{number % SERIES} h{number // SERIES % 3}"


def _y_axis(low: float, high: float, y_of: _Scale, label: str, percent: bool) -> str:
    parts = []
    for value in _ticks(low, high):
        y, said = y_of(value), f"{100 * value:g}%" if percent else f"{value:g}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 6, y + 4, said, "tick", "end"))
    parts.append(_text(0, 0, label, move=f"translate(12,{(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"))
    return "".join(parts)


def _x_axis(low: float, high: float, x_of: _Scale, label: str) -> str:
    values = [value for value in _ticks(low, high) if value == int(value)] or [low, high]
    parts = [_text(x_of(value), HEIGHT - BOTTOM + 16, f"{value:g}", "tick") for value in values]
    parts.append(
        f'<text class="label" x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(label)}</text>'
    )
    return "".join(parts)


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
