"""Tables that say what is in recordings: CSV with any delimiter, JSON lines or Parquet, with many tools' columns."""

from __future__ import annotations

import codecs
import csv
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

from wordflock.data.names import nfc, printable
from wordflock.errors import WordflockError
from wordflock.files import parse_json, read_named

# What tools call the columns, in small letters; the first one that a table has counts.
FILE = ("file", "file_name", "filename", "audio_filepath", "filepath", "path", "link", "audio", "wav")
WORD = ("word", "label", "command", "keyword", "class", "category", "text", "sentence", "transcription", "transcript")
SPEAKER = ("speaker", "speaker_id", "client_id", "user_id")
SPLIT = ("split", "set", "subset", "partition")
START, SECONDS = ("offset", "start"), ("duration", "seconds")
SPOKEN = ("text", "sentence", "transcription", "transcript")  # as it was said, with capitals and full stops
CROPPED = 0.02  # seconds that a recording may be longer than its row says and still be meant as a whole

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}
_SET = re.compile(r"^partial[ _-]|[ _-]?(set|split|data)$")
_SEPARATOR = re.compile(r"sep=([,;\t])\r?\n")


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one recording, or of a stretch of one; "" and None where nothing is said."""

    word: str = ""
    speaker: str = ""
    split: str = ""
    start: float | None = None  # seconds
    seconds: float | None = None


Cells = tuple[list[str], list[dict[str, Any]]]  # columns and rows of a table
Rows = dict[str, tuple[Row, ...]]  # by the name of the recording


@dataclass(frozen=True)
class Table:
    """The cells of a table, the columns in small letters."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, object], ...]

    def has(self, *kinds: Sequence[str]) -> bool:
        """Whether it has a column of each of these kinds."""
        return all(any(alias in self.columns for alias in kind) for kind in kinds)

    def column(self, kind: Sequence[str]) -> str:
        """The column of a kind, "" where it has none."""
        return next((alias for alias in kind if alias in self.columns), "")


@lru_cache(maxsize=4096)
def split_named(name: str) -> str:
    """The split that a folder, a file or a cell is named after, in any usual spelling; "" for none."""
    return _SPLIT_OF.get(_SET.sub("", name.strip().lower()), "")


def split_of_path(name: str) -> str:
    """The split that a file, or the nearest folder above it, is named after: `de/dev.tsv`, `train_manifest.json`."""
    *folders, file = name.split("/")
    tokens = re.split(r"[._ -]", file)
    return next(filter(None, map(split_named, [*tokens, *reversed(folders)])), "")


def open_table(path: str) -> Table:
    """Read a table from the disk. Raises WordflockError where it cannot be read."""
    if Path(path).suffix.lower() in (".parquet", ".pq"):
        from wordflock.data.parquet import read_rows

        return _table(path, lambda: read_rows(path))
    try:
        data = read_named(Path(path))
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    return _table(path, lambda: _parse(path, data.decode(encoding_of(data))))


