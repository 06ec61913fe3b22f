"""Other ways a clip could have sounded: at another distance, in another room, a little faster, beside some noise.

A variant of a clip is made before it is encoded, so that the encoder hears what it would hear in such a place. Which
variant it is follows from the clip, a number and the contents of recorded noises and rooms, whoever makes it: variants
are stored like clips. Synthetic words are put into rooms and noise by the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.randomness import numpy_generator

Samples = NDArray[np.float32]
Precise = NDArray[np.float64]
AnySamples = TypeVar("AnySamples", bound=NDArray[Any])  # of either precision

VERSION = 3  # goes up when anything below changes what `augment` returns, for variants are kept
SHIFT = 0.1  # seconds, the most that a word is moved
SPEEDS = (0.9, 1.1)
ROOM_SHARE, ROOM_SECONDS = 0.5, (0.1, 0.5)  # of variants with a room; until its echo has fallen by 60 dB
DISTANCE = (0.0, 14.0)  # dB from the direct sound to its echo
NOISE_SHARE, NOISE_RATIO = 0.8, (0.0, 25.0)  # of variants with noise; dB, signal to noise
SLOPES = (0.0, 2.0)  # of the noise's power over frequency: white, pink, brown and what lies between
SWELL_RATE = 4.0  # rises and falls of the noise per second
GAIN = (-10.0, 5.0)  # dB
SILENT = 0.01  # the level that digital silence counts as where noise is added, so that it gets noise too
MAX_ECHO = SAMPLE_RATE // 2  # samples
RECORDED_SHARE = 0.5  # of rooms and of noises, where there are recordings: a few alone teach less than made-up ones
MAX_RESPONSE = 2 * SAMPLE_RATE  # samples of a recorded impulse response that are used
DIRECT = 0.1  # of the peak of an impulse response, −20 dB, where its direct sound begins (ISO 3382-1)


@dataclass(frozen=True)
class Sound:
    """A recording at SAMPLE_RATE on the disk, as 16-bit samples without a header: any piece of it is read alone."""

    path: Path
    samples: int
    content: str  # SHA-256 of the file that it was made from, hexadecimal

    def piece(self, start: int, samples: int) -> Samples:
        """`samples` of it from `start` on, shape (samples,); after its end it begins again."""
        recorded = np.memmap(self.path, "<i2", "r", shape=(self.samples,))
        piece = np.take(recorded, np.arange(start, start + samples), mode="wrap")
        return piece.astype(np.float32) / np.float32(2**15)


@dataclass(frozen=True)
class Surroundings:
    """Recorded noises, and impulse responses of rooms, used beside those made here. Either may be empty.

    Both are in the order of their contents, so that the same ones are chosen whatever the files are called.
    """

    noises: tuple[Sound, ...] = ()
    rooms: tuple[Sound, ...] = ()

    @cached_property
    def key(self) -> str:
        """What the features of variants are stored under besides the clip: "" without recordings, else a digest of the
        contents, whatever the files are called."""
        contents = [[sound.content for sound in sounds] for sounds in (self.noises, self.rooms)]
        return sha256(repr([RECORDED_SHARE, *contents]).encode()).hexdigest()[:16] if any(contents) else ""


NOWHERE = Surroundings()


def augment(clip: Samples, key: str, number: int, surroundings: Surroundings = NOWHERE) -> Samples:
    """Variant `number`, from 1 on, of the clip of this key: as long as the clip, shape (samples,), within [-1, 1]."""
    generator = numpy_generator(number, "variant", key)
    augmented = shift(change_speed(clip, generator.uniform(*SPEEDS)), generator.uniform(-SHIFT, SHIFT), len(clip))
    if generator.random() < ROOM_SHARE:
        if surroundings.rooms and generator.random() < RECORDED_SHARE:
            wet = add_reverb(augmented, response_of(surroundings.rooms[generator.integers(len(surroundings.rooms))]))
        else:
            wet = add_reverb(augmented, room(generator.uniform(*ROOM_SECONDS), DISTANCE, generator))
        augmented = wet * np.float32(level(augmented) / max(level(wet), 1e-9))
    if generator.random() < NOISE_SHARE:
        if surroundings.noises and generator.random() < RECORDED_SHARE:
            recorded = surroundings.noises[generator.integers(len(surroundings.noises))]
            noise = recorded.piece(int(generator.integers(recorded.samples)), len(augmented))
        else:
            made = coloured_noise(len(augmented), generator.uniform(*SLOPES), generator)
            made *= swell(len(augmented), SWELL_RATE, generator)
            noise = made.astype(np.float32)
        augmented = add_noise(augmented, noise, generator.uniform(*NOISE_RATIO))
    louder: Samples = np.clip(augmented * np.float32(10 ** (generator.uniform(*GAIN) / 20)), -1.0, 1.0)
    return louder


def response_of(recorded: Sound) -> Precise:
    """The impulse response of a recorded room, from its direct sound on, so that a word in it begins when it did."""
    response = recorded.piece(0, recorded.samples).astype(np.float64)
    loud = np.abs(response)
    start = int(np.argmax(loud >= DIRECT * loud.max()))
    return response[start : start + MAX_RESPONSE]


def level(samples: NDArray[np.floating]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def change_speed(clip: Samples, speed: float) -> Samples:
    """The clip played `speed` times as fast, its pitch raised with it."""
    places = np.arange(0, len(clip) - 1, speed)
    faster: Samples = np.interp(places, np.arange(len(clip)), clip).astype(np.float32)
    return faster


def shift(clip: Samples, seconds: float, samples: int) -> Samples:
    """The clip `seconds` later, `samples` long: silence where there was nothing."""
    start = round(seconds * SAMPLE_RATE) + (samples - len(clip)) // 2
    moved = np.zeros(samples, dtype=np.float32)
    here, there = max(0, start), max(0, -start)
    length = min(samples - here, len(clip) - there)
    moved[here : here + length] = clip[there : there + length]
    return moved


def room(seconds: float, distance: tuple[float, float], generator: np.random.Generator) -> Precise:
    """The impulse response of a room: the direct sound, then noise that falls by 60 dB in `seconds` (Polack).

    The echo is weaker than the direct sound by some decibels within `distance`.
    """
    time = np.arange(min(int(seconds * SAMPLE_RATE), MAX_ECHO)) / SAMPLE_RATE
    response: Precise = generator.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response *= 10 ** (-generator.uniform(*distance) / 20) / np.linalg.norm(response)
    response[0] += 1.0
    return response


def add_reverb(clip: AnySamples, response: Precise) -> AnySamples:
    """The clip in the room of this impulse response, cut to the clip's length."""
    size = len(clip) + max(MAX_ECHO, len(response))
    wet = np.fft.irfft(np.fft.rfft(clip, size) * np.fft.rfft(response, size), size)[: len(clip)]
    return wet.astype(clip.dtype)  # type: ignore[return-value]


