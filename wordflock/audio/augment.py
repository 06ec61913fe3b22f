"""Other ways a clip could have sounded: at another distance, in another room, a little faster, beside some noise.

A variant of a clip is made before it is encoded, so that the encoder hears what it would hear in such a place. Which
variant it is follows from the clip and a number alone, whoever makes it: variants are stored like clips.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.randomness import numpy_generator

Samples = NDArray[np.float32]

VERSION = 1  # goes up when anything below changes, for variants are kept
SHIFT = 0.1  # seconds, the most that a word is moved
SPEEDS = (0.9, 1.1)
ROOM_SHARE, ROOM_SECONDS = 0.5, (0.1, 0.5)  # of variants with a room; until its echo has fallen by 60 dB
NOISE_SHARE, NOISE_RATIO = 0.8, (0.0, 25.0)  # of variants with noise; dB, signal to noise
SLOPES = (0.0, 2.0)  # of the noise's power over frequency: white, pink, brown and what lies between
GAIN = (-10.0, 5.0)  # dB
QUIET = 0.01  # the least level that noise is measured against, so that silence gets some as well


def augment(clip: Samples, key: str, number: int) -> Samples:
    """Variant `number`, from 1 on, of the clip of this key: as long as the clip, shape (samples,), within [-1, 1]."""
    generator = numpy_generator(number, "variant", key)
    augmented = shift(change_speed(clip, generator.uniform(*SPEEDS)), generator.uniform(-SHIFT, SHIFT), len(clip))
    if generator.random() < ROOM_SHARE:
        augmented = add_reverb(augmented, generator.uniform(*ROOM_SECONDS), generator)
    if generator.random() < NOISE_SHARE:
        noise = coloured_noise(len(augmented), generator.uniform(*SLOPES), generator)
        augmented = add_noise(augmented, noise, generator.uniform(*NOISE_RATIO))
    louder: Samples = np.clip(augmented * np.float32(10 ** (generator.uniform(*GAIN) / 20)), -1.0, 1.0)
    return louder


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


def add_reverb(clip: Samples, seconds: float, generator: np.random.Generator) -> Samples:
    """The clip with the echoes of a room: noise that falls by 60 dB in `seconds`, after the direct sound (Polack)."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    echo = generator.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    echo *= generator.uniform(0.2, 1.0) / np.sqrt(np.square(echo).sum())  # up to as strong as the direct sound
    echo[0] += 1.0
    size = 1 << (len(clip) + len(echo) - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(clip, size) * np.fft.rfft(echo, size), size)[: len(clip)]
    return (wet * (_level(clip) / max(_level(wet), 1e-9))).astype(np.float32)


def coloured_noise(samples: int, slope: float, generator: np.random.Generator) -> Samples:
    """Noise whose power falls with frequency to the power `slope`, louder and softer as it goes on."""
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    spectrum *= np.maximum(np.arange(len(spectrum)), 20.0) ** (-slope / 2)
    swell = np.interp(np.arange(samples), np.linspace(0, samples, 6), generator.uniform(0.3, 1.0, 6))
    return (np.fft.irfft(spectrum, samples) * swell).astype(np.float32)


def add_noise(clip: Samples, noise: Samples, ratio: float) -> Samples:
    """The clip with noise, its level `ratio` dB below the clip's own over its whole length."""
    level = max(_level(clip), QUIET) / max(_level(noise), 1e-9)
    return clip + noise * np.float32(level * 10 ** (-ratio / 20))


def _level(clip: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(clip, dtype=np.float64)))) if len(clip) else 0.0
