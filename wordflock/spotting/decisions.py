"""From the probabilities of one window after another to events: smoothing, thresholds, one event a word."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """When the probabilities of windows are an event. Times are in hops, so that decisions depend on no clock."""

    thresholds: tuple[float, ...]  # one a keyword; the mean probability from which on it is heard
    smoothing: int = 3  # windows whose probabilities are averaged
    refractory: int = 10  # hops after an event in which there is no other
    release: float = 0.5  # share of its threshold that a keyword must fall below before it can be heard once more


class Decisions:
    """Decides on windows in their order. A word stays in the window for many hops and is one event:

    a keyword that was heard is heard once more only after its mean probability fell below `release` of its threshold,
    and the window of one word gives no second event of another keyword within the refractory time.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._thresholds = np.array(rule.thresholds)
        self._recent: deque[Array] = deque(maxlen=rule.smoothing)
        self.reset()

    def reset(self) -> None:
        """Forget what was heard: what comes next is not connected to what came before."""
        self._recent.clear()
        self._recent.extend([np.zeros(len(self._thresholds))] * self.rule.smoothing)
        self._armed = np.ones(len(self._thresholds), dtype=bool)
        self._wait = 0

    def step(self, probabilities: Array) -> tuple[int, float] | None:
        """The keyword that is heard at this hop and its mean probability, given those of the newest window, shape
        (keywords,); None for no event."""
        self._recent.append(probabilities)
        mean = np.mean(self._recent, axis=0)
        self._armed |= mean < self.rule.release * self._thresholds
        self._wait = max(0, self._wait - 1)
        above = self._armed & (mean >= self._thresholds)
        if self._wait or not above.any():
            return None
        heard = int(np.argmax(np.where(above, mean, -1.0)))
        self._armed &= mean < self._thresholds  # the others that this word also resembles are no second event
        self._wait = self.rule.refractory
        return heard, float(mean[heard])
