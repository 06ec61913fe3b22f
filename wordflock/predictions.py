"""What the best head of a run says of each validation and test clip: `predictions.csv` in the run's folder.

Reports, comparisons of runs and figures by speaker are computed from it, so that the test split is read once a run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordflock.data.clips import Clip
from wordflock.errors import WordflockError
from wordflock.files import write_atomically
from wordflock.head.calibration import Calibration, probabilities

PREDICTIONS = "predictions.csv"


@dataclass(frozen=True, slots=True)
class ClipPrediction:
    """One clip and what the head says of it, without rejection."""

    split: str
    clip: str  # name of the recording inside its folder or archive
    start: float  # seconds into the recording; 0 unless the clip is a stretch of it
    speaker: str  # "" where unknown
    label: str
    prediction: str
    confidence: float  # calibrated probability of the prediction
    own: float  # calibrated probability of the true label

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.prediction == self.label


def predictions_of(
    split: str,
    clips: Sequence[Clip],
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    labels: Sequence[str],
    calibration: Calibration,
) -> list[ClipPrediction]:
    """The predictions of the clips of a split: logits of shape (clips, labels), targets of shape (clips,)."""
    likely = probabilities(logits / np.float32(calibration.temperature))
    best = likely.argmax(axis=1)
    return [
        ClipPrediction(
            split, clip.name, clip.start or 0.0, clip.speaker, labels[t], labels[b], float(row[b]), float(row[t])
        )
        for clip, row, b, t in zip(clips, likely, best, targets, strict=True)
    ]


def write_predictions(folder: Path, predictions: Sequence[ClipPrediction]) -> None:
    """Write them into a run's folder."""
    names = [f.name for f in fields(ClipPrediction)]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    for row in predictions:
        values = (getattr(row, name) for name in names)
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
    write_atomically(folder / PREDICTIONS, text.getvalue().encode())


def read_predictions(folder: Path, split: str = "test") -> list[ClipPrediction]:
    """The predictions of a split; empty where the run has none. Raises WordflockError for a damaged file."""
    path = folder / PREDICTIONS
    if not path.is_file():
        return []
    numbers = {f.name for f in fields(ClipPrediction) if f.type == "float"}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                ClipPrediction(**{key: float(value) if key in numbers else value for key, value in row.items()})  # type: ignore[arg-type]
                for row in csv.DictReader(file)
            ]
    except (TypeError, ValueError, csv.Error) as error:
        raise WordflockError(f"{path} is damaged ({error}); delete it, and the report will do without it.") from error
    return [row for row in rows if row.split == split]
