"""Recordings without keywords, of any length: windows of them are training examples of `_unknown_`.

A head that has only heard single words takes any talk for one of them; half an hour of anybody's talk teaches it not
to (docs: "A device that hears").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from wordflock.data.clips import Clip
from wordflock.data.scan import Recording, scan_files
from wordflock.data.task import UNKNOWN
from wordflock.errors import WordflockError

OVERLAP = 2  # windows that each moment is in


def negative_clips(source: str | Path, cache: Path, window: float) -> tuple[Clip, ...]:
    """Windows (seconds) of all recordings in a folder or archive; the speaker of each is the name of its recording, so
    that a federation has clients with rooms and talk of their own.

    Raises WordflockError where there is no recording that can be read.
    """
    recordings = [recording for recording in scan_files(source, cache).recordings if not recording.fault]
    if not recordings:
        raise WordflockError(f"--negatives {source} has no recording that can be read; name a folder of audio files.")
    return tuple(clip for recording in recordings for clip in _windows(recording, window))


def _windows(recording: Recording, window: float) -> Iterator[Clip]:
    whole = recording.clip(UNKNOWN, recording.entry.name, "train")
    if whole.seconds <= window:
        yield whole
        return
    step = window / OVERLAP
    for number in range(int((whole.seconds - window) / step) + 1):
        yield replace(whole, start=number * step, seconds=window)