def coloured_noise(samples: int, slope: float, generator: np.random.Generator, lowest: float = 20.0) -> Precise:
    """Noise whose power falls as frequency^-slope above `lowest` Hz and is nothing below; its level is 1."""
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    spectrum *= np.where(frequencies < lowest, 0, np.maximum(frequencies, lowest) ** (-slope / 2))
    noise = np.fft.irfft(spectrum, samples)
    return noise / max(level(noise), 1e-9)


def swell(samples: int, rate: float, generator: np.random.Generator) -> Precise:
    """A loudness that wanders, with about `rate` rises and falls per second."""
    knots = np.exp(generator.normal(0, 0.7, int(samples / SAMPLE_RATE * rate) + 2))
    return np.interp(np.arange(samples) / SAMPLE_RATE * rate, np.arange(len(knots)), knots)


def add_noise(clip: AnySamples, noise: AnySamples, ratio: float, speech: AnySamples | None = None) -> AnySamples:
    """The clip with noise, its level `ratio` dB below that of `speech`, by default the clip over its whole length."""
    wanted = noise_level(clip if speech is None else speech, ratio)
    return clip + noise * (wanted / max(level(noise), 1e-6))  # type: ignore[return-value]


def noise_level(speech: NDArray[np.floating], ratio: float) -> float:
    """The level of noise that is `ratio` dB below that of speech, however faint: against a lowest level, noise would
    drown the words of a microphone with little gain. Digital silence counts as of level SILENT."""
    return (level(speech) or SILENT) * 10 ** (-ratio / 20)
