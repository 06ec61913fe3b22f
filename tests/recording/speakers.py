"""Sound of a speaker: words of tones in the noise of a room."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE, NOISE = 16_000, 3e-4


def word(seconds: float, gain: float = 0.3) -> NDArray[np.float64]:
    """A vowel, with a soft begin and end; `gain` is its peak."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 140 * n * time) / n for n in range(1, 25))
    tone *= np.clip(np.minimum(time, seconds - time) / 0.02, 0, 1)
    sound: NDArray[np.float64] = gain * tone / max(1e-9, np.abs(tone).max())
    return sound


def spoken(prompts: int, seconds: float = 0.5, room: float = 8.2, pause: float = 1.5) -> NDArray[np.int16]:
    """The noise of a room, then a word for each prompt."""
    parts = [np.zeros(round(room * RATE))]
    for number in range(prompts):
        parts += [np.zeros(round(pause * RATE)), word(seconds + 0.05 * (number % 3)), np.zeros(round(0.3 * RATE))]
    sound = np.concatenate([*parts, np.zeros(RATE)])
    sound += NOISE * np.random.default_rng(prompts).standard_normal(len(sound))
    return np.round(np.clip(sound, -1, 1) * 32_767).astype(np.int16)
