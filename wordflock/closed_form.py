"""The best linear layer from sums over clips: add them, subtract them, solve.

Class-weighted ridge regression of the labels onto representations z of clips. All that it needs are sums, so clients
send theirs once and the server solves what it would have solved with all clips in one place. Related: FedNCM (Legate
2023), Fed3R (Fanì 2024), Analytic Federated Learning (He 2025).

Two messages: first `Moments`, from which the server makes the `Scale` that everyone standardises by; then `Sums`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.errors import WordflockError

Array = NDArray[np.float64]

RIDGES = (1e-3, 1e-2, 1e-1)  # times the mean diagonal of the Gram matrix


@dataclass(frozen=True)
class Moments:
    """Sums over clips that say where representations lie: what must be known before they can be standardised."""

    counts: Array  # (labels,), clips
    total: Array  # (d,), Σ z
    squares: Array  # (d,), Σ z²

    @classmethod
    def of(cls, z: NDArray[np.float32], labels: NDArray[np.int64], count: int) -> Moments:
        """The moments of representations of shape (clips, d), with `count` labels in the task."""
        z = z.astype(np.float64)
        return cls(np.bincount(labels, minlength=count).astype(np.float64), z.sum(axis=0), np.square(z).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.counts + other.counts, self.total + other.total, self.squares + other.squares)

    def scale(self) -> Scale:
        """Mean and standard deviation of every coordinate, and label weights that make all labels count alike.

        Raises WordflockError where a label has no clips at all.
        """
        if not self.counts.all():
            raise WordflockError(f"Labels {np.flatnonzero(self.counts == 0).tolist()} have no clips with any client.")
        clips = self.counts.sum()
        mean = self.total / clips
        deviation = np.sqrt(np.maximum(self.squares / clips - np.square(mean), 0.0))
        deviation[deviation < 1e-6 * max(1e-12, float(deviation.max()))] = 1.0  # a coordinate that says nothing
        return Scale(mean, deviation, clips / (len(self.counts) * self.counts))


@dataclass(frozen=True)
class Scale:
    """What all clients standardise and weight by. Once chosen it is a constant of the run, like the ridge penalty:
    clients that come or go later change the sums, not the scale."""

    mean: Array  # (d,)
    deviation: Array  # (d,)
    label_weights: Array  # (labels,)


@dataclass(frozen=True)
class Sums:
    """Weighted sums over clips of x xᵀ and x yᵀ, where x is the standardised representation with a one at its end,
    and y the label as a unit vector."""

    gram: Array  # (d + 1, d + 1), symmetric
    cross: Array  # (d + 1, labels)
    counts: Array  # (labels,), clips, unweighted

    @classmethod
    def of(cls, z: NDArray[np.float32], labels: NDArray[np.int64], scale: Scale) -> Sums:
        """The sums of representations of shape (clips, d)."""
        x = np.ones((len(z), z.shape[1] + 1))
        np.divide(z - scale.mean, scale.deviation, out=x[:, :-1])
        weights = scale.label_weights[labels]
        cross = np.zeros((x.shape[1], len(scale.label_weights)))
        for label in np.unique(labels):
            cross[:, label] = scale.label_weights[label] * x[labels == label].sum(axis=0)
        x *= np.sqrt(weights)[:, None]
        return cls(x.T @ x, cross, np.bincount(labels, minlength=len(scale.label_weights)).astype(np.float64))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.gram + other.gram, self.cross + other.cross, self.counts + other.counts)

    def __sub__(self, other: Sums) -> Sums:
        return Sums(self.gram - other.gram, self.cross - other.cross, self.counts - other.counts)

    def packed(self, dtype: str = "float64") -> dict[str, NDArray[Any]]:
        """The arrays of a message: of the Gram matrix only the upper triangle, (d + 1)(d + 2) / 2 numbers."""
        triangle = self.gram[np.triu_indices(len(self.gram))]
        return {"gram": triangle.astype(dtype), "cross": self.cross.astype(dtype), "counts": self.counts}

    @classmethod
    def unpacked(cls, arrays: Mapping[str, NDArray[Any]]) -> Sums:
        """The sums in a message."""
        size = len(arrays["cross"])
        gram = np.zeros((size, size))
        gram[np.triu_indices(size)] = arrays["gram"]
        gram += np.triu(gram, 1).T
        return cls(gram, arrays["cross"].astype(np.float64), arrays["counts"].astype(np.float64))


@dataclass(frozen=True)
class Solution:
    """A linear layer: scores = z @ weight.T + bias."""

    weight: Array  # (labels, d)
    bias: Array  # (labels,)
    ridge: float  # the penalty, in units of the mean diagonal
    error: float  # generalised cross-validation, per clip


def solve(sums: Sums, scale: Scale, ridges: Iterable[float] = RIDGES) -> Solution:
    """The ridge regression with the penalty of least generalised cross-validation (Golub, Heath & Wahba 1979), which
    needs the sums and no clip. Cholesky in float64; the constant is not penalised.

    Raises WordflockError where the sums are no sums of squares.
    """
    return min((_solve(sums, scale, ridge) for ridge in ridges), key=lambda solution: solution.error)


def _solve(sums: Sums, scale: Scale, ridge: float) -> Solution:
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    size = len(sums.gram) - 1
    penalised = sums.gram.copy()
    penalty = ridge * float(np.trace(sums.gram[:size, :size])) / size
    penalised[np.diag_indices(size)] += penalty  # all but the last, the constant
    try:
        factor = cho_factor(penalised, lower=False, check_finite=True)
    except (LinAlgError, ValueError) as error:
        raise WordflockError("The sums cannot be solved: not finite, or more was subtracted than added.") from error
    solution: Array = cho_solve(factor, sums.cross)
    # What is left of the labels, from the sums alone: |y - x b|² = |y|² - 2 b·c + b·G b.
    clips = float(sums.counts.sum())
    energy = float(scale.label_weights @ sums.counts)
    residual = energy - 2 * float((solution * sums.cross).sum()) + float((solution * (sums.gram @ solution)).sum())
    inverse_diagonal = np.square(_inverse_factor(factor[0])).sum(axis=1)
    freedom = len(sums.gram) - penalty * float(inverse_diagonal[:size].sum())
    validated = residual / clips / max(1e-9, 1 - freedom / clips) ** 2
    weight = solution[:-1] / scale.deviation[:, None]
    return Solution(weight.T.copy(), solution[-1] - scale.mean @ weight, ridge, validated)


def _inverse_factor(upper: Array) -> Array:
    """U⁻¹ of a Cholesky factor; the squared norms of its rows are the diagonal of (UᵀU)⁻¹."""
    from scipy.linalg.lapack import dtrtri

    inverse, _ = dtrtri(upper, lower=0)
    return np.triu(inverse)
