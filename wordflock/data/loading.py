"""Clips as tables: what a folder or archive of recordings holds, and the samples of its clips."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordflock.data import speech_commands
from wordflock.data.clips import Clip, ClipTable, Fault
from wordflock.data.files import Files
from wordflock.data.kept import kept_table
from wordflock.data.labelling import label, user_table, with_speakers, with_table
from wordflock.data.layouts import AUTO, FOLDERS, SPEECH_COMMANDS, check_rows, is_text, layout_of
from wordflock.data.listing import Reader, changed, parquets_in
from wordflock.data.manifests import WORD
from wordflock.data.names import printable
from wordflock.data.scan import Scan, scan_files
from wordflock.data.sources import joined
from wordflock.errors import WordflockError, WordflockWarning, counted
from wordflock.progress import report

_NAMED_FAULTS = 5
_KEPT_RECORDINGS = 8  # decoded, to cut crops from; a minute is 4 MB


def load_clips(
    source: str | Path | Sequence[str | Path],
    *,
    cache: Path,
    speaker_pattern: str = "",
    table: str = "",
    layout: str = AUTO,
    few: int = 0,
) -> ClipTable:
    """The clips of a folder or archive, or of several as one data set, in any layout of `layouts.py`.

    A `speaker_pattern` (see `labelling.with_speakers`) or a `table` (see `labelling.with_table`) says who speaks and
    which split is whose; with one of them the lists of Speech Commands do not count. Of a source where a word has fewer
    than `few` clips, those whose split nobody names are all for training. What was learned of the files is
    kept in `cache`. A recording that several sources have counts once. Warns, once a source, of all files that are left
    out. Raises WordflockError where no usable clip is left, and where no layout or more than one fits.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    contents = sha256(Path(table).read_bytes()).hexdigest() if table and Path(table).is_file() else ""

    loaded = [
        kept_table(
            one,
            (speaker_pattern, table, contents, layout, few),
            Path(cache),
            partial(scan_files, one, cache, is_text),
            partial(table_of, speaker_pattern=speaker_pattern, table=table, layout=layout, few=few),
        )
        for one in sources
    ]
    return loaded[0] if len(loaded) == 1 else joined(loaded)


def table_of(scan: Scan, speaker_pattern: str = "", table: str = "", layout: str = AUTO, few: int = 0) -> ClipTable:
    """The clips in the files of one source; raises and warns as `load_clips`."""
    listing = scan.listing
    names = tuple(recording.entry.name for recording in scan.recordings)
    files = Files(listing.source, names, scan.texts, parquets_in(listing), listing.root)
    chosen = layout_of(files, layout)
    if chosen.name == SPEECH_COMMANDS and layout == AUTO and (speaker_pattern or table):
        chosen = layout_of(files, FOLDERS)
    rows = chosen.read(files)
    told = user_table(table) if table else None
    if layout == AUTO and not (told and told.has(WORD)):
        check_rows(files, rows, chosen)
    rows = with_speakers(files, rows, speaker_pattern)
    rows = with_table(files, rows, told) if told else rows
    clips, background, faults = label(files, scan.recordings, rows, few)
    faults += listing.faults
    if not clips:
        fault = f" ({_sentence(faults)})" if faults else ""
        raise WordflockError(
            f"{listing.source} holds no usable clip{fault}; put recordings into a folder for each word."
        )
    labels = len({clip.word for clip in clips})
    report(f"{listing.source}: read as {chosen.title}, {counted(labels, 'label')}, {counted(len(clips), 'clip')}")
    if faults:
        out_of = f"{counted(len(faults), 'recording', 'are')} left out, of {len(names) + len(listing.faults)}"
        warnings.warn(f"{out_of} in {listing.source}: {_sentence(faults)}.", WordflockWarning, stacklevel=3)
    # Whatever says their splits, who has Speech Commands wants its ten usual words.
    published = speech_commands.recognises((clip.name for clip in clips), scan.texts)
    protocol = "speech_commands" if published else "folder"
    return ClipTable(listing.source, protocol, tuple(clips), tuple(background), tuple(faults))


def read_samples(clips: Iterable[Clip]) -> Iterator[NDArray[np.float32]]:
    """The samples of each clip in turn, 16 kHz mono, shape (samples,): a whole recording, or a crop times its gain, or
    the variant of it that the clip asks for.

    Clips sorted by (path, offset) are read in one pass over every archive. Crops of one recording decode it once.
    Raises WordflockError for a recording that vanished or changed since the clips were loaded.
    """
    from wordflock.audio.augment import NOWHERE, augment
    from wordflock.audio.placing import window_of
    from wordflock.audio.reading import SAMPLE_RATE, fit, read_clip

    with Reader() as reader:

        def read(recording: Clip) -> NDArray[np.float32]:
            data = reader.read_bytes(recording)
            if sha256(data).hexdigest() != recording.content:
                raise changed(recording)
            return read_clip(data, recording.name, warn=False)  # which happened when they were looked at

        read_and_keep = lru_cache(_KEPT_RECORDINGS)(read)

        def one_name(clip: Clip) -> Clip:
            """All crops and windows of a recording ask for it by the same name."""
            return replace(clip, word="", split="", seconds=0.0, start=None, gain=1.0)

        def samples_of(clip: Clip) -> NDArray[np.float32]:
            if clip.view:
                whole = replace(clip, view="")
                return window_of(samples_of(whole), whole.key, clip.view, round(clip.seconds * SAMPLE_RATE))
            if clip.start is None:
                return read_and_keep(one_name(clip))
            recording = read_and_keep(one_name(clip))
            first, samples = round(clip.start * SAMPLE_RATE), round(clip.seconds * SAMPLE_RATE)
            return fit(recording[first : first + samples], samples) * np.float32(clip.gain)

        for clip in clips:
            original = replace(clip, augmentation=0, surroundings=NOWHERE)
            samples = samples_of(original)
            if clip.augmentation:
                samples = augment(samples, original.key, clip.augmentation, clip.surroundings)
            yield samples


def _sentence(faults: Sequence[Fault]) -> str:
    named = ", ".join(f"{printable(fault.name)} ({fault.reason})" for fault in faults[:_NAMED_FAULTS])
    more = len(faults) - _NAMED_FAULTS
    return f"{named} and {more} more" if more > 0 else named
