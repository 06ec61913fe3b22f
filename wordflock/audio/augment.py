"""Other ways a clip could have sounded: at another distance, in another room, a little faster, beside some noise.

A variant of a clip is made before it is encoded, so that the encoder hears what it would hear in such a place. Which
variant it is follows from the clip and a number alone, whoever makes it: variants are stored like clips. Synthetic
words are put into rooms and noise by the same functions.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.randomness import numpy_generator

Samples = NDArray[np.float32]
Precise = NDArray[np.float64]
Sound = TypeVar("Sound", bound=NDArray[Any])  # of either precision

VERSION = 2  # goes up when anything below changes what `augment` returns, for variants are kept
SHIFT = 0.1  # seconds, the most that a word is moved
SPEEDS = (0.9, 1.1)
ROOM_SHARE, ROOM_SECONDS = 0.5, (0.1, 0.5)  # of variants with a room; until its echo has fallen by 60 dB
DISTANCE = (0.0, 14.0)  # dB from the direct sound to its echo
NOISE_SHARE, NOISE_RATIO = 0.8, (0.0, 25.0)  # of variants with noise; dB, signal to noise
SLOPES = (0.0, 2.0)  # of the noise's power over frequency: white, pink, brown and what lies between
SWELL_RATE = 4.0  # rises and falls of the noise per second
GAIN = (-10.0, 5.0)  # dB
QUIET = 0.01  # the least level that noise is measured against, so that silence gets some as well
MAX_ECHO = SAMPLE_RATE // 2  # samples


def augment(clip: Samples, key: str, number: int) -> Samples:
    """Variant `number`, from 1 on, of the clip of this key: as long as the clip, shape (samples,), within [-1, 1]."""
    generator = numpy_generator(number, "variant", key)
    augmented = shift(change_speed(clip, generator.uniform(*SPEEDS)), generator.uniform(-SHIFT, SHIFT), len(clip))
    if generator.random() < ROOM_SHARE:
        wet = add_reverb(augmented, room(generator.uniform(*ROOM_SECONDS), DISTANCE, generator))
        augmented = wet * np.float32(level(augmented) / max(level(wet), 1e-9))
    if generator.random() < NOISE_SHARE:
        noise = coloured_noise(len(augmented), generator.uniform(*SLOPES), generator)
        noise *= swell(len(augmented), SWELL_RATE, generator)
        augmented = add_noise(augmented, noise.astype(np.float32), generator.uniform(*NOISE_RATIO))
    louder: Samples = np.clip(augmented * np.float32(10 ** (generator.uniform(*GAIN) / 20)), -1.0, 1.0)
    return louder


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


def add_reverb(clip: Sound, response: Precise) -> Sound:
    """The clip in the room of this impulse response (at most MAX_ECHO samples), cut to the clip's length."""
    size = len(clip) + MAX_ECHO
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


def add_noise(clip: Sound, noise: Sound, ratio: float, speech: Sound | None = None) -> Sound:
    """The clip with noise, its level `ratio` dB below that of `speech`, by default the clip over its whole length."""
    loudness = max(level(clip if speech is None else speech), QUIET)
    return clip + noise * (loudness / max(level(noise), 1e-6) * 10 ** (-ratio / 20))  # type: ignore[return-value]
