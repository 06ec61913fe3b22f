"""One take: where the word is in what was heard, whether it can be used, and why not.

The same for a microphone, a pipe and a phone: samples of 16 kHz, of which those before `begin` are from before the
speaker was asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.audio.voice import voiced
from wordflock.data.cutting import MARGIN
from wordflock.data.quality import CLIPPED, FULL_SCALE, QUIET, SILENT, loudest_level
from wordflock.errors import WordflockError

PAUSE = 0.5  # seconds of silence after which a word has ended
MAX_WORD = 3.0  # seconds
PATIENCE = 6.0  # seconds that a speaker may wait
ROOM_SECONDS = 8.0  # of the room's noise

Samples = NDArray[np.float32]


class TakeFault(WordflockError):
    """Why a take cannot be used, and what helps."""


@dataclass(frozen=True)
class Take:
    """A word with its margin."""

    samples: Samples
    level: float  # dB of full scale, of the loudest tenth of a second

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


def find_take(heard: Samples, begin: int = 0, *, ended: bool = True) -> Take | None:
    """The word that was spoken after `begin` (samples), trimmed with MARGIN; None where it may not be over yet.

    `ended` says that nothing more will be heard. Raises TakeFault for a take that is silent, too quiet, clipped, cut
    off or too long.
    """
    seconds = len(heard) / SAMPLE_RATE
    ended = ended or (len(heard) - begin) / SAMPLE_RATE >= PATIENCE
    after = [span for span in voiced(heard, PAUSE) if span[1] * SAMPLE_RATE > begin]
    if not after:
        if ended:
            raise _nothing(heard[begin:])
        return None
    start, end = _strongest(heard, after)
    if end - start > MAX_WORD:
        raise TakeFault(f"too long: {end - start:.1f} s; say the word alone, and keep the room quiet.")
    if not ended and seconds - end < PAUSE:
        return None
    if start * SAMPLE_RATE <= begin:
        raise TakeFault("cut off at its beginning; wait for the sign, then speak.")
    if seconds - end < MARGIN / 3:
        raise TakeFault("cut off at its end; speak right after the sign.")
    first, last = (round(time * SAMPLE_RATE) for time in (start, end))
    word, margin = heard[first:last], round(MARGIN * SAMPLE_RATE)
    if float((np.abs(word) >= FULL_SCALE).mean()) >= CLIPPED:
        raise TakeFault("clipped; move away from the microphone, or turn its level down.")
    if (loudness := loudest_level(word)) < QUIET:
        raise TakeFault(f"too quiet ({decibels(loudness):.0f} dB); come closer, or turn the microphone's level up.")
    return Take(heard[max(0, first - margin) : last + margin], decibels(loudness))


def check_room(heard: Samples) -> Samples:
    """The noise of a room in which nobody speaks. Raises TakeFault where it cannot be used."""
    if not len(heard) or float(np.abs(heard).max()) < SILENT / 30:
        raise TakeFault("silent; the microphone is muted, or another one is meant.")
    if float((np.abs(heard) >= FULL_SCALE).mean()) >= CLIPPED:
        raise TakeFault("clipped; turn the microphone's level down.")
    if voiced(heard):
        raise TakeFault("not the room alone: somebody spoke, or something fell; keep quiet.")
    return heard


def decibels(level: float) -> float:
    """A level relative to full scale in dB."""
    return float(20 * np.log10(max(level, 1e-5)))


def _nothing(heard: Samples) -> TakeFault:
    if not len(heard) or float(np.abs(heard).max()) < SILENT:
        return TakeFault("silent; the microphone is muted, or another one is meant.")
    if float((np.abs(heard) >= FULL_SCALE).mean()) >= CLIPPED:
        return TakeFault("clipped; turn the microphone's level down.")
    return TakeFault("too quiet: no word rises above the noise; come closer, or find a quieter room.")


def _strongest(heard: Samples, spans: list[tuple[float, float]]) -> tuple[float, float]:
    """The stretch with the most energy: a key or a chair before the word is not it."""
    return max(
        spans,
        key=lambda span: float(
            np.square(heard[round(span[0] * SAMPLE_RATE) : round(span[1] * SAMPLE_RATE)], dtype=np.float64).sum()
        ),
    )
