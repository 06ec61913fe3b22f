"""Whisper's log-mel spectrogram, in numpy alone, for a batch of clips of any length.

The constants and the recipe are those of openai/whisper, `audio.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE

FFT_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
MELS = 80
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_SAMPLES  # 100


def log_mel(
    clips: NDArray[np.float32], rfft: Callable[[NDArray[np.float32]], NDArray[Any]] = np.fft.rfft
) -> NDArray[np.float32]:
    """The log-mel spectrograms, shape (batch, 80, samples // 160), of clips of shape (batch, samples).

    Each clip is scaled by its own loudest bin, as Whisper does, padding included. `rfft` is the Fourier transform along
    the last axis, for callers with a faster one.
    """
    samples = clips.shape[-1]
    if samples % HOP_SAMPLES:
        raise ValueError(f"{samples} samples are not a whole number of {HOP_SAMPLES}-sample hops.")
    half = FFT_SAMPLES // 2
    padded = np.pad(clips.astype(np.float32, copy=False), ((0, 0), (half, half)), mode="reflect")
    # The last frame is left out, as in Whisper: it is centred on the sample after the clip's end.
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES, axis=-1)[:, :samples:HOP_SAMPLES]
    spectrum = rfft(frames * hann())
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    mel = np.log10(np.maximum(power.astype(np.float32, copy=False) @ mel_filters(), 1e-10))
    mel = np.maximum(mel, mel.max(axis=(1, 2), keepdims=True) - 8.0)
    return np.ascontiguousarray(((mel + 4.0) / 4.0).transpose(0, 2, 1), dtype=np.float32)


@lru_cache
def hann() -> NDArray[np.float32]:
    """The periodic Hann window, shape (400,)."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_SAMPLES) / FFT_SAMPLES)).astype(np.float32)


@lru_cache
def mel_filters() -> NDArray[np.float32]:
    """Triangles of equal area on Slaney's mel scale (linear below 1 kHz, logarithmic above), shape (201, 80)."""
    linear_step, corner, log_step = 200 / 3, 1000.0, np.log(6.4) / 27
    corner_mel = corner / linear_step
    top_mel = corner_mel + np.log(SAMPLE_RATE / 2 / corner) / log_step
    mels = np.linspace(0, top_mel, MELS + 2)
    edges = np.where(mels < corner_mel, mels * linear_step, corner * np.exp((mels - corner_mel) * log_step))
    bins = np.linspace(0, SAMPLE_RATE / 2, FFT_SAMPLES // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling))
    filters: NDArray[np.float32] = (triangles * (2 / (edges[2:] - edges[:-2]))).astype(np.float32)
    return filters
