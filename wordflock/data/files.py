"""What layouts see of a data set: the names of its recordings, and its lists and tables."""

from __future__ import annotations

import posixpath
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from wordflock.data.manifests import FILE, Places, Table, parse_table
from wordflock.data.names import printable
from wordflock.data.speech_commands import BACKGROUND
from wordflock.errors import WordflockError, WordflockWarning

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Files:
    """What layouts see of a data set."""

    source: str
    names: tuple[str, ...]  # of the recordings
    texts: Mapping[str, str] = field(default_factory=dict)  # contents of lists and tables, by name
    parquets: Mapping[str, str] = field(default_factory=dict)  # paths of Parquet files with recordings, by name
    root: str = ""  # the folders around all recordings that were taken off the names

    @cached_property
    def tops(self) -> Counter[str]:
        """The folders at the top, but for background recordings, and how many recordings each has."""
        tops = Counter(name.split("/", 1)[0] for name in self.names if "/" in name)
        tops.pop(BACKGROUND, None)
        return tops

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The tables in it that name files."""
        found = []
        for name, text in self.texts.items():
            if name.lower().endswith(TABLES):
                try:
                    table = parse_table(name, text)
                except WordflockError as error:
                    if name.lower().endswith(".json"):  # which other things are in as well
                        continue
                    if posixpath.basename(name).startswith("metadata."):  # which says what is in recordings
                        raise
                    warnings.warn(f"{error.args[0][:-1]}; it is passed over.", WordflockWarning, stacklevel=2)
                    continue
                if table.has(FILE):
                    found.append(table)
                elif posixpath.basename(name).startswith("metadata."):
                    if not table.columns:
                        raise WordflockError(f"{printable(name)} of {self.source} has no rows; fill it, or remove it.")
                    columns = ", ".join(map(printable, table.columns[:5]))
                    warnings.warn(
                        f"The table {printable(name)} has {columns} and no column that names files; it is passed over.",
                        WordflockWarning,
                        stacklevel=2,
                    )
        return tuple(found)

    @cached_property
    def places(self) -> Places:
        """Finds recordings by what tables call them."""
        return Places(self.names, self.root)
