"""The best linear layer in closed form, from sufficient statistics: add them, subtract them, solve.

Class-weighted ridge regression of the labels onto representations z of clips. Its sufficient statistics are sums over
clips (Gram matrix, cross moments, counts), so clients send theirs once and the server solves what it would have solved
with all clips on one machine. Related: FedNCM (Legate 2023), Fed3R (Fanì 2024), Analytic Federated Learning (He 2025).

Two messages: first `ScaleStatistics`, from which the server makes the `Scale` that all clients standardise by; then
`Statistics`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wordflock.arrays import shapes_of
from wordflock.errors import WordflockError

Array = NDArray[np.float64]
ROWS = 128  # of a Gram matrix, computed together
RIDGES = (1e-3, 1e-2, 1e-1)  # times the mean diagonal of the Gram matrix
# Where several windows are made of each clip: cross-validation takes them for so many clips, and its choice would be
# too small.
WINDOW_RIDGES = (0.1, 0.3, 1.0)


@dataclass(frozen=True)
class ScaleStatistics:
    """Sums over clips that give mean and deviation of representations: the first message, before standardising."""

    counts: Array  # (labels,), clips
    total: Array  # (d,), Σ z
    squares: Array  # (d,), Σ z²

    @classmethod
    def of(cls, z: NDArray[np.float32], labels: NDArray[np.int64], count: int) -> ScaleStatistics:
        """The statistics of representations of shape (clips, d), with `count` labels in the task."""
        z = z.astype(np.float64)
        return cls(np.bincount(labels, minlength=count).astype(np.float64), z.sum(axis=0), np.square(z).sum(axis=0))

    def __add__(self, other: ScaleStatistics) -> ScaleStatistics:
        return ScaleStatistics(self.counts + other.counts, self.total + other.total, self.squares + other.squares)

    def __mul__(self, share: float) -> ScaleStatistics:
        return ScaleStatistics(self.counts * share, self.total * share, self.squares * share)

    def packed(self) -> dict[str, Array]:
        """The arrays of a message."""
        return {"counts": self.counts, "total": self.total, "squares": self.squares}

    @staticmethod
    def shapes(size: int, labels: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays of a message, for representations of `size` coordinates."""
        return {"counts": (labels,), "total": (size,), "squares": (size,)}

    @classmethod
    def unpacked(cls, arrays: Mapping[str, NDArray[Any]], size: int, labels: int) -> ScaleStatistics:
        """The statistics in a message. Raises ValueError where they cannot be of any clips."""
        shapes = cls.shapes(size, labels)
        if shapes_of(arrays) != shapes:
            raise ValueError("of another shape")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("not finite")
        statistics = cls(*(arrays[name].astype(np.float64) for name in shapes))
        if (statistics.counts < 0).any() or (statistics.squares < 0).any():
            raise ValueError("not sums over clips")
        return statistics

    def scale(self, labels: Sequence[str] = ()) -> Scale:
        """Mean and standard deviation of every coordinate, and label weights that make all labels count alike.

        Raises WordflockError where a label has no clips at all; it names the label, or its number without `labels`.
        """
        if not self.counts.all():
            names = labels or [f"label {number}" for number in range(len(self.counts))]
            missing = ", ".join(name for name, count in zip(names, self.counts, strict=True) if not count)
            raise WordflockError(
                f"There are no training clips of {missing}; add recordings, or choose other labels with --keywords, "
                "--no-unknown and --no-silence."
            )
        clips = self.counts.sum()
        mean = self.total / clips
        deviation = np.sqrt(np.maximum(self.squares / clips - np.square(mean), 0.0))
        deviation[deviation < 1e-6 * max(1e-12, float(deviation.max()))] = 1.0  # a coordinate that says nothing
        return Scale(mean, deviation, clips / (len(self.counts) * self.counts))


@dataclass(frozen=True)
class Scale:
    """What all clients standardise and weight by. Once chosen it is a constant of the run, like the ridge penalty:
    clients that come or go later change the statistics, not the scale."""

    mean: Array  # (d,)
    deviation: Array  # (d,)
    label_weights: Array  # (labels,)

    NAMES: ClassVar = frozenset({"mean", "deviation", "label_weights"})

    def packed(self) -> dict[str, Array]:
        """The arrays of a message."""
        return {"mean": self.mean, "deviation": self.deviation, "label_weights": self.label_weights}

    @classmethod
    def unpacked(cls, arrays: Mapping[str, NDArray[Any]]) -> Scale:
        """The scale in a message, among other arrays."""
        return cls(arrays["mean"], arrays["deviation"], arrays["label_weights"])


