"""Labelled intervals of a recording, as annotation tools write them: Praat's TextGrid, Audacity's label track, tables.

Formats: the Praat manual ("TextGrid file formats": everything but free-standing numbers, quoted texts and flags is a
comment, so that the long and the short form are one), the Audacity manual ("Importing and Exporting Labels").
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import StringIO
from itertools import islice
from math import isfinite
from pathlib import Path

from wordflock.data.bounds import MAX_LIST
from wordflock.data.manifests import FILE, SECONDS, SPEAKER, WORD, cell, parse_table
from wordflock.data.names import clean_label, printable
from wordflock.errors import WordflockError

START, END = ("start", "begin", "onset", "xmin", "tmin", "offset"), ("end", "stop", "xmax", "tmax")
WORD_TIERS = ("words", "word")  # the tier that forced aligners put beside one of phones
MAX_SECONDS = 1e6

_TOKEN = re.compile(r'(?<!\S)(?:"((?:[^"]|"")*)"|([-+]?[0-9.]+(?:[eE][-+]?\d+)?)(?=\s|$)|<(exists|absent)>)|!.*')
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of a recording and what is in it; a point where start and end are equal."""

    start: float  # seconds
    end: float
    label: str  # "" where none was typed
    file: str = ""  # of the recording, as a table names it
    speaker: str = ""


def read_intervals(path: str | Path, tier: str = "") -> tuple[Interval, ...]:
    """The labelled intervals in a file, sorted by start; the content says which format it has.

    TextGrid (long, short; intervals without a text are left out), Audacity's labels (rows with frequencies are
    skipped), rows `start,end,label`, or a table (CSV with any delimiter, JSON lines) with columns for start, end or
    duration, and label, and optionally file and speaker. `tier` names the TextGrid's tier, needed where it has several
    and none is called words. Raises WordflockError for what cannot be read, and for times that are not an interval.
    """
    name = str(path)
    text = _text(path)
    if re.match(r'\s*(File type = )?"ooTextFile', text):
        found = iter(_of_text_grid(text, name, tier))
    elif _NUMBER.fullmatch(re.split("[\t,;]", text.lstrip(), maxsplit=1)[0].strip()):
        found = _of_rows(text, name)
    else:
        found = _of_table(text, name)
    return tuple(sorted(found, key=lambda interval: (interval.file, interval.start, interval.end)))


def _text(path: str | Path) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_LIST + 1)
    except OSError as error:
        raise WordflockError(
            f"The labels {path} cannot be read ({error.strerror or error}); check the path."
        ) from error
    if len(data) > MAX_LIST:
        raise WordflockError(f"The labels {path} are larger than {MAX_LIST >> 20} MiB; split the file.")
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        if b"\0" in data or data.startswith(b"ooBinaryFile"):
            raise WordflockError(f"The labels {path} are not text; save them as a text file.")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WordflockError(f"The labels {path} are neither UTF-8 nor UTF-16; save them as UTF-8.") from error


