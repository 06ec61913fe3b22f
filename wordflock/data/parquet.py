"""Parquet files with embedded audio, as Hugging Face's `datasets` writes them: a row a recording."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

from wordflock.data.archives import Members
from wordflock.data.bounds import check_count, check_expansion
from wordflock.errors import WordflockError
from wordflock.files import parse_json

_AUDIO = "audio"  # what the column of recordings is called
_BATCH = 1  # rows that are decoded together: one value of a dictionary may stand in many


class ParquetArchive:
    """The recordings of a Parquet file, named `<row>-<name>`; a file without an audio column has none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_parquet(path)
        self._batches: Any = None
        self._first = 0  # row of the batch that was read last
        self._rows: list[Any] = []

    def members(self) -> Members:
        """List the recordings that have their bytes in the file."""
        found = Members()
        if not _has_audio(self._file):
            return found
        about = self._file.metadata
        check_count(about.num_rows, self._path)
        sizes = (about.row_group(group).total_byte_size for group in range(about.num_row_groups))
        check_expansion(sum(sizes), self._path)
        row = 0
        for batch in self._file.iter_batches(_BATCH, columns=[_AUDIO]):
            for audio in batch.column(0).to_pylist():
                row += 1
                if audio and audio["bytes"]:
                    found.files.append((member_name(row, audio.get("path") or ""), row, len(audio["bytes"])))
        if row and not found.files:
            raise WordflockError(
                f"{self._path} names its recordings and does not hold them; save it with the audio embedded, or give "
                "the recordings' folder with this file as --table."
            )
        return found

    def read(self, offset: int, size: int) -> bytes:
        """The bytes of the recording in a row, counted from 1."""
        row = offset - 1
        if self._batches is None or row < self._first:
            self._batches, self._first, self._rows = self._file.iter_batches(_BATCH, columns=[_AUDIO]), 0, []
        while row >= self._first + len(self._rows):
            self._first += len(self._rows)
            batch = next(self._batches, None)
            if batch is None:
                raise EOFError("the row is gone")
            self._rows = batch.column(0).to_pylist()
        return bytes(self._rows[row - self._first]["bytes"])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_parquet(path: str | Path) -> Any:
    """Open a Parquet file. Raises WordflockError where pyarrow is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise WordflockError(f"{path} needs pyarrow, of the extra [train], to be read.") from error
    return pyarrow.parquet.ParquetFile(path)


def holds_audio(path: str | Path) -> bool:
    """Whether a Parquet file has a column of recordings."""
    with open_parquet(path) as file:
        return _has_audio(file)


def member_name(row: int, path: str) -> str:
    """What the recording in a row, counted from 1, is called."""
    name = posixpath.basename(path.replace("\\", "/")) or "recording.wav"
    return f"{row:07d}-{name}"


def read_rows(path: str | Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns and rows of a Parquet file, recordings as the names of their members in a column `file_name`.

    Numbers that stand for names (a ClassLabel of `datasets`) become the names.
    """
    with open_parquet(path) as file:
        names = list(file.schema_arrow.names)
        audio = _has_audio(file)
        columns = [name for name in names if not (audio and name == _AUDIO)]
        rows: list[dict[str, Any]] = file.read(columns).to_pylist()
        for column, classes in _class_labels(file.schema_arrow.metadata or {}).items():
            for row in rows:
                if isinstance(number := row.get(column), int):  # -1 is for clips that nobody labelled
                    row[column] = classes[number] if 0 <= number < len(classes) else None
        if audio:
            recordings = file.read([f"{_AUDIO}.path"]).column(0).to_pylist()
            for number, (row, recording) in enumerate(zip(rows, recordings, strict=True), 1):
                row["file_name"] = member_name(number, (recording or {}).get("path") or "")
            columns = ["file_name", *columns]
    return columns, rows


def _has_audio(file: Any) -> bool:
    import pyarrow

    schema = file.schema_arrow
    kind = schema.field(_AUDIO).type if _AUDIO in schema.names else None
    return kind is not None and pyarrow.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}


def _class_labels(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """The names behind the numbers of each ClassLabel column, which `datasets` writes into the schema."""
    try:
        features = parse_json(metadata[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError):
        return {}