def encoding_of(data: bytes) -> str:
    """The encoding of a text file: UTF-16 by its mark, or by the zeros beside ASCII characters, else UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    start = data[:256]
    for encoding, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        if 2 * zeros.count(0) > len(zeros):
            return encoding
    return "utf-8-sig"


def parse_table(name: str, text: str) -> Table:
    """Read a table from its text. Raises WordflockError where it cannot be read."""
    return _table(name, lambda: _parse(name, text))


def rows_of(table: Table, places: Places, *, split: str = "") -> Iterator[tuple[str, str, Row]]:
    """The rows of a table: the file as it stands there, its name in the data set ("" where it is not there), the rest.

    `split` is for rows that name none.
    """
    file, word, speaker = table.column(FILE), table.column(WORD), table.column(SPEAKER)
    own_split, start, seconds = table.column(SPLIT), table.column(START), table.column(SECONDS)
    folder = posixpath.dirname(table.name)
    for row in table.rows:
        name = cell(row, file)
        said = cell(row, own_split)
        if said and not split_named(said):
            raise WordflockError(f"{table.name} has the split {said!r}; call it train, validation or test.")
        if isinstance(row.get(word), list | dict):
            raise WordflockError(f"{table.name} has {row[word]!r} in the column {word}; give one label, as text.")
        label = cell(row, word)
        label = label.rstrip(".,;!?").lower() if word in SPOKEN else label
        begin, length = number(table, row, start), number(table, row, seconds)
        place = places.find(name, folder, table.name)
        yield name, place, Row(label, cell(row, speaker), split_named(said) or split, begin, length)


class Places:
    """Finds the recordings that tables name, though they name them as another machine did."""

    def __init__(self, names: Iterable[str], root: str) -> None:
        self._known = set(names)
        self._root = root

    def find(self, file: str, folder: str, table: str) -> str:
        """The name of a file in the data set, "" where it is not there; `folder` is where the table stands.

        A path from elsewhere (`C:\\words\\yes\\1.wav`, `/home/anna/clips/1.opus`) is found by its end, with any
        extension. Raises WordflockError where several files could be meant.
        """
        name = posixpath.normpath(nfc(file).replace("\\", "/")) if file else ""
        for candidate in (posixpath.join(folder, name), name, name.removeprefix(f"{self._root}/")):
            if candidate in self._known:
                return candidate
        parts = _parts(name)
        # As it is spelt, or else as a file system sees it that does not tell small letters from capitals.
        stems = self._by_stem.get(parts[-1].casefold(), ())
        fitting = sorted(other for other in stems if _ends_alike(parts, _parts(other)))
        fitting = fitting or sorted(o for o in stems if _ends_alike(_parts(name.casefold()), _parts(o.casefold())))
        if len(fitting) > 1:
            longest = max(len(_parts(other)) for other in fitting)
            fitting = [other for other in fitting if longest <= len(parts) and len(_parts(other)) == longest] or fitting
        if len(fitting) > 1:
            raise WordflockError(
                f"{table} names {printable(file)}, which could be {printable(fitting[0])} or {printable(fitting[1])}; "
                "write the folders too."
            )
        return fitting[0] if fitting else ""

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        stems = defaultdict(list)
        for name in self._known:
            stems[posixpath.splitext(posixpath.basename(name))[0].casefold()].append(name)
        return stems


def _parts(name: str) -> list[str]:
    return posixpath.splitext(name)[0].strip("/").split("/")


def _ends_alike(one: list[str], other: list[str]) -> bool:
    shorter = min(len(one), len(other))
    return one[-shorter:] == other[-shorter:]


def cell(row: Mapping[str, object], column: str) -> str:
    """The text in a cell."""
    value = row.get(column) if column else None
    if isinstance(value, dict):  # a struct {"path": …}
        value = value.get("path")
    return "" if value is None else str(value).strip()


def number(table: Table, row: Mapping[str, object], column: str) -> float | None:
    """The seconds in a cell, None for none. Raises WordflockError for what is not a number from 0 on."""
    text = cell(row, column)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise WordflockError(f"{table.name} has {text!r} in the column {column}; give seconds, such as 1.25.")
    return value


def _table(name: str, read: Callable[[], Cells]) -> Table:
    try:
        columns, rows = read()
    except (OSError, ValueError, csv.Error, RecursionError) as error:  # pyarrow's errors are ValueErrors
        if isinstance(error, WordflockError):
            raise
        raise _unreadable(name, str(error)) from error
    lower = tuple(column.strip().lower() for column in columns)
    if twice := [column for column, count in Counter(lower).items() if column and count > 1]:
        raise WordflockError(f"The table {name} has two columns {twice[0]}; rename one of them.")
    return Table(name, lower, tuple({str(key).strip().lower(): value for key, value in row.items()} for row in rows))


def _unreadable(name: str, reason: str) -> WordflockError:
    return WordflockError(f"The table {name} cannot be read ({reason}); give CSV, JSON lines or Parquet.")


def _parse(name: str, text: str) -> Cells:
    if name.lower().endswith((".json", ".jsonl", ".ndjson")):
        return _parse_json(text)
    if found := _SEPARATOR.match(text):  # a line that spreadsheets write for each other
        text = text[found.end() :]
    header = text.split("\n", 1)[0]
    delimiter = found[1] if found else max(",;\t", key=header.count)
    # Common Voice's sentences have lone quotation marks in them, and its tables quote nothing.
    lines = StringIO(text, newline="")
    if delimiter == "\t":
        reader = csv.DictReader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    rows = list(reader)
    for number, row in enumerate(rows, 2):
        if any(row.pop(None, None) or ()):
            raise ValueError(f"row {number} has more cells than there are columns")
    return list(reader.fieldnames or ()), rows


def _parse_json(text: str) -> Cells:
    lines = [text] if text.lstrip().startswith("[") else filter(str.strip, text.split("\n"))
    rows = [row for line in lines for row in _as_list(parse_json(line))]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("it holds something else than JSON objects")
    return list(dict.fromkeys(key for row in rows for key in row)), rows


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
