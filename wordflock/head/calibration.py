"""Calibration of a head's confidences: temperature, rejection threshold, expected calibration error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wordflock.data.task import SILENCE, UNKNOWN

BINS = 15
TEMPERATURES = (0.05, 20.0)
REJECTED_SHARE = 0.01  # of the clips whose keyword is recognised


@dataclass(frozen=True)
class Calibration:
    """How a head's logits become confidences and predictions."""

    temperature: float = 1.0  # logits are divided by it before they become probabilities
    threshold: float = 0.0  # a keyword with a lower confidence is rejected: it becomes `_unknown_`
    # By keyword, the mean probability from which on it counts as heard in a stream; chosen by evaluate-stream.
    stream_thresholds: Mapping[str, float] = field(default_factory=dict, hash=False)


def calibrate(
    logits: NDArray[np.float32], targets: NDArray[np.int64], keywords: int, rejected: float = REJECTED_SHARE
) -> Calibration:
    """The calibration for logits of shape (clips, labels), the first `keywords` labels being keywords.

    The temperature minimises the cross-entropy (Guo et al. 2017, arXiv 1706.04599). The threshold is the highest that
    rejects at most the share `rejected` of the correctly recognised keywords; 0 where none is recognised.
    """
    temperature = _temperature(logits, targets)
    probability, best = probabilities(logits / temperature), logits.argmax(axis=1)
    confidences = np.sort(probability[np.arange(len(targets)), best][(best == targets) & (targets < keywords)])
    return Calibration(temperature, float(confidences[int(len(confidences) * rejected)]) if len(confidences) else 0.0)


def _temperature(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """The cross-entropy is convex in 1/T, and least where the softmax expects the logit of the truth, on average.

    By bisection: scipy.optimize takes longer to import than all of this.
    """
    low, high = TEMPERATURES
    correct = logits[np.arange(len(targets)), targets].mean(dtype=np.float64)
    for _ in range(50):
        midpoint = float(np.sqrt(low * high))
        expected = (probabilities(logits / np.float32(midpoint)) * logits).sum(axis=1).mean()
        low, high = (midpoint, high) if expected > correct else (low, midpoint)
    return low


def decide(
    logits: NDArray[np.float32], labels: Sequence[str], calibration: Calibration
) -> tuple[list[str], NDArray[np.float64]]:
    """The predicted label of each clip, and its confidence, the probability of the most probable label.

    A keyword with a confidence below the threshold is rejected: its prediction is `_unknown_`.
    """
    probability = probabilities(logits / np.float32(calibration.temperature))
    best, confidences = [labels[index] for index in probability.argmax(axis=1)], probability.max(axis=1)
    accepted = confidences >= calibration.threshold
    predictions = [label if yes or label == SILENCE else UNKNOWN for label, yes in zip(best, accepted, strict=True)]
    return predictions, confidences


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The softmax of logits of shape (clips, labels)."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probability: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probability


def cross_entropy(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Its mean over clips, in nats."""
    shift = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shift).sum(axis=1)) - shift[np.arange(len(targets)), targets]).mean())


def calibration_error(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """The expected calibration error: how far accuracy and confidence are apart, on average over clips, in 15 bins of
    equal width (Guo et al. 2017)."""
    probability = probabilities(logits)
    confidence, correct = probability.max(axis=1), logits.argmax(axis=1) == targets
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, correct, BINS) - np.bincount(bins, confidence, BINS)
    return float(np.abs(gaps).sum() / len(targets))
