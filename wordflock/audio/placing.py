"""What a detector's window holds while a word comes, stands and goes in a stream, made from one clip.

Like an augmented version, a window follows from the clip and a name alone, whoever makes it: windows are stored like
clips.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.augment import add_noise, add_reverb, change_speed, coloured_noise, level, room, swell
from wordflock.audio.reading import SAMPLE_RATE
from wordflock.audio.spans import loudest, span
from wordflock.randomness import numpy_generator

Samples = NDArray[np.float32]

VERSION = 3  # goes up when anything below changes what `window_of` returns, for windows are kept
WHOLE, HALF, PAUSE = "whole", "half", "pause"  # kinds of windows

SPEEDS = (0.9, 1.1)
ROOM_SHARE, ROOM_SECONDS, DISTANCE = 0.3, (0.1, 0.5), (0.0, 14.0)  # the last in dB, direct sound to echo
CUT = (0.35, 0.65)  # of a word is in a window with half of it
AROUND = 0.03 * SAMPLE_RATE  # samples around a word that belong to it
BESIDE_SHARE, BESIDE_GAP, BESIDE_RATIO = 0.3, (0.02, 0.3), (-9.0, 3.0)  # of windows with other talk; seconds; dB
NOISE_SHARE, NOISE_RATIO, FAINT_RATIO = 0.7, (3.0, 25.0), (25.0, 50.0)  # dB, signal to noise
SLOPES, SWELL_SHARE, SWELL_RATE = (0.0, 2.0), 0.4, 4.0  # of the noise; see augment.py
GAIN = (-12.0, 4.0)  # dB
PAUSE_SECONDS, PAUSE_DEPTH = 0.25, 0.1  # the quietest stretch of a clip, a pause if so much quieter than its loudest
PAUSE_LEVEL = (-70.0, -15.0)  # dB below full scale


def window_of(samples: Samples, key: str, view: str, size: int) -> Samples:
    """The window of a clip that `view` names, shape (size,), within [-1, 1]; `key` is the clip's."""
    kind, number = view.split(".")
    generator = numpy_generator(int(number), kind, key)
    if kind == PAUSE:
        return _pause(samples, size, generator)
    voice = change_speed(samples, generator.uniform(*SPEEDS))
    if generator.random() < ROOM_SHARE:
        voice = add_reverb(voice, room(generator.uniform(*ROOM_SECONDS), DISTANCE, generator))
    begin, end = _word(voice, size)
    word = voice[begin:end]
    place = _whole if kind == WHOLE else _half
    first, last = place(begin, end, size, generator)
    sound = _cut(voice, first, last, size)
    if generator.random() < BESIDE_SHARE:
        _put_beside(sound, word, begin - first, end - first, generator)
    return _heard(sound, word, generator)


def _word(voice: Samples, size: int) -> tuple[int, int]:
    """The stretch with the word; the loudest, as long as the window, where it seems to be longer than that."""
    begin, end = span(voice)
    if end - begin <= size:
        return begin, end
    first = loudest(voice, size)
    return first, first + size


def _whole(begin: int, end: int, size: int, generator: np.random.Generator) -> tuple[int, int]:
    """The stretch of a recording that a window shows which holds all of the word."""
    low, high = sorted((int(end + AROUND) - size, int(begin - AROUND)))
    first = int(generator.integers(low, high + 1))
    return first, first + size


def _half(begin: int, end: int, size: int, generator: np.random.Generator) -> tuple[int, int]:
    """The stretch that a window shows while the word comes, or goes."""
    cut = int(begin + (end - begin) * generator.uniform(*CUT))
    return (cut - size, cut) if generator.random() < 0.5 else (cut, cut + size)


def _cut(voice: Samples, first: int, last: int, size: int) -> Samples:
    """The samples from `first` up to `last`, nothing where the recording has none."""
    sound = np.zeros(size, np.float32)
    here, there = max(0, -first), max(0, first)
    part = voice[there : max(there, min(last, len(voice)))]
    sound[here : here + len(part)] = part
    return sound


def _put_beside(sound: Samples, word: Samples, begin: int, end: int, generator: np.random.Generator) -> None:
    """Put the same voice before or after the word: the word backwards, which is talk and no word."""
    other = word[::-1] * np.float32(10 ** (generator.uniform(*BESIDE_RATIO) / 20))
    gap = int(generator.uniform(*BESIDE_GAP) * SAMPLE_RATE)
    if generator.random() < 0.5:
        room_left = max(0, begin - gap)
        part = other[max(0, len(other) - room_left) :][: len(sound)]
        sound[room_left - len(part) : room_left] += part
    else:
        start = min(len(sound), max(0, end + gap))
        part = other[: len(sound) - start]
        sound[start : start + len(part)] += part


def _pause(samples: Samples, size: int, generator: np.random.Generator) -> Samples:
    """The quietest stretch of a clip again and again, or noise where the clip has no pause."""
    length = round(PAUSE_SECONDS * SAMPLE_RATE)
    noise = coloured_noise(size, generator.uniform(*SLOPES), generator)
    powers = np.cumsum(np.square(np.concatenate([[0.0], samples]), dtype=np.float64))
    if len(samples) >= 2 * length:
        energies = powers[length:] - powers[:-length]
        first = int(energies.argmin())
        if 0 < energies[first] < PAUSE_DEPTH**2 * energies.max() and generator.random() < 0.5:
            stretch = samples[first : first + length].astype(np.float64)
            noise = 0.07 * noise + np.resize(np.concatenate([stretch, stretch[::-1]]), size) / level(stretch)
    loud = 10 ** (generator.uniform(*PAUSE_LEVEL) / 20) / level(noise)
    return np.clip(noise * loud, -1.0, 1.0).astype(np.float32)


def _heard(sound: Samples, word: Samples, generator: np.random.Generator) -> Samples:
    """The sound in noise, at some level."""
    noise = coloured_noise(len(sound), generator.uniform(*SLOPES), generator)
    if generator.random() < SWELL_SHARE:
        noise *= swell(len(sound), SWELL_RATE, generator)
    ratio = generator.uniform(*(NOISE_RATIO if generator.random() < NOISE_SHARE else FAINT_RATIO))
    noisy = add_noise(sound, noise.astype(np.float32), ratio, word)
    louder: Samples = np.clip(noisy * np.float32(10 ** (generator.uniform(*GAIN) / 20)), -1.0, 1.0)
    return louder
