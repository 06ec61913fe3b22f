"""Finds words in a stream of sound, with numpy, soxr and onnxruntime alone.

One path for microphone, file and evaluation. Every hop the newest window is asked for the probabilities of its labels,
unless nothing in it stands out from the noise, or no word is likely (attention.py). Decisions on them are events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.audio.spans import span_of
from wordflock.audio.spectrogram import FRAMES_PER_SECOND
from wordflock.errors import WordflockError, did_you_mean
from wordflock.spotting.attention import Attention
from wordflock.spotting.decisions import Decisions
from wordflock.spotting.listener import Listener, open_listener
from wordflock.spotting.windows import Window, Windows


@dataclass(frozen=True)
class Detection:
    """A word that was heard. Times are in seconds since the start of the stream, counted in samples: those of the sound
    that stands out from the noise in the window with the word, which is the word where nobody talks before or after.
    """

    label: str
    confidence: float  # the mean probability over the newest windows when the word was heard
    start: float
    end: float


class Detector:
    """Finds the keywords of a head in a stream.

    >>> detector = Detector("runs/x")
    >>> for chunk in chunks:
    ...     for detection in detector.feed(chunk):
    ...         print(detection.label, detection.end)
    """

    def __init__(
        self,
        model: str | Path | Listener,
        *,
        threshold: float | Mapping[str, float] | None = None,
        rate: int = SAMPLE_RATE,
        gate: bool = True,
    ) -> None:
        """`model`: a run, its checkpoint, or an exported model. `threshold`: of all keywords, or of some by name; the
        model's own where none is given. `rate`: of the samples that will be fed, in Hz. `gate`: whether windows in
        which nothing stands out from the noise are skipped.

        Raises WordflockError for a model that cannot be read, a keyword that it does not have, a threshold outside 0
        to 1, and a rate that microphones do not have.
        """
        self._listener = model if isinstance(model, Listener) else open_listener(model)
        self._rate, self._gate = rate, gate
        rule = self._listener.rule
        self._decisions = Decisions(replace(rule, thresholds=_thresholds(self._listener, threshold)))
        self.keywords = self._listener.keywords  # the words it can find
        self.probabilities = np.zeros(len(self.keywords))  # in the newest window that was asked about
        self._passed = self._begin = 0  # samples at `rate` until now, and until the newest gap
        self._restart()

    def feed(self, samples: NDArray[Any]) -> list[Detection]:
        """What is heard in the samples that come next: (n,) or (n, channels), of an integer type or float.

        Raises WordflockError for samples of another shape or type, and for NaN.
        """
        windows = self._windows.feed(samples)
        self._passed += len(samples)
        return self._heard_in(windows)

    def gap(self, lost: int = 0) -> list[Detection]:
        """Say that the next `lost` samples (at the stream's rate) are missing, or that what follows is another sound.

        No window reaches across the gap; returns what is still heard in the samples before it.
        """
        heard = self._heard_in(self._windows.finish())
        self._passed += lost
        self._begin = self._passed
        self._restart()
        self._decisions.reset()
        return heard

    def stream(self, chunks: Iterable[NDArray[Any]]) -> Iterator[Detection]:
        """What is heard in chunks until they end, as soon as it is heard."""
        for chunk in chunks:
            yield from self.feed(chunk)
        yield from self.gap()

    async def astream(self, chunks: AsyncIterable[NDArray[Any]]) -> AsyncIterator[Detection]:
        """`stream` for chunks that are awaited; the work is done in a thread, so that the event loop goes on."""
        async for chunk in chunks:
            for heard in await asyncio.to_thread(self.feed, chunk):
                yield heard
        for heard in await asyncio.to_thread(self.gap):
            yield heard

    def _restart(self) -> None:
        self._windows = Windows(self._listener.window, self._listener.hop, self._rate)
        self._attention = Attention(self._listener, gate=self._gate)

    def _heard_in(self, windows: Iterator[Window]) -> list[Detection]:
        return [heard for window in windows if (heard := self._decide(window))]

    def _decide(self, window: Window) -> Detection | None:
        self.probabilities = self._attention(window)
        event = self._decisions.step(self.probabilities)
        if event is None:
            return None
        keyword, confidence = event
        first, last = span_of(np.power(10.0, 4.0 * window.log_mel[0].astype(np.float64)).sum(axis=0))
        begin = self._begin / self._rate
        shown = begin + window.end / SAMPLE_RATE - self._listener.window  # from when on the window shows the stream
        start, end = (shown + step / FRAMES_PER_SECOND for step in (first, last))
        return Detection(self.keywords[keyword], confidence, max(begin, start), min(end, self._passed / self._rate))


def _thresholds(listener: Listener, wanted: float | Mapping[str, float] | None) -> tuple[float, ...]:
    own = dict(zip(listener.keywords, listener.rule.thresholds, strict=True))
    given = wanted if isinstance(wanted, Mapping) else {} if wanted is None else dict.fromkeys(own, wanted)
    for label, value in given.items():
        if label not in own:
            raise WordflockError(f"The model has no keyword {label!r}{did_you_mean(label, own)}")
        if not isinstance(value, Real) or not 0 < value <= 1:
            raise WordflockError(f"A threshold of {value!r} for {label} is outside 0 to 1; give one within.")
    return tuple(float(given.get(label, value)) for label, value in own.items())
