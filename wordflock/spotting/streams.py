"""Streams to measure a detector on, the same ones in every run: clips placed in noise, and long recordings."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.augment import coloured_noise, noise_level
from wordflock.audio.reading import SAMPLE_RATE
from wordflock.audio.spans import span
from wordflock.data.clips import Clip
from wordflock.data.cutting import labelled
from wordflock.data.intervals import Interval
from wordflock.data.listing import Entry, is_audio
from wordflock.data.loading import load_clips, read_samples
from wordflock.data.names import fold
from wordflock.data.scan import Recording, scan_files
from wordflock.errors import WordflockError, WordflockWarning
from wordflock.prepare import load_table
from wordflock.randomness import numpy_generator
from wordflock.runs import read_config
from wordflock.settings import Settings

Samples = NDArray[np.float32]

AROUND = 1.3  # seconds of noise before and after a clip
MAX_PHASE = 0.1  # seconds by which a stream starts sooner or later, so that words fall anywhere between hops
SLOPES = (0.0, 2.0)  # of the noise: white to brown
LEAST_SECONDS = 2.0  # between keywords in a long recording, to look for false alarms in


@dataclass(frozen=True)
class Stream:
    """Sound at 16 kHz, with one word in it or none."""

    sound: Samples
    source: str  # what a report calls it: a file
    word: str = ""  # "" in a negative
    speaker: str = ""
    begin: float = 0.0  # of the word, seconds
    end: float = 0.0


@dataclass(frozen=True)
class Heard:
    """What a head was trained on, on which it is not measured."""

    contents: frozenset[str]  # of recordings
    speakers: frozenset[str]

    def __contains__(self, clip: Clip) -> bool:
        return clip.content in self.contents or clip.speaker in self.speakers


UNHEARD = Heard(frozenset(), frozenset())


def heard_by(run: Path) -> Heard:
    """What the training clips of a run are; warns, and knows nothing, where its folder or its data are not here."""
    try:
        config = read_config(run)
        if not config.get("data"):
            raise WordflockError(f"{run} does not name its data")
        table = load_table(Settings.from_config(config))
    except WordflockError as error:
        message = f"It is not known what the head was trained on ({error}), so it may be measured on that."
        warnings.warn(message, WordflockWarning, stacklevel=3)
        return UNHEARD
    clips = table.of_split("train")
    return Heard(frozenset(clip.content for clip in clips), frozenset(clip.speaker for clip in clips if clip.speaker))


def positive_clips(source: str, keywords: Sequence[str], split: str, cache: Path, heard: Heard = UNHEARD) -> list[Clip]:
    """The clips of a data set that have a keyword, of one split or "all", sorted by word and name: those that are not
    in what was heard, nor of a speaker that was.

    Raises WordflockError where there is none.
    """
    clips = load_clips(source, cache=cache).clips
    chosen = [clip for clip in clips if clip.word in keywords and split in (clip.split, "all") and clip not in heard]
    if not chosen:
        raise WordflockError(
            f"{source} has no {split} clips of {', '.join(keywords)} that the head was not trained on; name other "
            "recordings or another --split."
        )
    return sorted(chosen, key=lambda clip: (clip.word, clip.name))


def placed(clips: Sequence[Clip], ratios: Sequence[float]) -> Iterator[Stream]:
    """Each clip in noise of its own; the signal-to-noise ratios (dB) take turns."""
    for clip, ratio, samples in zip(clips, itertools.cycle(ratios), read_samples(clips), strict=False):
        generator = numpy_generator(0, "placed", clip.key)
        before = round((AROUND + generator.uniform(0, MAX_PHASE)) * SAMPLE_RATE)
        total = before + len(samples) + round(AROUND * SAMPLE_RATE)
        noise = coloured_noise(total, generator.uniform(*SLOPES), generator)
        sound = (noise * noise_level(samples, ratio)).astype(np.float32)
        sound[before : before + len(samples)] += samples
        begin, end = ((before + place) / SAMPLE_RATE for place in span(samples))
        yield Stream(np.clip(sound, -1, 1), clip.name, clip.word, clip.speaker, begin, end)


def labelled_recordings(
    source: str, labels: str, keywords: Sequence[str], cache: Path, heard: Heard = UNHEARD
) -> dict[Clip, list[Interval]]:
    """Long recordings and where in them the keywords are, spelt as given; those that are not in what was heard.
    `labels` is a file of intervals, or a folder with one for each recording.

    Raises WordflockError for labels that do not fit the recordings, or name no keyword.
    """
    said, names = labelled(source, labels), {fold(keyword): keyword for keyword in keywords}
    if Path(source).is_file() and is_audio(source):
        clips = {entry: _alone(entry, those[-1].end) for entry, those in said.items() if those}
    else:
        clips = {one.entry: one.clip("", "", "test") for one in scan_files(source, cache).recordings if not one.fault}
    chosen = {
        clips[entry]: [replace(one, label=names[fold(one.label)]) for one in those if fold(one.label) in names]
        for entry, those in said.items()
        if entry in clips and clips[entry] not in heard
    }
    if not any(chosen.values()):
        raise WordflockError(f"{labels} labels none of {', '.join(keywords)}; name the words as the head does.")
    return chosen


def _alone(entry: Entry, seconds: float) -> Clip:
    """A file that is in no data set; its seconds are about right."""
    content = sha256(Path(entry.path).read_bytes()).hexdigest()
    return Recording(entry, content, seconds, "").clip("", "", "test")


def cut_at_words(recordings: Mapping[Clip, Sequence[Interval]]) -> Iterator[Stream]:
    """Each labelled word with what surrounds it, as far as the next word at most, and what lies between them."""
    for (clip, words), sound in zip(recordings.items(), read_samples(recordings), strict=True):
        passed, last = 0.0, len(sound) / SAMPLE_RATE
        for one, after in itertools.zip_longest(words, words[1:]):
            begin = max(passed, one.start - AROUND)
            end = min(last if after is None else max(one.end, after.start), one.end + AROUND)
            yield from _between(sound, passed, begin, clip.name)
            stretch = sound[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
            speaker = one.speaker or clip.name
            yield Stream(stretch, clip.name, one.label, speaker, one.start - begin, one.end - begin)
            passed = end
        yield from _between(sound, passed, last, clip.name)


def _between(sound: Samples, begin: float, end: float, source: str) -> Iterator[Stream]:
    if end - begin >= LEAST_SECONDS:
        yield Stream(sound[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)], source)


def negative_recordings(source: str, cache: Path, heard: Heard = UNHEARD) -> list[Clip]:
    """The recordings in a folder or archive, of any length, sorted by name, that are not in what was heard.

    Raises WordflockError where there is none that can be read.
    """
    recordings = [one.clip("", "", "test") for one in scan_files(source, cache).recordings if not one.fault]
    recordings = [clip for clip in recordings if clip not in heard]
    if not recordings:
        raise WordflockError(
            f"{source} has no recording that can be read and the head was not trained on; name another folder."
        )
    return sorted(recordings, key=lambda clip: clip.name)


def recorded(clips: Sequence[Clip]) -> Iterator[Stream]:
    """Each recording as it is."""
    for clip, samples in zip(clips, read_samples(clips), strict=True):
        yield Stream(samples, clip.name)
