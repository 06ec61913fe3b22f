"""What statistics over clips must satisfy, whatever the clips: sums of squares cannot be less than squares of sums.

Clients that send statistics which no clips have are refused by name. Statistics that some clips could have, but not the
client's, pass: against those no inequality helps. All of these conditions are closed under addition, so the total of
secure aggregation is checked by them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordflock.federation.roster import Client
from wordflock.federation.wire import MalformedMessage
from wordflock.head.closed_form import RIDGES, Scale, ScaleStatistics, Statistics

TOLERANCE = {"float64": 1e-7, "float32": 1e-4, "float16": 1e-2}  # by the number type in which statistics travelled
# Measured on Speech Commands, 10 to 500 clients by speaker: energies from 0.91 to 1.05 of the median's, and agreement
# of honest clients with 8 clips or more at least 0.4; -0.1 where labels are rotated.
MAX_ENERGY = 2.0  # times the median client's mean square of a representation, or one part in so many
MIN_AGREEMENT = 0.1  # cosine of what tells a client's labels apart and what tells the others' apart
MIN_CLIPS = 8  # of a client whose words are compared: means of fewer are too rough
MIN_COMPARED = 3  # clients, of which one can be unlike the others


def check_counts(counts: NDArray[np.float64], clips: int) -> None:
    """Raises MalformedMessage where these are not the numbers of `clips` clips by label."""
    if (counts != np.rint(counts)).any():
        raise MalformedMessage("sent statistics over parts of clips")
    if counts.sum() != clips:
        raise MalformedMessage(f"sent statistics over {counts.sum():.0f} clips, and introduced itself with {clips}")


def check_scale_statistics(statistics: ScaleStatistics, clips: int, rounding: float = 0.0) -> None:
    """Raises MalformedMessage where no `clips` clips have these.

    `rounding` is what each sum may be off by, as fixed-point numbers are.
    """
    check_counts(statistics.counts, clips)
    # Cauchy and Schwarz: (Σ z)² ≤ clips Σ z², with equality where a feature is the same in all clips.
    least = np.maximum(np.abs(statistics.total) - rounding, 0.0)
    limit = clips * (statistics.squares + rounding) * (1 + TOLERANCE["float64"])
    if (np.square(least) > limit).any():
        raise MalformedMessage("sent statistics of the scale whose sums are larger than their squares allow")


def unlike_others(sent: Mapping[Client, ScaleStatistics]) -> list[Client]:
    """Clients whose representations are on another scale than the median client's: no such features exist."""
    energies = {client: float(one.squares.sum() / max(1.0, one.counts.sum())) for client, one in sent.items()}
    if len(energies) < MIN_COMPARED:
        return []
    median = float(np.median(list(energies.values())))
    return [client for client, e in energies.items() if not median / MAX_ENERGY <= e <= median * MAX_ENERGY]


@dataclass(frozen=True)
class LabelMeans:
    """The mean standardised representation of a client's clips by label, of those labels that it has."""

    there: NDArray[np.bool_]  # (labels,)
    means: NDArray[np.float32]  # (d, labels that are there)

    @classmethod
    def of(cls, statistics: Statistics, scale: Scale) -> LabelMeans:
        """Those of a client's statistics."""
        mass = scale.label_weights * statistics.counts
        there = mass > 0
        return cls(there, (statistics.cross[:-1, there] / mass[there]).astype(np.float32))


def other_words(sent: Mapping[Client, LabelMeans]) -> list[Client]:
    """Clients whose means differ from one another in other directions than those of all others do.

    What tells one word from another is alike for all who say them, and so are the differences of their means: only
    those count, for a voice or a room moves all of a client's means. Each client counts once, however many clips it
    says it has. One with fewer than two labels that others have too, or with few clips, is not compared.
    """
    if len(sent) < MIN_COMPARED:
        return []
    first = next(iter(sent.values()))
    count = np.zeros(len(first.there))
    total = np.zeros((len(first.means), len(count)), np.float32)
    for one in sent.values():
        count += one.there
        total[:, one.there] += one.means
    found = []
    for client, one in sent.items():
        both = one.there & (count > 1)
        if both.sum() < 2 or client.clips < MIN_CLIPS:
            continue
        own = one.means[:, both[one.there]]
        others = (total[:, both] - own) / (count[both] - 1)
        own, others = (each - each.mean(axis=1, keepdims=True) for each in (own, others))
        size = np.linalg.norm(own) * np.linalg.norm(others)
        if np.vdot(own, others) < MIN_AGREEMENT * size:
            found.append(client)
    return found


