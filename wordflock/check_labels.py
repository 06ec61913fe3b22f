"""What a head that did not see a clip says of it: whether its label is wrong, and whether its word is elsewhere in it.

The head is a ridge regression onto the labels, of which leaving one clip out has a closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from wordflock.data.clips import Clip
from wordflock.data.task import SILENCE, UNKNOWN
from wordflock.encoder.backend import device, spec_of
from wordflock.encoder.store import encode_clips
from wordflock.settings import Settings

RIDGE = 0.03  # times the mean diagonal of the Gram matrix; a third or three times as much finds the same
UNSURE = 0.2  # a clip whose own label leads by less may have its word elsewhere
ELSEWHERE = 0.6  # by how much more it leads in another window that has the word
HOP = 0.25  # of a window, between those that are tried

Array = NDArray[np.float32]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Suggestion:
    """A clip that sounds more like another label than like its own."""

    name: str
    label: str
    suggested: str
    margin: float  # between the scores of the two labels by a head that did not see the clip; about 1 is certain
    clip: Clip


@dataclass(frozen=True)
class Misplaced:
    """A clip whose loudest stretch is probably not its word."""

    clip: Clip
    start: float  # seconds, of the window that probably has the word


class Judged:
    """Clips, and what a head that did not see them scores each label."""

    def __init__(self, clips: Sequence[Clip], settings: Settings) -> None:
        """Encodes those that are not yet."""
        self._settings = settings
        self._clips = [clip for clip in clips if clip.word != SILENCE]
        self._names = sorted({clip.word for clip in self._clips})
        place = {name: index for index, name in enumerate(self._names)}
        self._labels = np.array([place[clip.word] for clip in self._clips])
        self._head = Ridge(self._encoded(self._clips), self._labels, len(self._names))
        self._own, self._others = _compared(self._head.unseen, self._labels)

    def mislabelled(self) -> list[Suggestion]:
        """All clips that get another label, the surest first."""
        margins = self._others.max(axis=1) - self._own
        order = np.argsort(-margins, kind="stable")
        return [
            Suggestion(
                self._clips[i].name,
                self._clips[i].word,
                self._names[int(self._others[i].argmax())],
                float(margins[i]),
                self._clips[i],
            )
            for i in order[: int((margins > 0).sum())]
        ]

    def misplaced(self) -> list[Misplaced]:
        """The clips longer than the window that sound like their label in another window only, the clearest first."""
        window = self._settings.window
        leads = self._own - self._others.max(axis=1)
        unsure = [
            i
            for i, clip in enumerate(self._clips)
            if clip.seconds > window and clip.start is None and leads[i] < UNSURE and clip.word != UNKNOWN
        ]
        tried = [
            (i, replace(self._clips[i], start=start, seconds=window))
            for i in unsure
            for start in np.arange(0.0, self._clips[i].seconds - window, HOP * window).tolist()
        ]
        if not tried:
            return []
        places = np.array([i for i, _ in tried])
        own, others = _compared(self._head.scores(self._encoded([clip for _, clip in tried])), self._labels[places])
        found = []
        for i, those in groupby(range(len(tried)), key=lambda row: tried[row][0]):
            best = max(those, key=lambda row: float(own[row] - others[row].max()))
            lead = float(own[best] - others[best].max())
            if lead > 0 and lead - leads[i] > ELSEWHERE:
                found.append((lead - leads[i], Misplaced(self._clips[i], tried[best][1].start or 0.0)))
        return [each for _, each in sorted(found, key=lambda pair: -pair[0])]

    def _encoded(self, clips: Sequence[Clip]) -> Array:
        settings = self._settings
        found = encode_clips(clips, [0] * len(clips), spec_of(settings), settings.cache_folder, device(settings))
        return found.array[found.rows].reshape(len(clips), -1).astype(np.float32)


def _compared(scores: Scores, labels: NDArray[np.int64]) -> tuple[Scores, Scores]:
    """The score of each clip's own label, and those of the others."""
    rows = np.arange(len(labels))
    own, others = scores[rows, labels], scores.copy()
    others[rows, labels] = -np.inf
    return own, others


class Ridge:
    """The ridge regression of clips' labels onto representations z, shape (clips, d), and what it is without each clip.

    The penalty is `ridge` times the mean diagonal of the Gram matrix; the constant is not penalised. With the hat
    matrix H of the regression of all clips, the score without clip i is (ŷᵢ − hᵢᵢ yᵢ) / (1 − hᵢᵢ).
    """

    def __init__(self, z: Array, labels: NDArray[np.int64], count: int, ridge: float = RIDGE) -> None:
        self._mean, deviation = z.mean(axis=0), z.std(axis=0)
        self._deviation = np.where(deviation > 1e-6 * max(1e-12, float(deviation.max(initial=0.0))), deviation, 1.0)
        x = (z - self._mean) / self._deviation
        targets = np.zeros((len(x), count), dtype=np.float32)
        targets[np.arange(len(x)), labels] = 1.0
        self._shares = targets.mean(axis=0)
        gram = (x.T @ x).astype(np.float64)
        gram[np.diag_indices_from(gram)] += ridge * max(float(np.trace(gram)) / len(gram), 1e-12)
        projected = x @ np.linalg.inv(gram).astype(np.float32)
        self._weights = projected.T @ (targets - self._shares)
        leverage = np.einsum("ij,ij->i", projected, x, dtype=np.float64) + 1.0 / len(x)  # 1/n: of the constant
        leverage = np.clip(leverage, 0.0, 1.0 - 1e-6)[:, None]
        fitted = x @ self._weights + self._shares
        self.unseen: Scores = np.asarray((fitted - leverage * targets) / (1.0 - leverage), dtype=np.float64)

    def scores(self, z: Array) -> Scores:
        """The scores of other representations, shape (clips, count)."""
        return np.asarray(((z - self._mean) / self._deviation) @ self._weights + self._shares, dtype=np.float64)
