"""Clips as tables: what a folder or archive of recordings holds, and the samples of its clips."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordflock.data import folder, speech_commands
from wordflock.data.clips import SPLITS, Clip, ClipTable, Fault
from wordflock.data.listing import Reader, changed
from wordflock.data.scan import scan_files
from wordflock.errors import WordflockError, WordflockWarning

__all__ = ["SPLITS", "Clip", "ClipTable", "Fault", "load_clips", "read_samples"]

_NAMED_FAULTS = 5
_KEPT_RECORDINGS = 8  # decoded, to cut crops from; a minute is 4 MB


def load_clips(source: str | Path, *, cache: Path, speaker_pattern: str = "", table: str = "") -> ClipTable:
    """The clips of a folder, tar or tar.gz archive: Speech Commands, or any other `<label>/<files>`.

    A `speaker_pattern` or a `table` (see `folder.read_table`) says who speaks and which split is whose; with one of
    them the data set is read as a folder of labels, whatever it is. What was learned of the files is kept in `cache`.
    Warns, once, of all files that are left out. Raises WordflockError where no usable clip is left.
    """
    scan = scan_files(source, cache, speech_commands.LISTS)
    names = [recording.entry.name for recording in scan.recordings]
    is_speech_commands = speech_commands.recognises(entry.name for entry in scan.listing.entries)
    if is_speech_commands and not (speaker_pattern or table or folder.has_split_folders(names)):
        clips = speech_commands.read_table(scan)
    else:
        clips = folder.read_table(scan, speaker_pattern, table)
        if is_speech_commands:  # sorted by somebody into train, validation and test, or with a table of its own
            clips = replace(clips, protocol="speech_commands")
    if not clips.clips:
        fault = f" ({_sentence(clips.faults)})" if clips.faults else ""
        raise WordflockError(f"{source} holds no usable clip{fault}; put recordings into a folder for each word.")
    if clips.faults:
        warnings.warn(
            f"{len(clips.faults)} of the {len(names)} recordings in {source} are left out: {_sentence(clips.faults)}.",
            WordflockWarning,
            stacklevel=2,
        )
    return clips


def read_samples(clips: Iterable[Clip]) -> Iterator[NDArray[np.float32]]:
    """The samples of each clip in turn, 16 kHz mono, shape (samples,): a whole recording, or a crop times its gain, or
    the variant of it that the clip asks for.

    Clips sorted by (path, offset) are read in one pass over every archive. Crops of one recording decode it once.
    Raises WordflockError for a recording that vanished or changed since the clips were loaded.
    """
    from wordflock.audio.augment import augment
    from wordflock.audio.reading import SAMPLE_RATE, fit, read_clip

    with Reader() as reader:

        def read(recording: Clip) -> NDArray[np.float32]:
            data = reader.read_bytes(recording)
            if sha256(data).hexdigest() != recording.content:
                raise changed(recording)
            return read_clip(data, recording.name)

        read_and_keep = lru_cache(_KEPT_RECORDINGS)(read)

        def samples_of(clip: Clip) -> NDArray[np.float32]:
            if clip.start is None:
                return read(clip)
            # All crops of a recording ask for it by the same name.
            recording = read_and_keep(replace(clip, word="", split="", seconds=0.0, start=None, gain=1.0))
            first, samples = round(clip.start * SAMPLE_RATE), round(clip.seconds * SAMPLE_RATE)
            return fit(recording[first : first + samples], samples) * np.float32(clip.gain)

        for clip in clips:
            original = replace(clip, augmentation=0)
            samples = samples_of(original)
            yield augment(samples, original.key, clip.augmentation) if clip.augmentation else samples


def _sentence(faults: Sequence[Fault]) -> str:
    named = ", ".join(f"{fault.name} ({fault.reason})" for fault in faults[:_NAMED_FAULTS])
    more = len(faults) - _NAMED_FAULTS
    return f"{named} and {more} more" if more > 0 else named
