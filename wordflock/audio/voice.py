"""Where somebody speaks: stretches of a recording whose energy rises above the noise around them.

Levels are measured in bands, each with a noise floor of its own, so that a vowel is found in loud hiss and an /s/ in
rumble. A floor is a low percentile of the levels within a few seconds: it follows a fan that is switched on. A stretch
begins and ends at a lower threshold than the one that makes it a stretch (hysteresis), so that soft onsets stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE

HOP = SAMPLE_RATE // 100  # samples from one frame to the next: 10 ms
WINDOW = 2 * HOP
BANDS = (100, 300, 600, 1_000, 1_700, 3_000, 7_500)  # Hz; below there is hum
PAUSE = 0.3  # seconds of silence inside a stretch at most, as in "hey savant"
MIN_VOICED = 0.08  # seconds above the upper threshold; a click has less
AROUND = 4.0  # seconds to either side that make the noise floor, and the peak
NOISE_SHARE = 0.15  # of the frames around that are noise at least
ABOVE, EDGE = 8.0, 4.0  # dB above the noise floor in two bands: to be a stretch, to belong to one
BELOW, EDGE_BELOW = 30.0, 36.0  # dB below the loudest frame around, at most: to be a stretch, to belong to one
DIGITAL_SILENCE, QUIETEST = -115.0, -100.0  # dB: no noise of a microphone, the lowest floor

_EMPHASIS = 0.97  # of high frequencies, for /s/ is softer than vowels
_STEP = 25  # frames that share a floor
_ROWS = 1024  # floors, or frames of a spectrum, computed together

Levels = NDArray[np.float32]


def voiced(samples: NDArray[np.float32], pause: float = PAUSE) -> list[tuple[float, float]]:
    """Where somebody speaks in samples of 16 kHz, shape (samples,): start and end of each stretch in seconds."""
    return stretches(levels([samples]), pause)


def levels(blocks: Iterable[NDArray[np.float32]]) -> Levels:
    """The level of each frame in each band in dB, shape (frames, bands), of a recording that comes in blocks."""
    found = [_band_levels(frames) for frames in _frames(blocks)]
    return np.concatenate(found) if found else np.zeros((0, len(BANDS) - 1), np.float32)


def stretches(level: Levels, pause: float = PAUSE) -> list[tuple[float, float]]:
    """Where somebody speaks, from the levels of frames: start and end of each stretch in seconds.

    Stretches closer than `pause` seconds are one.
    """
    if not len(level):
        return []
    above = np.sort(level - np.stack([_floor(band) for band in level.T], axis=1), axis=1)[:, -2]
    above, loudness = _smooth(above), _smooth(level.max(axis=1))
    below = _peak(loudness) - loudness
    core = (above > ABOVE) & (below < BELOW)
    edge = core | ((above > EDGE) & (below < EDGE_BELOW))
    found: list[tuple[int, int]] = []
    for start, end in _runs(edge):
        if not core[start:end].any():
            continue
        if found and (start - found[-1][1]) * HOP <= pause * SAMPLE_RATE:
            start = found.pop()[0]
        found.append((start, end))
    kept = [(start, end) for start, end in found if core[start:end].sum() * HOP >= MIN_VOICED * SAMPLE_RATE]
    return [(start * HOP / SAMPLE_RATE, end * HOP / SAMPLE_RATE) for start, end in kept]


def _frames(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Overlapping frames of the emphasised sound, shape (frames, WINDOW): frame i is centred on the i-th hop."""
    last = np.zeros(1, np.float32)
    rest = np.zeros(WINDOW // 4, np.float32)
    for block in blocks:
        if not len(block):
            continue
        emphasised = block - np.float32(_EMPHASIS) * np.concatenate((last, block[:-1]))
        last, rest = block[-1:], np.concatenate((rest, emphasised))
        if len(rest) >= WINDOW:
            frames = np.lib.stride_tricks.sliding_window_view(rest, WINDOW)[::HOP]
            rest = rest[len(frames) * HOP :]
            yield frames


def _band_levels(frames: NDArray[np.float32]) -> Levels:
    edges = [round(edge * WINDOW / SAMPLE_RATE) for edge in BANDS]
    window = np.hanning(WINDOW).astype(np.float32)
    found = np.empty((len(frames), len(edges) - 1), np.float32)
    for first in range(0, len(frames), _ROWS):
        spectrum = np.fft.rfft(frames[first : first + _ROWS] * window)
        power = (np.square(spectrum.real) + np.square(spectrum.imag)) * (4 / WINDOW**2)
        bands = [power[:, low:high].sum(axis=1) for low, high in pairwise(edges)]
        found[first : first + _ROWS] = 10 * np.log10(np.maximum(np.stack(bands, axis=1), 1e-12))
    return found


def _smooth(level: Levels) -> Levels:
    smooth: Levels = np.convolve(np.pad(level, 1, mode="edge"), np.full(3, 1 / 3, np.float32), mode="valid")
    return smooth


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and one past the last of each run of true values."""
    changes = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return list(pairwise(changes.tolist()))[::2]


def _floor(level: Levels) -> Levels:
    """The noise floor around each frame of one band; digital silence is not noise."""
    found = []
    for rows in _around(level):
        silent = (rows <= DIGITAL_SILENCE).sum(axis=1)
        place = np.minimum(silent + (NOISE_SHARE * (rows.shape[1] - silent)).astype(int), rows.shape[1] - 1)
        found.append(np.sort(rows, axis=1)[np.arange(len(rows)), place])
    floor: Levels = np.maximum(np.concatenate(found), np.float32(QUIETEST))
    return np.repeat(floor, _STEP)[: len(level)]


def _peak(level: Levels) -> Levels:
    """The loudest level around each frame."""
    peaks: Levels = np.concatenate([rows.max(axis=1) for rows in _around(level)])
    return np.repeat(peaks, _STEP)[: len(level)]


def _around(level: Levels) -> Iterator[Levels]:
    """For every _STEP-th frame those around it, some rows at a time."""
    around = round(AROUND * SAMPLE_RATE / HOP)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(level, around, mode="symmetric"), 2 * around + 1)[::_STEP]
    return (windows[first : first + _ROWS] for first in range(0, len(windows), _ROWS))
