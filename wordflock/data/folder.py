"""Any folder or archive of `<label>/<files>`, with the speakers and splits that its names or a table tell."""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wordflock.data.clips import SPLITS, Clip, ClipTable, Fault
from wordflock.data.scan import Scan
from wordflock.data.speech_commands import BACKGROUND, NO_WORD, SPEAKER_PATTERN, warn_of_unknown_speakers, which_split
from wordflock.errors import WordflockError

# What people call the splits, as folders above the labels or in a table.
SPLIT_NAMES = {
    **{split: split for split in SPLITS},
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "testing": "test",
}


def read_table(scan: Scan, speaker_pattern: str = "", table: str = "") -> ClipTable:
    """The clips of a folder or archive whose first folders are the labels, or splits with the labels below them.

    `speaker_pattern` is a regular expression whose group `speaker`, or first group, is the speaker: searched in the
    file's own name, or with its folders where the expression has a "/". Without one, a speaker is what stands before
    `_nohash_`, as in Speech Commands. `table` is a CSV or Parquet file with a column `file` (names as they stand in the
    data set) and any of `speaker`, `split` and `word`; what it says wins.
    A clip whose split nobody names goes where its speaker's hash, or for an unknown speaker its content's, puts it.
    Raises WordflockError for a pattern or a table that cannot be used or fits no file.
    """
    names = [recording.entry.name for recording in scan.recordings]
    rows = _rows_by_name(table, names, scan.listing.root) if table else {}
    speaker_of = _speaker_finder(speaker_pattern, names)
    by_split = has_split_folders(names)
    source_split = SPLIT_NAMES.get(scan.listing.root.lower(), "")
    clips: list[Clip] = []
    background: list[Clip] = []
    faults: list[Fault] = []
    by_content = 0
    for recording in scan.recordings:
        name = recording.entry.name
        folders = name.split("/")[:-1]
        split = source_split
        if by_split and folders and folders[0].lower() in SPLIT_NAMES:
            split = SPLIT_NAMES[folders.pop(0).lower()]
        row = rows.get(name, _Row())
        word = row.word or (folders[0] if folders else "")
        if recording.fault:
            faults.append(Fault(name, recording.fault))
        elif word == BACKGROUND:
            background.append(recording.clip(word, "", "train"))
        elif not word:
            faults.append(Fault(name, NO_WORD))
        else:
            speaker = row.speaker or speaker_of(name)
            split = row.split or split
            by_content += not (split or speaker)
            clips.append(recording.clip(word, speaker, split or which_split(speaker or recording.content)))
    warn_of_unknown_speakers(scan.listing.source, by_content)
    return ClipTable(scan.listing.source, "folder", tuple(clips), tuple(background), tuple(faults))


def has_split_folders(names: Iterable[str]) -> bool:
    """Whether all folders at the top are named after splits and have folders below."""
    parts = [name.split("/") for name in names]
    tops = {part[0].lower() for part in parts if len(part) > 1} - {BACKGROUND}
    return bool(tops) and tops <= SPLIT_NAMES.keys() and any(len(part) > 2 for part in parts)


@dataclass(frozen=True, slots=True)
class _Row:
    """What a table says of one file; "" where it says nothing."""

    speaker: str = ""
    split: str = ""
    word: str = ""


def _speaker_finder(pattern: str, names: Sequence[str]) -> Callable[[str], str]:
    """The function from a file's name to its speaker, "" where the pattern finds none."""
    if not pattern and any("_nohash_" in name for name in names):
        pattern = SPEAKER_PATTERN
    if not pattern:
        return lambda name: ""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise WordflockError(f"The speaker pattern '{pattern}' is no regular expression ({error}); mend it.") from error
    if not expression.groups:
        raise WordflockError(f"The speaker pattern '{pattern}' has no group; put the speaker in parentheses.")
    group: str | int = "speaker" if "speaker" in expression.groupindex else 1

    def speaker_of(name: str) -> str:
        found = expression.search(name if "/" in pattern else posixpath.basename(name))
        return (found[group] or "") if found else ""

    if names and not any(speaker_of(name) for name in names):
        raise WordflockError(
            f"The speaker pattern '{pattern}' finds no speaker in any file; the first file is named {names[0]}."
        )
    return speaker_of


def _rows_by_name(table: str, names: Sequence[str], root: str) -> dict[str, _Row]:
    """The rows of a table by the name of the file that each is about, without those about files that are not there."""
    known = set(names)
    rows: dict[str, _Row] = {}
    for cells in _read_cells(table):
        name = cells["file"].replace("\\", "/").removeprefix("./")
        name = name if name in known else name.removeprefix(f"{root}/")
        split = SPLIT_NAMES.get(cells["split"].lower(), "")
        if cells["split"] and not split:
            raise WordflockError(f"{table} has the split {cells['split']!r}; call it train, validation or test.")
        if name in rows:
            raise WordflockError(f"{table} has two rows for the file {name}; keep one of them.")
        if name in known:
            rows[name] = _Row(cells["speaker"], split, cells["word"])
    if names and not rows:
        raise WordflockError(f"{table} has no row for any file of the data set, whose first file is named {names[0]}.")
    return rows


def _read_cells(table: str) -> list[dict[str, str]]:
    """The rows of a CSV or Parquet file, cut to the columns that count; "" for an empty cell or a missing column."""
    read = _read_parquet if Path(table).suffix.lower() in (".parquet", ".pq") else _read_csv
    try:
        columns, rows = read(table)
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise WordflockError(f"The table {table} cannot be read ({error}); give a CSV or Parquet file.") from error
    wanted = ("speaker", "split", "word")
    if "file" not in columns or not set(wanted) & set(columns):
        there = f"has the columns {', '.join(columns)}" if columns else "has no columns"
        raise WordflockError(f"The table {table} {there}; it needs file and any of speaker, split and word.")
    return [{column: _text(row.get(column)) for column in ("file", *wanted)} for row in rows]


def _read_csv(table: str) -> tuple[list[str], list[dict[str, object]]]:
    with Path(table).open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a byte order mark in front
        reader = csv.DictReader(file, strict=True)
        rows: list[dict[str, object]] = [dict(row) for row in reader]
        return list(reader.fieldnames or ()), rows


def _read_parquet(table: str) -> tuple[list[str], list[dict[str, object]]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise WordflockError(f"{table} needs pyarrow, of the extra [train], to be read; give a CSV.") from error
    content = parquet.read_table(table)
    return content.column_names, content.to_pylist()


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()
