"""Clips as tables: one row a clip, with everything needed to find its samples again."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from wordflock.audio import augment, placing

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance, and where its samples are.

    A clip is a whole recording, or (silence) `seconds` of one from `start` on, multiplied by `gain`.
    `variant` above 0 is another version of the same clip.
    `path` is an audio file, or an archive that holds the recording at `offset`, `size` bytes long, in its
    uncompressed stream (a plain file has offset 0).
    """

    word: str
    speaker: str  # "" where nobody knows
    split: str  # one of SPLITS
    seconds: float
    path: str
    name: str  # of the recording inside its folder or archive, with "/" between the parts
    offset: int
    size: int
    content: str  # SHA-256 of the recording's bytes, hexadecimal
    start: float | None = None  # None: the whole recording
    gain: float = 1.0
    view: str = ""  # the window of a stream that is made of it, `seconds` long; "": none; see placing.py
    augmentation: int = 0  # 0: as it was recorded; see augment.py
    surroundings: augment.Surroundings = augment.NOWHERE  # of an augmentation

    @property
    def key(self) -> str:
        """What the features of this clip are stored under: the same samples always give the same key."""
        key = self.content
        if self.start is not None:
            key = sha256(f"{self.content} {self.start!r} {self.seconds!r} {self.gain!r}".encode()).hexdigest()
        if self.view:
            key = f"{key}-{placing.VERSION}.{self.view}.{self.seconds!r}"
        if not self.augmentation:
            return key
        return f"{key}-{augment.VERSION}.{self.augmentation}{self.surroundings.key and '.'}{self.surroundings.key}"


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that is not a usable clip, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ClipTable:
    """The clips of one data set, its background recordings, and what had to be left out."""

    source: str
    protocol: str  # "speech_commands" or "folder": which labels its users expect
    clips: tuple[Clip, ...]
    background: tuple[Clip, ...] = ()  # recordings without speech, of any length; `split` is "train" and means nothing
    faults: tuple[Fault, ...] = ()
    negatives: tuple[Clip, ...] = ()  # windows of recordings without keywords, for training

    def of_split(self, split: str) -> tuple[Clip, ...]:
        """The clips of one split; negatives are among those of training."""
        return tuple(clip for clip in (*self.clips, *self.negatives) if clip.split == split)
