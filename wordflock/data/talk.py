"""Synthetic talk without keywords, for users without recordings of talk: sentences of made-up words, said by espeak-ng.

A made-up word is of the phonemes of a dialect, one to three syllables long. Real talk teaches a head more
(benchmarks/RESULTS.md, "Heads for streams").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soxr

from wordflock.audio.augment import add_noise, add_reverb, coloured_noise
from wordflock.audio.reading import SAMPLE_RATE
from wordflock.data.confusables import NUMBERS, is_vowel, text_of
from wordflock.data.espeak import PHONEMES, Espeak, Phoneme, Samples
from wordflock.data.synthetic import new_folder, scaled, write
from wordflock.data.voices import Voice, make_voices
from wordflock.randomness import numpy_generator

EDITION = 1  # raise it with every change that changes the bytes of the recordings: it is a part of the folder's name
SECONDS = 600.0  # in all
SENTENCE, SYLLABLES = (5, 12), (1, 4)  # words, and syllables of a word; the last is exclusive
ONSET, CODA = 0.85, 0.4  # share of syllables with a consonant before and after the vowel
FASTER = (0.9, 1.2)  # times a voice's tempo


def synthetic_talk(cache: Path, language: str) -> Path:
    """A folder of recordings in the cache, made the first time; each voice of a language ("" is English) says
    sentences in a room and a noise of its own.

    Raises WordflockError where espeakng-loader is not installed, and for a language that espeak-ng does not speak.
    """
    language = language or "en"
    folder = cache / f"synthetic-talk-{EDITION}-{language}"
    if not folder.exists():
        with TemporaryDirectory(prefix="wordflock-") as home, new_folder(folder) as whole:
            _record(whole, Espeak(Path(home)), language)
    return folder


def _record(folder: Path, espeak: Espeak, language: str) -> None:
    voices = make_voices(espeak, language, {"train": 100, "validation": 0, "test": 0}, 0)
    inventories: dict[str, Sequence[Phoneme]] = {}
    seconds, number = 0.0, 0
    while seconds < SECONDS:
        voice, generator = voices[number % len(voices)], numpy_generator(0, "talk", language, number)
        dialect = voice.dialect
        if dialect not in inventories:
            inventories[dialect] = sorted({p for one in NUMBERS for p in espeak.phonemes(dialect, str(one))})
        samples = _heard(_said(espeak, voice, sentence(inventories[dialect], generator), generator), voice, generator)
        write(folder / f"{voice.speaker}-{number}.flac", samples)
        seconds += len(samples) / SAMPLE_RATE
        number += 1


def sentence(inventory: Sequence[Phoneme], generator: np.random.Generator) -> str:
    """Made-up words of these phonemes, as a text for espeak-ng."""
    words = (_word(inventory, generator) for _ in range(generator.integers(*SENTENCE)))
    return f"{PHONEMES}{' '.join(text_of(word)[len(PHONEMES) : -2] for word in words)}]]"


def _word(inventory: Sequence[Phoneme], generator: np.random.Generator) -> tuple[Phoneme, ...]:
    vowels, consonants = ([p for p in inventory if is_vowel(p) is wanted] for wanted in (True, False))
    word = list[Phoneme]()
    for _ in range(generator.integers(*SYLLABLES)):
        for share, choices in ((ONSET, consonants), (1.0, vowels), (CODA, consonants)):
            if choices and generator.random() < share:
                word.append(choices[generator.integers(len(choices))])
    return tuple(word)


def _said(espeak: Espeak, voice: Voice, text: str, generator: np.random.Generator) -> Samples:
    tempo = int(voice.rate * generator.uniform(*FASTER))
    samples = espeak.say(voice.name, text, tempo, voice.pitch, voice.melody, int(generator.integers(2**31)))
    return np.asarray(soxr.resample(samples, espeak.rate, SAMPLE_RATE), dtype=np.float64)


def _heard(spoken: Samples, voice: Voice, generator: np.random.Generator) -> Samples:
    """What a microphone in the voice's room hears."""
    noise = coloured_noise(len(spoken), generator.uniform(0, 2), generator)
    return scaled(add_noise(add_reverb(spoken, voice.room), noise, voice.snr), 10 ** (-voice.loudness / 20))