def _of_text_grid(text: str, name: str, tier: str) -> list[Interval]:
    damaged = WordflockError(f"The TextGrid {name} is damaged or cut short; save it again in Praat.")
    # The type, the class, two times, whether there are tiers and how many; no comment in between has a number.
    tokens = (match for match in _TOKEN.finditer(text) if match.lastindex)
    try:
        kind, times = [next(tokens)[1] for _ in range(2)], [float(next(tokens)[2]) for _ in range(2)]
        if kind[1] != "TextGrid" or times[1] < times[0]:
            raise damaged
        tiers = list(_tiers(tokens, name)) if next(tokens)[3] == "exists" else []
    except WordflockError:
        raise
    except (StopIteration, RuntimeError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise damaged from error  # RuntimeError: StopIteration in a generator
    return _chosen(tiers, name, tier)


def _tiers(tokens: Iterator[re.Match[str]], name: str) -> Iterator[tuple[str, list[Interval]]]:
    """The name and the intervals of each tier that has intervals; tiers of points are passed over."""
    for _ in range(_count(next(tokens)[2])):
        kind, title = next(tokens)[1], next(tokens)[1]
        next(tokens), next(tokens)  # the times of the tier
        intervals = []
        for _ in range(_count(next(tokens)[2])):
            start = float(next(tokens)[2])
            end = float(next(tokens)[2]) if kind == "IntervalTier" else start
            label = next(tokens)[1].replace('""', '"')
            if label.strip():
                intervals.append(_interval(start, end, label, name, f"the tier {title}"))
        if kind == "IntervalTier":
            yield title.replace('""', '"'), intervals


def _count(text: str) -> int:
    return int(float(text))


def _chosen(tiers: list[tuple[str, list[Interval]]], name: str, tier: str) -> list[Interval]:
    titles = [title for title, _ in tiers]
    if tier:
        wanted = [title for title in titles if title == tier]
    else:
        wanted = titles if len(titles) == 1 else [title for title in titles if title.strip().lower() in WORD_TIERS]
    if len(wanted) != 1:
        there = f"the tiers {', '.join(map(printable, titles))}" if titles else "no tier of intervals"
        missing = f" and none called {printable(tier)}" if tier and titles else ""
        raise WordflockError(f"The TextGrid {name} has {there}{missing}; name the one with the words with --tier.")
    return next(intervals for title, intervals in tiers if title == wanted[0])


def _of_rows(text: str, name: str) -> Iterator[Interval]:
    """Rows `start end label` without a header, of Audacity or of a spreadsheet."""
    delimiter = next(character for character in "\t;," if character in text.lstrip().splitlines()[0] + ",")
    lines = StringIO(text, newline="")
    if delimiter == "\t":
        rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        rows = csv.reader(lines, delimiter=delimiter)
    try:
        for row in rows:
            if any(row) and row[0] != "\\":  # a row of frequencies belongs to the interval above
                start, end, label = [*row, "", ""][:3]
                yield _interval(start, end, label, name, f"line {rows.line_num}")
    except csv.Error as error:
        raise WordflockError(f"{name} line {rows.line_num} cannot be read ({error}); save it as CSV.") from error


def _of_table(text: str, name: str) -> Iterator[Interval]:
    table = parse_table(name, text)
    start, end, seconds, word = (table.column(kind) for kind in (START, END, SECONDS, WORD))
    file, speaker = table.column(FILE), table.column(SPEAKER)
    if not (start and (end or seconds) and word):
        there = f"the columns {', '.join(islice(map(printable, table.columns), 8))}" if table.columns else "no columns"
        raise WordflockError(
            f"{name} is neither a TextGrid nor Audacity's labels nor a table with start, end and label: it has {there}."
        )
    for number, row in enumerate(table.rows, 2):
        begin = cell(row, start)
        stop = cell(row, end) if end else _sum(begin, cell(row, seconds))
        found = _interval(begin, stop, cell(row, word), name, f"row {number}")
        yield replace(found, file=cell(row, file), speaker=cell(row, speaker))


def _sum(start: str, seconds: str) -> str:
    times = [_seconds(start), _seconds(seconds)]
    return "" if None in times else repr(sum(filter(None, times)))


def _interval(start: str | float, end: str | float, label: str, name: str, where: str) -> Interval:
    times = [_seconds(time) for time in (start, end)]
    if times[0] is None or times[1] is None or not 0 <= times[0] <= times[1] < MAX_SECONDS:
        raise WordflockError(
            f"{name} has in {where} an interval from {printable(str(start))[:40]!r} to {printable(str(end))[:40]!r}; "
            "give seconds from 0 on, the end after the start."
        )
    return Interval(times[0], times[1], clean_label(label, name))


def _seconds(text: str | float) -> float | None:
    """A time; old versions of Audacity wrote decimal commas."""
    if isinstance(text, str):
        if not _NUMBER.fullmatch(text.strip()):
            return None
        text = float(text.strip().replace(",", "."))
    return text if isfinite(text) else None
