"""Layouts where a table beside the recordings says what is in them."""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from wordflock.data.files import Files
from wordflock.data.manifests import WORD, Row, Rows, Table, open_table, rows_of, split_of_path
from wordflock.data.names import printable
from wordflock.errors import WordflockError, WordflockWarning

KALDI = ("wav.scp", "text", "utt2spk", "segments")


def tables_with(*columns: str) -> Callable[[Files], bool]:
    """The function that tells whether a data set has a table with these columns."""
    return lambda files: bool(_with(files, columns))


def is_nemo(files: Files) -> bool:
    """Whether a manifest names labels."""
    return bool(_manifests(files))


def read_nemo(files: Files) -> Rows:
    """Manifests of `audio_filepath` and a label."""
    return read_tables(files, _manifests(files))


def _manifests(files: Files) -> list[Table]:
    return [table for table in _with(files, ("audio_filepath",)) if table.has(WORD)]


def _with(files: Files, columns: Iterable[str]) -> list[Table]:
    return [table for table in files.tables if set(columns) <= set(table.columns)]


def read_mswc(files: Files) -> Rows:
    """`<lang>_splits.csv` says all; its parts repeat it."""
    tables = _with(files, ("link", "word"))
    return read_tables(files, [table for table in tables if table.has(("set",))] or tables)


def read_common_voice(files: Files) -> Rows:
    """`train.tsv`, `dev.tsv` and `test.tsv`, or, where they are missing, `validated.tsv`."""
    tables = _with(files, ("path", "sentence"))
    named = [table for table in tables if split_of_path(table.name)]
    named = named or [table for table in tables if posixpath.basename(table.name) == "validated.tsv"]
    if not named:
        raise WordflockError(
            f"{files.source} has {tables[0].name} and no train.tsv, dev.tsv, test.tsv or validated.tsv; rename the one "
            "to use."
        )
    return read_tables(files, named)


def is_audio_folder(files: Files) -> bool:
    """Whether a `metadata` table names labels."""
    return bool(_metadata(files))


def read_audio_folder(files: Files) -> Rows:
    """`metadata.csv` or `metadata.jsonl` in the folder of the recordings, or above."""
    return read_tables(files, _metadata(files))


def _metadata(files: Files) -> list[Table]:
    named = _with(files, ("file_name",))
    return [t for t in named if posixpath.basename(t.name).startswith("metadata.") and t.has(WORD)]


def read_parquets(files: Files) -> Rows:
    """Rows of Parquet files with the recordings in them; the split is in a file's name."""
    tables = []
    for name, path in files.parquets.items():
        table = open_table(path)
        if not table.has(WORD):
            raise WordflockError(
                f"{path} has no label beside its recordings, but the columns {', '.join(table.columns)}; "
                "name the labels with --table."
            )
        file = posixpath.basename(path)  # its rows stand "in" it, and it may be named after a split
        tables.append(Table(f"{name or file}/{file}", table.columns, table.rows))
    return read_tables(files, tables)


def read_tables(files: Files, tables: Sequence[Table]) -> Rows:
    """The rows of tables; what they leave open of the split, their own names and folders or those of recordings tell.

    Warns of files that are not there. Raises WordflockError for two rows about one stretch of a recording, unless two
    tables say the same.
    """
    rows: dict[str, list[Row]] = {}
    missing: list[str] = []
    for table in tables:
        before = {name: list(those) for name, those in rows.items()}
        for named, name, row in rows_of(table, files.places, split=split_of_path(table.name)):
            if not row.split:  # a table above all splits
                row = replace(row, split=split_of_path(f"{files.root}/{posixpath.dirname(name)}/"))
            if not name:
                missing.append(named)
            elif row not in before.get(name, ()):
                add_row(rows.setdefault(name, []), row, name, table.name)
    if not rows and not missing:
        raise WordflockError(f"{', '.join(table.name for table in tables)} of {files.source} has no rows; fill it.")
    warn_of_missing(files.source, missing)
    return {name: tuple(those) for name, those in rows.items()}


def is_kaldi(files: Files) -> bool:
    """Whether there are a `wav.scp` and a `text`."""
    return bool(_kaldi_folders(files))


def read_kaldi(files: Files) -> Rows:
    """`wav.scp`, `text`, `utt2spk` and `segments` in each folder, which may be named after a split."""
    rows: dict[str, list[Row]] = {}
    missing: list[str] = []
    for folder in _kaldi_folders(files):
        recordings, words, speakers, segments = (_pairs(files, posixpath.join(folder, name)) for name in KALDI)
        split = split_of_path(posixpath.join(folder, "text"))
        for utterance, word in words.items():
            recording, start, seconds = _segment(segments.get(utterance, ""), utterance, folder)
            path = recordings.get(recording, "").strip()
            if path.startswith("|") or path.endswith("|"):
                raise WordflockError(
                    f"{posixpath.join(folder, 'wav.scp')} has a command for {recording}; Wordflock runs none, so name "
                    "audio files."
                )
            name = files.places.find(path, folder, "wav.scp") if path else ""
            if not name:
                missing.append(path or recording)
                continue
            row = Row(word.strip().lower(), speakers.get(utterance, ""), split, start, seconds)
            add_row(rows.setdefault(name, []), row, name, "text")
    warn_of_missing(files.source, missing)
    return {name: tuple(those) for name, those in rows.items()}


def _segment(line: str, utterance: str, folder: str) -> tuple[str, float | None, float | None]:
    """The recording of an utterance, and where in it the utterance begins and how long it lasts; the whole one without
    a line. Raises WordflockError for a line that is not `recording start end`."""
    if not line:
        return utterance, None, None
    try:
        recording, start, end = line.split()
        begin, length = float(start), float(end) - float(start)
    except ValueError:
        begin = length = -1.0
    if not (begin >= 0 and 0 < length < 1e6):
        raise WordflockError(
            f"{posixpath.join(folder, 'segments')} has {printable(line)!r} for {printable(utterance)}; give a "
            "recording, its start and its end in seconds."
        )
    return recording, begin, length


def _kaldi_folders(files: Files) -> list[str]:
    folders = [posixpath.dirname(name) for name in files.texts if posixpath.basename(name) == "wav.scp"]
    return [folder for folder in folders if posixpath.join(folder, "text") in files.texts]


def _pairs(files: Files, name: str) -> dict[str, str]:
    """The lines `key rest` of a file of Kaldi, which may be missing."""
    pairs: dict[str, str] = {}
    for line in files.texts.get(name, "").splitlines():
        key, *rest = line.split(maxsplit=1) or [""]
        if key in pairs:
            raise WordflockError(f"{name} has two lines for {printable(key)}; keep one of them.")
        if key:
            pairs[key] = rest[0] if rest else ""
    return pairs


def add_row(rows: list[Row], row: Row, name: str, table: str) -> None:
    """Add what a table says of a recording. Raises WordflockError where it said something of that stretch already."""
    if any((other.start, other.seconds) == (row.start, row.seconds) for other in rows):
        raise WordflockError(f"{table} has two rows for the file {printable(name)}; keep one of them.")
    rows.append(row)


def warn_of_missing(source: str, missing: list[str]) -> None:
    """Say which files a table names that are not there."""
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        warnings.warn(
            f"Tables of {source} name files that are not there: {printable(missing[0])}{more}.",
            WordflockWarning,
            stacklevel=2,
        )
