"""One million files: listed and tabled, and found again by a second start.

python -m benchmarks.million [FILES]: makes a folder of empty files below the temporary folder, and prints seconds (wall
and processor) and the peak memory of each step, which is a process of its own: listing and the table of clips without
decoding; a first start whose files have been looked at before, which keeps the table; a second start.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from wordflock.data.clips import ClipTable
from wordflock.data.kept import SETTLED
from wordflock.data.listing import list_files
from wordflock.data.loading import load_clips, table_of
from wordflock.data.scan import Recording, Scan, _make_tables, _transaction

LABELS, SPEAKERS = 40, 5000
_ROW = "INSERT INTO files VALUES (?, 0, 0, ?, ?, 1.0, '', '')"


def main(files: int) -> None:
    """Measure, with so many files."""
    with tempfile.TemporaryDirectory() as folder:
        source, cache = Path(folder) / "clips", Path(folder) / "cache"
        for number in range(files):
            label = source / f"label{number % LABELS}"
            if number < LABELS:
                label.mkdir(parents=True)
            (label / f"{number % SPEAKERS:08x}_nohash_{number}.wav").touch()
        time.sleep(SETTLED)
        for step in STEPS:
            subprocess.run([sys.executable, "-m", "benchmarks.million", step, source, cache], check=True)


def listed_and_tabled(source: Path, cache: Path) -> ClipTable:
    """The table of files that were never looked at, were they recordings."""
    listing = list_files(source)
    return table_of(Scan(listing, tuple(Recording(entry, entry.name, 1.0, "") for entry in listing.entries), {}))


def start(source: Path, cache: Path) -> ClipTable:
    """What every command does first."""
    return load_clips(source, cache=cache)


def look(source: Path, cache: Path) -> None:
    """Fill the database as if all files had been decoded."""
    cache.mkdir()
    with closing(sqlite3.connect(cache / "files.sqlite", isolation_level=None)) as files:
        _make_tables(files)
        entries = list_files(source).entries
        rows = ((os.fsencode(e.path), e.mtime_ns, sha256(e.name.encode()).hexdigest()) for e in entries)
        with _transaction(files):
            files.executemany(_ROW, rows)


STEPS: dict[str, Callable[[Path, Path], ClipTable | None]] = {
    "listing and table": listed_and_tabled,
    "as if decoded": look,
    "first start": start,
    "second start": start,
}


def step(name: str, source: Path, cache: Path) -> None:
    """Do one step, and print what it took."""
    warnings.simplefilter("ignore")
    wall = time.perf_counter()
    table = STEPS[name](source, cache)
    wall, processor = time.perf_counter() - wall, time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    clips = f", {len(table.clips)} clips" if table else ""
    print(f"{name}: {wall:.1f} s ({processor:.1f} s of the processor), peak {peak:.2f} GB{clips}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        step(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
