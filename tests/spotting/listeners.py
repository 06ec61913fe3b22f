"""A listener that hears tones as words, and streams of tones, for tests that need no encoder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.spotting.decisions import Rule
from wordflock.spotting.detector import Detection, Detector
from wordflock.spotting.listener import Listener

WINDOW, HOP = 1.4, 0.1
TONES = (700.0, 2_500.0)  # Hz: the "words" of the listener below


def tone_listener(rule: Rule | None = None) -> Listener:
    """Hears a tone as a word: the more probable, the more of the window's energy lies in its band."""

    def ask(mel: NDArray[np.float32]) -> NDArray[np.float64]:
        bands = np.power(10.0, 4.0 * mel[0].astype(np.float64)).sum(axis=1)
        low, high = bands[:30].sum(), bands[30:].sum()
        return np.array([low, high]) / (low + high + 1e-9) * (mel.max() > 0)

    return Listener(("low", "high"), WINDOW, HOP, rule or Rule((0.8, 0.8)), ask)


def tones(seed: int, seconds: float = 8.0, rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Faint noise with some tones of 0.3 s in it, at any place."""
    generator = np.random.default_rng(seed)
    sound = generator.standard_normal(round(seconds * rate)).astype(np.float32) * np.float32(1e-4)
    time = np.arange(round(0.3 * rate)) / rate
    for begin in np.arange(0.2, seconds - 0.5, 1.9):
        tone = np.sin(2 * np.pi * TONES[generator.integers(2)] * time) * 0.3 * np.hanning(len(time))
        first = round((begin + generator.uniform(0, 0.2)) * rate)
        sound[first : first + len(tone)] += tone.astype(np.float32)
    return sound


def cut(sound: NDArray[np.float32], size: int) -> Iterator[NDArray[np.float32]]:
    for first in range(0, len(sound), size):
        yield sound[first : first + size]


def heard(sound: NDArray[np.float32], size: int, rate: int = SAMPLE_RATE) -> list[Detection]:
    return list(Detector(tone_listener(), rate=rate).stream(cut(sound, size)))
