"""The speakers of synthetic words: who they are, how each talks and where, and how one says a word."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from wordflock.audio.augment import room
from wordflock.audio.reading import SAMPLE_RATE
from wordflock.data.clips import SPLITS
from wordflock.data.espeak import Espeak, Samples
from wordflock.errors import WordflockError
from wordflock.randomness import numpy_generator

MAX_WORD = 0.9  # seconds
FASTEST = 320  # words a minute; beyond this words blur
ROOM_SECONDS = (0.1, 0.5)  # until an echo has fallen by 60 dB
DISTANCE = (0.0, 20.0)  # dB from the direct sound to its echo: the farther away, the louder the echo


@dataclass(frozen=True, eq=False)
class Voice:
    """One speaker: who it is, how it talks, and where."""

    index: int  # counted through all splits
    speaker: str  # 8 hexadecimal digits
    split: str
    name: str  # for espeak-ng, for example "en-gb-scotland+f3"
    rate: int  # words a minute
    pitch: int  # 0 to 99, 50 is the vocal tract's own
    melody: int  # 0 (monotone) to 99
    loudness: float  # peak of a clip, dB below full scale
    snr: float  # speech over noise, dB
    room: Samples  # impulse response from mouth to microphone

    @property
    def dialect(self) -> str:
        """Of espeak-ng."""
        return self.name.partition("+")[0]


def make_voices(espeak: Espeak, language: str, count: dict[str, int], seed: int) -> list[Voice]:
    """The voices of all splits, `count` of each; no vocal tract is in two splits."""
    generator = numpy_generator(seed, "voices")
    dialects = espeak.dialects(language)
    tracts = generator.permutation(espeak.tracts()).tolist()
    first_speaker = int(generator.integers(2**32))
    sixth = len(tracts) // 6
    of_split = {"train": tracts[2 * sixth :], "validation": tracts[sixth : 2 * sixth], "test": tracts[:sixth]}
    voices: list[Voice] = []
    for split in SPLITS:
        for i in range(count[split]):
            lap, place = divmod(i, len(of_split[split]))
            dialect = dialects[(place + lap) % len(dialects)]  # a pair comes again only after all pairs have come
            speaker = (first_speaker + len(voices) * 0x9E3779B1) % 2**32  # an odd factor: no two are the same
            name = f"{dialect}+{of_split[split][place]}"
            voices.append(_voice(len(voices), f"{speaker:08x}", split, name, seed))
    return voices


def say(espeak: Espeak, voice: Voice, word: str, generator: np.random.Generator) -> Samples:
    """One take of a word at SAMPLE_RATE: the sound alone, from its first sample to its last.

    Raises WordflockError for a word without a sound, and for one that takes longer than MAX_WORD.
    """
    rate = voice.rate * generator.uniform(0.9, 1.1)
    pitch = voice.pitch + int(generator.integers(-5, 6))
    melody = voice.melody + int(generator.integers(-10, 11))
    mark = generator.choice(["", ".", "!", "?", ","])  # another tune for the same word
    while True:
        samples = espeak.say(voice.name, word + mark, int(rate), pitch, melody, int(generator.integers(2**31)))
        loud = np.flatnonzero(np.abs(samples) > 0.003 * max(0.03, np.abs(samples).max(initial=0)))
        if not len(loud):
            raise WordflockError(f"espeak-ng has no sound for the word {word!r}: write it in letters.")
        samples = samples[loud[0] : loud[-1] + 1]
        seconds = len(samples) / espeak.rate
        if seconds <= MAX_WORD:
            return np.asarray(soxr.resample(samples, espeak.rate, SAMPLE_RATE), dtype=np.float64)
        if rate >= FASTEST:
            raise WordflockError(
                f"The word {word!r} takes {seconds:.1f} s even when spoken fast, and a clip is 1 s: give a shorter one."
            )
        rate = min(FASTEST, rate * max(1.1, seconds / MAX_WORD))


def _voice(index: int, speaker: str, split: str, name: str, seed: int) -> Voice:
    """The rest of a speaker, by chance."""
    generator = numpy_generator(seed, "voice", index)
    return Voice(
        index=index,
        speaker=speaker,
        split=split,
        name=name,
        rate=int(generator.integers(110, 190)),
        pitch=int(generator.integers(30, 71)),
        melody=int(generator.integers(20, 90)),
        loudness=generator.uniform(6, 24),
        snr=generator.uniform(10, 32),
        room=_room(generator),
    )


def _room(generator: np.random.Generator) -> Samples:
    """A room whose direct sound is tilted by the microphone."""
    response = room(generator.uniform(*ROOM_SECONDS), DISTANCE, generator)
    response[1] += generator.uniform(-0.5, 0.3)
    return response
