"""How good a head is: accuracy with its interval, recall by label, confusion."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.calibration import calibration_error, cross_entropy


@dataclass(frozen=True)
class Score:
    """What a head made of the clips of one split."""

    accuracy: float
    interval: tuple[float, float]  # Wilson, 95%
    clips: int
    loss: float  # mean cross-entropy, nats a clip
    calibration_error: float  # expected, in 15 bins
    recall: dict[str, float | None]  # by label; None where no clip has the label
    confusion: list[list[int]]  # rows: the true label; columns: the predicted one
    labels: list[str]
    parameters: int

    def as_json(self) -> dict[str, Any]:
        """The object that `evaluate --json` prints and metrics.json holds."""
        return asdict(self)


def score(logits: NDArray[np.float32], truth: NDArray[np.int64], labels: list[str], parameters: int) -> Score:
    """Score logits of shape (clips, labels) against the true labels, shape (clips,)."""
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion, (truth, logits.argmax(axis=1)), 1)
    correct, clips = int(np.trace(confusion)), len(truth)
    totals = confusion.sum(axis=1)
    recall = {label: float(confusion[i, i] / totals[i]) if totals[i] else None for i, label in enumerate(labels)}
    return Score(
        accuracy=correct / clips,
        interval=wilson_interval(correct, clips),
        clips=clips,
        loss=cross_entropy(logits, truth),
        calibration_error=calibration_error(logits, truth),
        recall=recall,
        confusion=confusion.tolist(),
        labels=labels,
        parameters=parameters,
    )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95% interval of a proportion (Wilson 1927), which stays honest near 0 and 1."""
    z = 1.959963984540054
    p, z2 = successes / trials, z * z / trials
    centre = (p + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * sqrt(p * (1 - p) / trials + z2 / (4 * trials))
    # At 0 and at all successes an end of the interval is exactly 0 or 1, which rounding misses.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high