@dataclass(frozen=True)
class Statistics:
    """Weighted sums over clips of x xᵀ and x yᵀ, where x is the standardised representation with a one at its end,
    and y the label as a unit vector."""

    triangle: Array  # ((d + 1)(d + 2) / 2,), the upper triangle of the Gram matrix, row by row
    cross: Array  # (d + 1, labels)
    counts: Array  # (labels,), clips, unweighted

    @classmethod
    def of(cls, z: NDArray[np.float32], labels: NDArray[np.int64], scale: Scale) -> Statistics:
        """The statistics of representations of shape (clips, d)."""
        x = np.ones((len(z), z.shape[1] + 1))
        np.divide(z - scale.mean, scale.deviation, out=x[:, :-1])
        cross = np.zeros((x.shape[1], len(scale.label_weights)))
        for label in np.unique(labels):
            cross[:, label] = scale.label_weights[label] * x[labels == label].sum(axis=0)
        x *= np.sqrt(scale.label_weights[labels])[:, None]
        return cls(_triangle(x), cross, np.bincount(labels, minlength=len(scale.label_weights)).astype(np.float64))

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(self.triangle + other.triangle, self.cross + other.cross, self.counts + other.counts)

    def __iadd__(self, other: Statistics) -> Statistics:
        """Adds in place: a running total makes no new arrays."""
        for mine, theirs in ((self.triangle, other.triangle), (self.cross, other.cross), (self.counts, other.counts)):
            np.add(mine, theirs, out=mine)
        return self

    def __sub__(self, other: Statistics) -> Statistics:
        return Statistics(self.triangle - other.triangle, self.cross - other.cross, self.counts - other.counts)

    def __mul__(self, share: float) -> Statistics:
        return Statistics(self.triangle * share, self.cross * share, self.counts * share)

    @property
    def gram(self) -> Array:
        """The Gram matrix, shape (d + 1, d + 1)."""
        size, start = len(self.cross), 0
        gram = np.empty((size, size))
        for i in range(size):
            gram[i, i:] = gram[i:, i] = self.triangle[start : start + size - i]
            start += size - i
        return gram

    def packed(self, dtype: str = "float64") -> dict[str, NDArray[Any]]:
        """The arrays of a message, with numbers of the given type; in float16 means, for sums overflow it."""
        arrays = {"triangle": self.triangle, "cross": self.cross}
        if dtype == "float16":
            arrays = {name: array / max(1.0, float(self.counts.sum())) for name, array in arrays.items()}
        return {**{name: array.astype(dtype, copy=False) for name, array in arrays.items()}, "counts": self.counts}

    @staticmethod
    def shapes(size: int, labels: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays of a message, for representations of `size` coordinates."""
        return {"triangle": ((size + 1) * (size + 2) // 2,), "cross": (size + 1, labels), "counts": (labels,)}

    @classmethod
    def unpacked(cls, arrays: Mapping[str, NDArray[Any]], size: int, labels: int) -> Statistics:
        """The statistics in a message, for representations of `size` coordinates.

        Raises ValueError where they cannot be sums of squares: wrong shapes, not finite, a negative diagonal.
        """
        shapes = cls.shapes(size, labels)
        if shapes_of(arrays) != shapes:
            raise ValueError("of another shape")
        theirs = cls(*(arrays[name].astype(np.float64, copy=False) for name in shapes))
        if arrays["triangle"].dtype == np.float16:
            clips = max(1.0, float(theirs.counts.sum()))
            theirs = cls(theirs.triangle * clips, theirs.cross * clips, theirs.counts)
        if not all(np.isfinite(array).all() for array in (theirs.triangle, theirs.cross, theirs.counts)):
            raise ValueError("not finite")
        rows = np.arange(size + 1)
        if (theirs.triangle[rows * (size + 1) - rows * (rows - 1) // 2] < 0).any() or (theirs.counts < 0).any():
            raise ValueError("not sums of squares")
        return theirs


def _triangle(x: Array) -> Array:
    """The upper triangle of xᵀx, row by row; some rows at a time, which stay in the processor's cache.

    Multiplied by torch, whose threads a client has set to one: numpy's would wait for those of other clients.
    """
    import torch

    size, start = x.shape[1], 0
    columns = torch.from_numpy(x)
    triangle = np.empty(size * (size + 1) // 2)
    for first in range(0, size, ROWS):
        block = (columns[:, first : first + ROWS].T @ columns[:, first:]).numpy()
        for row in range(len(block)):
            length = size - first - row
            triangle[start : start + length] = block[row, row:]
            start += length
    return triangle


@dataclass(frozen=True)
class Solution:
    """A linear layer: scores = z @ weight.T + bias."""

    weight: Array  # (labels, d)
    bias: Array  # (labels,)
    ridges: tuple[float, ...]  # the penalty of each part, in units of the mean diagonal
    error: float  # generalised cross-validation, per clip; the mean over the parts


def solve(
    statistics: Statistics, scale: Scale, ridges: Iterable[float] = RIDGES, parts: Sequence[int] = ()
) -> Solution:
    """The ridge regression with the penalty of least generalised cross-validation (Golub, Heath & Wahba 1979), which
    needs the statistics and no clip. Cholesky in float64; the constant is not penalised.

    Given the sizes of `parts` of the representation, there is a regression on each of them, and the scores are the
    mean of theirs: several sets of features, of unlike number and noise, that one penalty would not suit.
    Raises WordflockError where the Gram matrix is not positive definite.
    """
    size = len(statistics.cross) - 1
    gram, stops = statistics.gram, np.cumsum(parts or [size])
    solved = []
    for start, stop in zip([0, *stops[:-1]], stops, strict=True):
        rows = np.r_[start:stop, size]
        own = gram if len(rows) == len(gram) else gram[np.ix_(rows, rows)]  # 40 MB that one part need not copy
        part = _Part(own, statistics.cross[rows], statistics.counts, scale.label_weights)
        solved.append(_best(part, ridges))
    errors, penalties, coefficients = zip(*solved, strict=True)
    weight = np.concatenate([one[:-1] for one in coefficients]) / len(solved) / scale.deviation[:, None]
    bias = np.mean([one[-1] for one in coefficients], axis=0) - scale.mean @ weight
    return Solution(weight.T.copy(), bias, penalties, float(np.mean(errors)))


def ridges(windows: bool) -> tuple[float, ...]:
    """The penalties to try where several windows are made of each clip, or none."""
    return WINDOW_RIDGES if windows else RIDGES


@dataclass(frozen=True)
class _Part:
    """A regression's sums."""

    gram: Array  # (d + 1, d + 1)
    cross: Array  # (d + 1, labels)
    counts: Array  # (labels,)
    label_weights: Array  # (labels,)


def _best(part: _Part, ridges: Iterable[float]) -> tuple[float, float, Array]:
    """The error, the ridge and the coefficients of the regression of least error."""
    from scipy.linalg import LinAlgError
    from threadpoolctl import threadpool_limits

    def attempt(ridge: float) -> tuple[float, float, Array] | None:
        # Statistics in float16 may need a larger penalty: rounding can make the Gram matrix indefinite.
        with suppress(LinAlgError, ValueError):
            return _solve(part, ridge)
        return None

    # One thread for each penalty: several for one spin while they wait for one another, ten times as long on a busy
    # machine, and the last digits would depend on how many there are.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        solutions = [solution for solution in pool.map(attempt, ridges) if solution]
    if not solutions:
        raise WordflockError("The statistics cannot be solved: they are not finite, or more was subtracted than added.")
    return min(solutions, key=lambda solution: solution[0])


def _solve(part: _Part, ridge: float) -> tuple[float, float, Array]:
    """The error by generalised cross-validation, per clip; the ridge; the coefficients, the constant last."""
    from scipy.linalg import cho_solve, cholesky
    from scipy.linalg.lapack import dtrtri

    gram, size = part.gram, len(part.gram) - 1
    diagonal = np.arange(size)  # of all but the last coordinate, the constant
    penalty = ridge * float(gram[diagonal, diagonal].sum()) / size
    penalised = gram.copy(order="F")  # LAPACK's order, in which it works in place
    penalised[diagonal, diagonal] += penalty
    factor = cholesky(penalised, lower=False, overwrite_a=True)
    solution: Array = cho_solve((factor, False), part.cross)
    # The residual of the labels, from the statistics alone: |y - x b|² = |y|² - 2 b·c + b·G b.
    clips = float(part.counts.sum())
    energy = float(part.label_weights @ part.counts)
    residual = energy - 2 * float((solution * part.cross).sum()) + float((solution * (gram @ solution)).sum())
    # The squared norms of the rows of U⁻¹ are the diagonal of (UᵀU)⁻¹.
    inverse, _ = dtrtri(factor, lower=0, overwrite_c=True)
    freedom = len(gram) - penalty * float(np.square(inverse[:size]).sum())
    return residual / clips / max(1e-9, 1 - freedom / clips) ** 2, ridge, solution


def add_labels(
    scale: Scale, total: Statistics, labels: Sequence[str], placed: Sequence[str], arriving: NDArray[np.float64]
) -> tuple[Scale, Statistics]:
    """The scale and the statistics of a head with `labels`, for one with the labels `placed`: new ones have no clips in
    the statistics yet, and their `arriving` clips will weigh as much in all as those of another label do on average.

    Raises WordflockError for a label that is left out, and for a new one of which no clips arrive.
    """
    if missing := [label for label in labels if label not in placed]:
        raise WordflockError(f"The head knows {', '.join(missing)} as well; name all of its labels.")
    order, size = [placed.index(label) for label in labels], len(placed)
    cross, counts, weights = np.zeros((len(total.cross), size)), np.zeros(size), np.ones(size)
    cross[:, order], counts[order], weights[order] = total.cross, total.counts, scale.label_weights
    for place in sorted(set(range(size)) - set(order)):
        if not arriving[place]:
            raise WordflockError(f"The new word {placed[place]!r} has no training clips.")
        weights[place] = float((scale.label_weights * total.counts).mean()) / arriving[place]
    return replace(scale, label_weights=weights), Statistics(total.triangle, cross, counts)