def check_statistics(
    statistics: Statistics, clips: int, scale: Scale, before: ScaleStatistics, dtype: str = "float64"
) -> None:
    """Raises MalformedMessage where no `clips` clips have these, standardised by `scale`, and the statistics `before`.

    `dtype` is the number type in which they travelled, which says how exactly equations hold.
    """
    eps, weights, counts = TOLERANCE[dtype], scale.label_weights, statistics.counts
    check_counts(counts, clips)
    if not np.array_equal(counts, before.counts):
        raise MalformedMessage("sent statistics with other counts than those of the scale")
    cross, rows = statistics.cross, np.arange(len(statistics.cross))
    size = len(cross) - 1
    starts = rows * (size + 1) - rows * (rows - 1) // 2
    diagonal, last_column = statistics.triangle[starts], statistics.triangle[starts + size - rows]
    mass = weights * counts  # of each label, Σ w
    # The representation ends with a one.
    if not _close(cross[-1], mass, eps * mass.sum()) or abs(diagonal[-1] - mass.sum()) > eps * mass.sum():
        raise MalformedMessage("sent statistics whose last row is not the weighted counts")
    slack = eps * (np.abs(cross).sum(axis=1) + np.sqrt(diagonal * mass.sum()))
    if not _close(last_column, cross.sum(axis=1), slack):
        raise MalformedMessage("sent a Gram matrix and cross moments of different clips")
    if (np.abs(cross) > np.sqrt(mass * diagonal[:, None]) * (1 + eps) + eps * mass).any():
        raise MalformedMessage("sent cross moments that are larger than the Gram matrix allows")
    _check_same_clips(diagonal[:-1], cross[:-1], scale, before, eps)


def _check_same_clips(
    diagonal: NDArray[np.float64], cross: NDArray[np.float64], scale: Scale, before: ScaleStatistics, eps: float
) -> None:
    """Standardised, the statistics of the scale must be those of the Gram matrix and the cross moments."""
    weights, clips = scale.label_weights, before.counts.sum()
    sums = (before.total - clips * scale.mean) / scale.deviation
    by_label = cross / weights
    size = (np.abs(before.total) + clips * np.abs(scale.mean)) / scale.deviation + np.abs(by_label).sum(axis=1) + clips
    squares = before.squares - 2 * scale.mean * before.total + clips * np.square(scale.mean)
    squares = squares / np.square(scale.deviation)
    room = eps * (before.squares + clips * np.square(scale.mean)) / np.square(scale.deviation) + eps * clips
    there = before.counts > 0
    low, high = weights[there].min(), weights[there].max()
    if (
        not _close(by_label.sum(axis=1), sums, eps * size)
        or (diagonal < low * (squares - room) * (1 - eps)).any()
        or (diagonal > high * (squares + room) * (1 + eps)).any()
    ):
        raise MalformedMessage("sent statistics of other clips than those of the scale")


def check_semidefinite(statistics: Statistics, dtype: str = "float64") -> None:
    """Raises MalformedMessage where the Gram matrix, with its own ridge, is not positive definite: clips' always is."""
    from scipy.linalg import LinAlgError, cholesky
    from threadpoolctl import threadpool_limits

    gram = statistics.gram
    gram[np.diag_indices_from(gram)] += RIDGES[-1 if dtype == "float16" else 0] * float(np.trace(gram)) / len(gram)
    try:
        with threadpool_limits(1, user_api="blas"):
            cholesky(gram, overwrite_a=True)
    except (LinAlgError, ValueError) as error:
        raise MalformedMessage("sent a Gram matrix that is not positive semidefinite") from error


def _close(one: NDArray[np.float64], other: NDArray[np.float64], slack: NDArray[np.float64] | float) -> bool:
    return bool((np.abs(one - other) <= slack).all())
