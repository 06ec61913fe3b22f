"""Sound in chunks of any size, rate and type to the log-mel windows of one hop after another.

Nothing here depends on how the sound is cut into chunks: samples wait until a block of fixed size is full, and only
whole blocks are computed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE, fault_of
from wordflock.audio.spectrogram import FFT_SAMPLES, FRAMES_PER_SECOND, HOP_SAMPLES, MELS, hann, mel_filters
from wordflock.errors import WordflockError

Samples = NDArray[np.float32]

EDGE = FFT_SAMPLES // 2  # samples before and after a frame's centre
QUIETEST = np.float32(-10.0)  # log10 of the power of digital silence, as the spectrogram has it
RESAMPLED_BLOCK = 1_024  # samples at the sound's own rate that are resampled together
MIN_RATE, MAX_RATE = 4_000, 768_000  # Hz
BANDS = 8  # groups of neighbouring mel bands, each of which the gate compares with its own noise floor
FLOOR_SECONDS = 5.0  # the quietest hop of so long is a band's noise floor
LOUD = np.float32(0.4)  # log10 of power above the noise floor (4 dB) from which a hop may hold a part of a word


@dataclass(frozen=True)
class Window:
    """What was heard until the end of a hop."""

    end: int  # samples at 16 kHz since the first one fed
    log_mel: Samples  # (1, 80, steps), as the encoder takes it
    loud: bool  # whether any hop in it stands out from the noise around it


class Windows:
    """The windows of a stream, one a hop. Before the stream's start there is digital silence.

    Each frame of the spectrogram is computed once. A window's first two and last frames see the sound that surrounds
    the window, where those of a clip see the clip mirrored: the only difference from `log_mel` of the same samples.
    """

    def __init__(self, window: float, hop: float, rate: int = SAMPLE_RATE) -> None:
        """`window` and `hop` in seconds, whole numbers of 10 ms; `rate` of what will be fed, in Hz.

        Raises WordflockError for a rate that microphones do not have.
        """
        self._window_steps, self._steps = round(window * FRAMES_PER_SECOND), round(hop * FRAMES_PER_SECOND)
        hops, floor_hops = math.ceil(self._window_steps / self._steps), round(FLOOR_SECONDS / hop)
        silence = np.full((self._steps, MELS), QUIETEST)
        levels = np.full(BANDS, QUIETEST)
        self._mels = deque([silence] * hops, maxlen=hops)
        self._loud = deque([False] * hops, maxlen=hops)
        self._levels = deque([levels] * floor_hops, maxlen=floor_hops)
        self._resampler = _Resampler(rate)
        self._held = np.zeros(EDGE, np.float32)  # samples of which a frame is still to come
        self._end = 0

    def feed(self, samples: NDArray[Any]) -> Iterator[Window]:
        """The windows that end in these samples: (n,) or (n, channels), integers or floats within [-1, 1].

        Raises WordflockError for other shapes and types, and for what is not finite.
        """
        return self._add(self._resampler.feed(mono(samples)))

    def finish(self) -> Iterator[Window]:
        """The windows until the last sample fed is in the first half of one: digital silence follows. Nothing can be
        fed after that."""
        yield from self._add(self._resampler.finish())
        yield from self._add(np.zeros(self._steps * HOP_SAMPLES * (len(self._mels) // 2) + EDGE, np.float32))

    def _add(self, samples: Samples) -> Iterator[Window]:
        self._held = np.concatenate([self._held, samples])
        hop = self._steps * HOP_SAMPLES
        needed = hop - HOP_SAMPLES + FFT_SAMPLES
        while len(self._held) >= needed:
            block, self._held = self._held[:needed], self._held[hop:]
            yield self._next(block)

    def _next(self, block: Samples) -> Window:
        mel = _log_power(block)
        level = mel.reshape(self._steps, BANDS, -1).mean(axis=(0, 2))
        floor = np.min(self._levels, axis=0)
        self._levels.append(level)
        self._mels.append(mel)
        self._loud.append(bool((level > floor + LOUD).any()))
        self._end += self._steps * HOP_SAMPLES
        return Window(self._end, _scaled(np.concatenate(self._mels)[-self._window_steps :]), any(self._loud))


def mono(samples: NDArray[Any]) -> Samples:
    """Samples of any type and number of channels as float32 of one channel, integers scaled to [-1, 1].

    Raises WordflockError for other shapes and types, and for what is not finite or too large. Nothing records int64:
    the numbers are of another type, and scaled by this one's range they would be silence.
    """
    if not isinstance(samples, np.ndarray):
        raise WordflockError(f"A {type(samples).__name__} is not sound; feed a NumPy array of int16, int32 or float32.")
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "if" or samples.dtype == np.int64:
        raise WordflockError(
            f"Samples of type {samples.dtype} and shape {samples.shape} are not sound; feed (n,) or (n, channels) of "
            "int16, int32 or float32."
        )
    scale = 1.0 / -float(np.iinfo(samples.dtype).min) if samples.dtype.kind == "i" else 1.0
    floats = samples.astype(np.float32) * np.float32(scale)
    if fault := fault_of(floats):
        raise WordflockError(f"The sound {fault}; check the microphone.")
    return floats if floats.ndim == 1 else floats.mean(axis=1, dtype=np.float32)


def _log_power(block: Samples) -> Samples:
    """log10 of the mel power of the frames in a block, shape (frames, 80)."""
    frames = np.lib.stride_tricks.sliding_window_view(block, FFT_SAMPLES)[::HOP_SAMPLES]
    spectrum = np.fft.rfft(frames * hann())
    power = (np.square(spectrum.real) + np.square(spectrum.imag)).astype(np.float32, copy=False)
    logarithm: Samples = np.log10(np.maximum(power @ mel_filters(), np.float32(1e-10)))
    return logarithm


def _scaled(mel: Samples) -> Samples:
    """Whisper's scaling by the loudest bin; (steps, 80) to (1, 80, steps)."""
    scaled = (np.maximum(mel, mel.max() - np.float32(8.0)) + np.float32(4.0)) / np.float32(4.0)
    return np.ascontiguousarray(scaled.T[np.newaxis])


class _Resampler:
    """Any rate to 16 kHz, in blocks of fixed size, whatever size the chunks have."""

    def __init__(self, rate: int) -> None:
        if not MIN_RATE <= rate <= MAX_RATE:
            raise WordflockError(f"A rate of {rate} Hz is outside {MIN_RATE} to {MAX_RATE}; check the device.")
        self._stream, self._held = None, np.empty(0, np.float32)
        if rate != SAMPLE_RATE:
            import soxr

            self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")

    def feed(self, samples: Samples) -> Samples:
        if self._stream is None:
            return samples
        self._held = np.concatenate([self._held, samples])
        whole = len(self._held) // RESAMPLED_BLOCK * RESAMPLED_BLOCK
        blocks, self._held = self._held[:whole].reshape(-1, RESAMPLED_BLOCK), self._held[whole:]
        return np.concatenate([np.empty(0, np.float32), *(self._stream.resample_chunk(block) for block in blocks)])

    def finish(self) -> Samples:
        """What is left when no more sound comes."""
        if self._stream is None:
            return np.empty(0, np.float32)
        rest: Samples = self._stream.resample_chunk(self._held, last=True)
        return rest
