"""Where a word is in a recording: the stretch that holds nearly all energy above the recording's own noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 160  # 10 ms, samples whose power is compared with the noise
NOISE_QUANTILE = 0.1  # of the blocks' powers: the noise
ABOVE_NOISE = 2.0  # times the noise, from which power counts
SPAN_SHARE = 0.03  # of the energy before and after a word


def loudest(samples: NDArray[np.float32], size: int) -> int:
    """Where the stretch of `size` samples with the most energy begins."""
    energy = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    return int(np.argmax(energy[size:] - energy[:-size]))


def span(samples: NDArray[np.float32]) -> tuple[int, int]:
    """Where the word in a recording begins and ends, in samples; the whole recording where nothing stands out."""
    blocks = len(samples) // BLOCK
    begin, end = span_of(np.square(samples[: blocks * BLOCK], dtype=np.float64).reshape(blocks, BLOCK).sum(axis=1))
    return begin * BLOCK, len(samples) if end == blocks else end * BLOCK


def span_of(power: NDArray[np.float64]) -> tuple[int, int]:
    """The same for the powers of blocks of 10 ms, in blocks."""
    noise = ABOVE_NOISE * float(np.quantile(power, NOISE_QUANTILE)) if len(power) else 0.0
    energy = np.cumsum(np.maximum(power - noise, 0.0))
    if not len(power) or not energy[-1]:
        return 0, len(power)
    begin, end = np.searchsorted(energy, np.array([SPAN_SHARE, 1 - SPAN_SHARE]) * energy[-1])
    return int(begin), int(end) + 1
