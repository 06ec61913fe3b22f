"""How recordings sound, by their samples: silent, quiet, clipped, cancelled by a crossed wire."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.faults import AudioFault
from wordflock.audio.reading import SAMPLE_RATE, Decoder
from wordflock.data.clips import Clip
from wordflock.data.listing import Reader
from wordflock.progress import progress

SILENT = 0.001  # of full scale, the peak: −60 dB
QUIET = 0.005  # of full scale, the loudest tenth of a second: −46 dB
FULL_SCALE, CLIPPED = 0.99, 0.001  # a sample that loud, and the share of them that makes a clip clipped
MIN_RATE = 16_000  # Hz: below, sounds such as /s/ are missing
_STRETCH = SAMPLE_RATE // 10  # samples
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Quality:
    """What is wrong with a clip's sound; several things may be."""

    clip: Clip
    rate: int = 0  # Hz, of the file
    silent: bool = False
    quiet: bool = False
    clipped: bool = False
    cancelled: bool = False  # its channels are in opposite phase
    unreadable: bool = False


def qualities(clips: Sequence[Clip]) -> list[Quality]:
    """The quality of each clip, in the given order."""
    order = sorted(range(len(clips)), key=lambda i: (clips[i].path, clips[i].offset))
    found: dict[int, Quality] = {}
    bar = progress("listening", len(clips), "clips")
    with Reader() as reader, ThreadPoolExecutor(os.cpu_count()) as pool, bar as advance:
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            # One thread reads, since an archive has one order.
            found.update(zip(batch, pool.map(_quality, *zip(*_read(clips, batch, reader), strict=True)), strict=True))
            advance(len(batch))
    return [found[i] for i in range(len(clips))]


def _read(clips: Sequence[Clip], batch: Sequence[int], reader: Reader) -> Iterator[tuple[Clip, bytes]]:
    return ((clips[i], reader.read_bytes(clips[i])) for i in batch)


def _quality(clip: Clip, data: bytes) -> Quality:
    try:
        decoder = Decoder(BytesIO(data))
        samples = np.concatenate(list(decoder.blocks()))
        cancelling = decoder.loudest_of_cancelling()
    except AudioFault:
        return Quality(clip, unreadable=True)
    if clip.start is not None:
        first = round(clip.start * SAMPLE_RATE)
        samples = samples[first : first + round(clip.seconds * SAMPLE_RATE)]
    loud = np.abs(samples)
    silent = not len(loud) or float(loud.max()) < SILENT
    return Quality(
        clip,
        decoder.rate,
        silent=silent and cancelling is None,
        quiet=not silent and loudest_level(samples) < QUIET,
        clipped=bool(len(loud)) and float((loud >= FULL_SCALE).mean()) >= CLIPPED,
        cancelled=cancelling is not None,
    )


def loudest_level(samples: NDArray[np.float32]) -> float:
    """The root mean square of the loudest tenth of a second."""
    padded = np.pad(samples, (0, -len(samples) % _STRETCH))
    return float(np.sqrt(np.square(padded.reshape(-1, _STRETCH)).mean(axis=1).max()))
