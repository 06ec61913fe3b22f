"""The labels of a task, which label a word has, and the examples of a split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.data.clips import SPLITS, Clip, ClipTable
from wordflock.data.names import fold
from wordflock.errors import WordflockError, did_you_mean
from wordflock.randomness import numpy_generator

_MAX_NAMED = 40  # labels in an error
SILENCE, UNKNOWN = "_silence_", "_unknown_"
DEFAULT_KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
SILENCE_SECONDS = 1.0
SILENCE_SHARE = 0.1  # of the clips of a split
BACKGROUND_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


@dataclass(frozen=True)
class Task:
    """The ordered labels: the keywords, then `_silence_`, then `_unknown_`, each of these two where wanted."""

    keywords: tuple[str, ...]
    silence: bool
    unknown: bool

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the head's outputs."""
        return [*self.keywords, *[SILENCE] * self.silence, *[UNKNOWN] * self.unknown]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {fold(keyword): place for place, keyword in enumerate(self.keywords)}

    @classmethod
    def of_labels(cls, labels: Sequence[str]) -> Task:
        """The task with these labels, as a checkpoint names them."""
        return cls(tuple(x for x in labels if x not in (SILENCE, UNKNOWN)), SILENCE in labels, UNKNOWN in labels)

    def is_keyword(self, word: str) -> bool:
        """Whether the word is one of the keywords, whatever its case or form."""
        return fold(word) in self._places

    def label_of(self, word: str) -> int | None:
        """The label's index, whatever the word's case or form; None where the task has no place for the word."""
        if (place := self._places.get(fold(word))) is not None:
            return place
        if word == SILENCE:
            return len(self.keywords) if self.silence else None
        return len(self.labels) - 1 if self.unknown else None


def choose_task(
    table: ClipTable,
    keywords: Sequence[str],
    silence: bool | None,
    unknown: bool | None,
    *,
    for_streams: bool = False,
) -> Task:
    """The task a user asks for on a data set; what is not said (empty, None) follows from the data.

    Speech Commands and its likes: the ten usual keywords, with silence and unknown. A plain folder: every label,
    without the two, but with them `for_streams`. Raises WordflockError for a keyword without clips, a keyword
    twice, negatives without unknown, and a task of one label.
    """
    words = sorted({clip.word for clip in table.clips} - {SILENCE, UNKNOWN})
    usual = table.protocol == "speech_commands"
    if not keywords:
        keywords = [word for word in DEFAULT_KEYWORDS if word in words] if usual else words
        if not keywords:
            raise WordflockError(f"{table.source} has none of the usual words; name --keywords of {_some(words)}.")
    spelling = {fold(word): word for word in words}
    keywords = [spelling.get(fold(keyword), keyword) for keyword in keywords]
    for word in keywords:
        if word not in words:
            hint = did_you_mean(word, words)
            raise WordflockError(f"The keyword {word!r} has no clips in {table.source}, which has {_some(words)}{hint}")
        if list(keywords).count(word) > 1:
            raise WordflockError(f"The keyword {word!r} stands twice in --keywords; name it once.")
    silence = usual or for_streams if silence is None else silence
    unknown = usual or for_streams or bool(table.negatives) if unknown is None else unknown
    if table.negatives and not unknown:
        raise WordflockError("--negatives are examples of _unknown_, which --no-unknown leaves out; drop one of them.")
    if silence and not (for_streams or table.background) and not any(clip.word == SILENCE for clip in table.clips):
        raise WordflockError(
            f"{table.source} has no recordings without speech to cut silence from; "
            "put some into a folder _background_noise_, or add --no-silence."
        )
    task = Task(tuple(keywords), silence, unknown)
    if len(words) == 1 and len(task.labels) < 2:
        raise WordflockError(
            f"All {len(table.clips)} clips of {table.source} have the label {words[0]!r}; put each word's "
            "recordings into a folder, name the labels with --table, or give recordings without it with --negatives."
        )
    if len(task.labels) < 2:
        raise WordflockError(
            f"A task needs two labels at least, and this one has {', '.join(task.labels)}; name more --keywords."
        )
    return task


def _some(words: Sequence[str]) -> str:
    more = len(words) - _MAX_NAMED
    return ", ".join(words[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Examples:
    """The clips of one split that the task has a place for, and their labels, one an example.

    Windows that are made of clips come after them.
    """

    clips: tuple[Clip, ...]
    labels: tuple[int, ...]
    origins: tuple[int, ...]  # the place of the clip that each is made of: its own, but for windows

    @classmethod
    def of(cls, clips: Iterable[Clip], labels: Iterable[int]) -> Examples:
        """Clips and their labels, without windows."""
        clips = tuple(clips)
        return cls(clips, tuple(labels), tuple(range(len(clips))))

    def made_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of the clips at some places, in rising order, and of all windows made of them."""
        return np.flatnonzero(np.isin(np.array(self.origins, dtype=np.int64), places))


def examples(table: ClipTable, task: Task, split: str, seed: int) -> Examples:
    """The examples of a split, silence included; which crops are silence depends on the seed alone."""
    placed = [(clip, task.label_of(clip.word)) for clip in table.of_split(split)]
    pairs = [(clip, label) for clip, label in placed if label is not None]
    if task.silence and table.background and not any(clip.word == SILENCE for clip, _ in pairs):
        count = round(len(pairs) * SILENCE_SHARE / (1 - SILENCE_SHARE))
        label = task.label_of(SILENCE)
        assert label is not None
        pairs += [(clip, label) for clip in silence_crops(table.background, split, count, seed)]
    return Examples.of((clip for clip, _ in pairs), (label for _, label in pairs))


def silence_crops(background: Sequence[Clip], split: str, count: int, seed: int) -> list[Clip]:
    """`count` different crops of the background recordings at random gain; the first is digital silence.

    The splits take different stretches of every recording, so that no noise heard in training is heard in the test.
    A crop lasts a second, or half of a stretch that is shorter than two.
    """
    generator = numpy_generator(seed, "silence", split)
    stretches = []
    for recording in {recording.content: recording for recording in background}.values():
        first, last = (round(recording.seconds * SAMPLE_RATE * share) for share in BACKGROUND_SHARES[split])
        samples = min(round(SILENCE_SECONDS * SAMPLE_RATE), (last - first) // 2)
        if samples:
            stretches.append((recording, first, last - samples, samples))
    crops: dict[tuple[str, int], Clip] = {}
    possible = sum(last - first for _, first, last, _ in stretches)
    while len(crops) < min(count, possible // 2):
        recording, first, last, samples = stretches[generator.integers(len(stretches))]
        start = int(generator.integers(first, last))
        gain = float(10 ** generator.uniform(-2, 0)) if crops else 0.0
        crop = replace(
            recording,
            word=SILENCE,
            speaker="",
            split=split,
            seconds=samples / SAMPLE_RATE,
            start=start / SAMPLE_RATE,
            gain=gain,
        )
        crops.setdefault((recording.content, start), crop)
    return list(crops.values())


assert set(BACKGROUND_SHARES) == set(SPLITS)
