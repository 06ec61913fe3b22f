"""One million files: listed and tabled.

python -m benchmarks.million [FILES]: makes a folder of empty files below the temporary folder, lists it, makes the
table of clips of it (without decoding), and prints seconds (wall and processor) and peak memory of each step.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from wordflock.data.listing import list_files
from wordflock.data.loading import table_of
from wordflock.data.scan import Recording, Scan

LABELS, SPEAKERS = 40, 5000
T = TypeVar("T")


def main(files: int) -> None:
    """Measure, with so many files."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(files):
            label = Path(folder) / f"label{number % LABELS}"
            if number < LABELS:
                label.mkdir()
            (label / f"{number % SPEAKERS:08x}_nohash_{number}.wav").touch()
        listing = timed("listing", lambda: list_files(folder))
        recordings = tuple(Recording(entry, entry.name, 1.0, "") for entry in listing.entries)
        table = timed("table", lambda: table_of(Scan(listing, recordings, {})))
        print(f"{len(table.clips)} clips")


def timed(what: str, work: Callable[[], T]) -> T:
    """Do something, and print what it took."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{what}: {wall:.1f} s ({processor:.1f} s of the processor), peak {peak:.2f} GB", flush=True)
    return result


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
