"""How good a head is: accuracy with its interval, recall by label, confusion."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.head.calibration import Calibration, calibration_error, cross_entropy, decide

UNCALIBRATED = Calibration()


@dataclass(frozen=True)
class Score:
    """How a head did on the clips of one split."""

    accuracy: float
    interval: tuple[float, float]  # Wilson, 95%
    clips: int
    loss: float  # mean cross-entropy, nats a clip
    calibration_error: float  # expected, in 15 bins
    recall: dict[str, float | None]  # by label; None where no clip has the label
    confusion: list[list[int]]  # rows: the true label; columns: the predicted one
    labels: list[str]
    parameters: int
    threshold: float = 0.0  # the checkpoint's, below which a keyword is rejected
    accuracy_with_rejection: float = 0.0  # of the predictions with that threshold
    recall_with_rejection: dict[str, float | None] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The object that `evaluate --json` prints and metrics.json holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Score:
        """The score in metrics.json."""
        return cls(**{**values, "interval": tuple(values["interval"])})

    @property
    def summary(self) -> str:
        """Loss and accuracy, in a few words."""
        return f"loss = {self.loss:.4f}, accuracy = {self.accuracy:.4f}" if self.clips else "not measured"


NO_SCORE = Score(0.0, (0.0, 1.0), 0, 0.0, 0.0, {}, [], [], 0)  # where there are no clips to score a head on


def score(
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    labels: list[str],
    parameters: int,
    calibration: Calibration = UNCALIBRATED,
) -> Score:
    """Score logits of shape (clips, labels), read as the calibration says, against the true labels, shape (clips,)."""
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion, (targets, logits.argmax(axis=1)), 1)
    hits, clips = int(np.trace(confusion)), len(targets)
    predictions, _ = decide(logits, labels, calibration)
    correct = np.array([labels[true] == word for true, word in zip(targets, predictions, strict=True)])
    logits = logits / np.float32(calibration.temperature)
    return Score(
        accuracy=hits / clips,
        interval=wilson_interval(hits, clips),
        clips=clips,
        loss=cross_entropy(logits, targets),
        calibration_error=calibration_error(logits, targets),
        recall=_recall(logits.argmax(axis=1) == targets, targets, labels),
        confusion=confusion.tolist(),
        labels=labels,
        parameters=parameters,
        threshold=calibration.threshold,
        accuracy_with_rejection=float(correct.mean()),
        recall_with_rejection=_recall(correct, targets, labels),
    )


def _recall(correct: NDArray[np.bool_], targets: NDArray[np.int64], labels: list[str]) -> dict[str, float | None]:
    by_label = [correct[targets == index] for index in range(len(labels))]
    return {label: float(those.mean()) if len(those) else None for label, those in zip(labels, by_label, strict=True)}


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95% interval of a proportion (Wilson 1927), which is valid near 0 and 1 too."""
    z = 1.959963984540054
    p, z2 = successes / trials, z * z / trials
    centre = (p + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * sqrt(p * (1 - p) / trials + z2 / (4 * trials))
    # At 0 and at all successes an end of the interval is exactly 0 or 1, which rounding misses.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high
