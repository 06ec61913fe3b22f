"""Which windows of a stream are worth the encoder's work."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.spotting.listener import Listener
from wordflock.spotting.windows import Window

LIKELY = 0.1  # probability of a keyword from which on every window is asked, not every second one


class Attention:
    """The probabilities of the keywords in one window after another, with as few questions as lose no word.

    A window in which nothing stands out from the noise has none (the gate). While no keyword is likely every second
    window is enough, for a word stays whole in several: the others have what the window before had.
    """

    def __init__(self, listener: Listener, *, gate: bool = True) -> None:
        self._listener, self._gate = listener, gate
        self._hop = round(listener.hop * SAMPLE_RATE)  # samples
        self._newest = np.zeros(len(listener.keywords))

    def __call__(self, window: Window) -> NDArray[np.float64]:
        """Of shape (keywords,)."""
        if self._gate and not window.loud:
            self._newest = np.zeros(len(self._newest))
        elif window.end // self._hop % 2 or self._newest.max(initial=0.0) >= LIKELY:
            self._newest = self._listener.ask(window.log_mel)
        return self._newest
