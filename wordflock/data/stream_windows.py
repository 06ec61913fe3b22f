"""Training clips for a detector: the windows that each clip passes through in a stream.

A clip teaches which word it is. A stream asks whether a word is there, whole, now. From training clips come windows
with the word at any offset (its label), windows with half of it (`_unknown_`) and windows of its room without it
(`_silence_`), in other rooms and noise. They are made by whoever owns the clip, and fill up labels of few clips: where
a label has plenty, windows cost accuracy on clips and give more false alarms (benchmarks/RESULTS.md, "Streams again").
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from zlib import crc32

from wordflock.audio.placing import HALF, PAUSE, WHOLE
from wordflock.data.clips import Clip
from wordflock.data.task import SILENCE, UNKNOWN, Examples, Task

PLENTY, MOST = 480, 12  # examples that a label is filled up to; windows with the word whole of one clip at most
HALVES = 3  # windows with the whole word for each with half of it
PAUSES = 4  # negatives and other words for each of their pauses


def stream_examples(base: Examples, task: Task, window: float) -> Examples:
    """The examples, then windows (seconds) made from each in turn, more of the clips of labels that have fewer."""
    counts = Counter(label for clip, label in zip(base.clips, base.labels, strict=True) if clip.start is None)
    clips, labels, origins = list(base.clips), list(base.labels), list(base.origins)
    for place, (clip, label) in enumerate(zip(base.clips, base.labels, strict=True)):
        for number, (kind, word) in enumerate(_kinds(clip, place, counts[label], task)):
            if (named := task.label_of(word)) is not None:
                clips.append(replace(clip, word=word, seconds=window, view=f"{kind}.{number}"))
                labels.append(named)
                origins.append(place)
    return Examples(tuple(clips), tuple(labels), tuple(origins))


def _kinds(clip: Clip, place: int, clips: int, task: Task) -> Iterator[tuple[str, str]]:
    """The kinds of windows of a clip, one of `clips` of its label, and the word that each has."""
    whole = _whole_windows(clip, clips)
    if not whole or clip.word == SILENCE:
        return
    yield from [(WHOLE, clip.word)] * whole
    if clip.start is None:
        yield from [(HALF, UNKNOWN)] * math.ceil(whole / HALVES)
    if (clip.start is None and task.is_keyword(clip.word)) or place % PAUSES == 0:
        yield PAUSE, SILENCE


def _whole_windows(clip: Clip, clips: int) -> int:
    """How many windows with the word whole are made of a clip, one of `clips` of its label: those that are missing are
    shared out evenly, and the clip itself says whether it makes one of what is left over. Negatives make one each."""
    if clip.start is not None:
        return 1
    each, over = divmod(max(0, PLENTY - clips), clips)
    return min(MOST, each + (crc32(clip.key.encode()) < 2**32 * over / clips))
