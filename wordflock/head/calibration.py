"""Calibration of a head's confidences: temperature, rejection threshold, expected calibration error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wordflock.data.task import SILENCE, UNKNOWN

BINS = 15
TEMPERATURES = (0.05, 20.0)
REJECTED_SHARE = 0.0025  # of the clips whose keyword is recognised, at most


@dataclass(frozen=True)
class Calibration:
    """How a head's logits become confidences and predictions."""

    temperature: float = 1.0  # logits are divided by it before they become probabilities
    threshold: float = 0.0  # a keyword with a lower `certainty` is rejected: it becomes `_unknown_`
    # By keyword, the mean probability from which on it counts as heard in a stream; chosen by evaluate-stream.
    stream_thresholds: Mapping[str, float] = field(default_factory=dict, hash=False)


def calibrate(
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    labels: Sequence[str],
    rejected: float = REJECTED_SHARE,
) -> Calibration:
    """The calibration for logits of shape (clips, labels) and the true labels' indices, shape (clips,).

    The temperature minimises the cross-entropy (Guo et al. 2017, arXiv 1706.04599). The threshold is the highest that
    rejects at most the share `rejected` of the correctly recognised keywords, and leaves the mean of the labels'
    recalls no lower than it is without; 0 where no keyword is recognised. Not the share of clips that are right: in a
    data set `_unknown_` often has many times as many clips as a keyword, which is not what a device hears.
    """
    temperature = _temperature(logits, targets)
    sure, best = certainty(logits, labels, temperature), logits.argmax(axis=1)
    unknown = labels.index(UNKNOWN) if UNKNOWN in labels else -1
    keyword = np.array([label not in (SILENCE, UNKNOWN) for label in labels])[best]
    counts = np.bincount(targets, minlength=len(labels))
    recognised = np.flatnonzero(keyword & (best == targets))
    recognised = recognised[np.argsort(sure[recognised], kind="stable")]
    corrected = np.sort(sure[keyword & (targets == unknown)])
    lost = np.cumsum(1 / counts[targets[recognised]])  # of the recalls' sum, by rejecting all up to each of them
    for place in range(int(len(recognised) * rejected), -1, -1) if len(recognised) else ():
        threshold = sure[recognised[place]]
        below = np.searchsorted(sure[recognised], threshold)  # equally sure ones are not rejected
        if not below or np.searchsorted(corrected, threshold) / counts[unknown] >= lost[below - 1]:
            return Calibration(temperature, float(threshold))
    return Calibration(temperature)


def certainty(logits: NDArray[np.float32], labels: Sequence[str], temperature: float) -> NDArray[np.float64]:
    """How sure a head is of the label with the highest logit, from 0 to 1, shape (clips,): what a threshold applies to.

    Its probability against `_unknown_` alone, softmax over these two logits, for what another keyword may be says
    little about whether a word is a keyword: at the same loss of keywords this rejects more words never heard than the
    probability among all labels does (benchmarks/RESULTS.md). That probability in a task without `_unknown_`.
    """
    likely = probabilities(logits / np.float32(temperature))
    top: NDArray[np.float64] = likely.max(axis=1)
    return top / (top + likely[:, labels.index(UNKNOWN)] if UNKNOWN in labels else 1.0)


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

    A keyword with a `certainty` below the threshold is rejected: its prediction is `_unknown_`.
    """
    best = [labels[index] for index in logits.argmax(axis=1)]
    confidences = probabilities(logits / np.float32(calibration.temperature)).max(axis=1)
    accepted = certainty(logits, labels, calibration.temperature) >= calibration.threshold
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
