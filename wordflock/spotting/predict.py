"""Use a checkpoint: score it on a data set, or ask it about files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wordflock.audio.reading import SAMPLE_RATE, fit, read_clip
from wordflock.data.clips import SPLITS
from wordflock.data.task import UNKNOWN, Task
from wordflock.encoder.backend import device, open_encoder
from wordflock.errors import WordflockError
from wordflock.head.calibration import decide
from wordflock.head.checkpoint import Checkpoint, load_checkpoint
from wordflock.head.metrics import Score
from wordflock.head.numpy_head import logits
from wordflock.prepare import prepare
from wordflock.runs import find_checkpoint
from wordflock.settings import DataSettings, Settings

if TYPE_CHECKING:
    from wordflock.encoder.weights import Source


def evaluate_checkpoint(path: str, settings: DataSettings, split: str) -> Score:
    """Score a checkpoint on one split of a data set; the task and the features are the checkpoint's.

    Raises WordflockError where the checkpoint's encoder is not to be had.
    """
    from wordflock.head.training import evaluate_head

    if split not in SPLITS:
        raise WordflockError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    checkpoint = load_checkpoint(find_checkpoint(path))
    same_encoder(checkpoint, path)
    everything = Settings(**{key: getattr(settings, key) for key in vars(settings)})
    task, spec = Task.of_labels(checkpoint.labels), checkpoint.spec.here()
    prepared = prepare(everything, [split], optional=(), task=task, spec=spec)
    where = device(settings)
    return evaluate_head(
        checkpoint.build().to(where),
        prepared.features[split],
        checkpoint.labels,
        device=where,
        calibration=checkpoint.calibration,
    )


def predict_files(path: str, files: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    """The file, the most probable label and its probability, for each audio file.

    A keyword that is less probable than the checkpoint's threshold is `_unknown_` instead. Without torch, whatever the
    head was trained with, for that takes longer to load than all of this.
    """
    checkpoint = load_checkpoint(find_checkpoint(path))
    source = same_encoder(checkpoint, path)
    clips = [read_clip(Path(file)) for file in files]  # all of them first: a missing file is said before the wait
    encode = open_encoder(replace(checkpoint.spec, precision="float32", backend="onnxruntime"), source=source)
    samples = round(checkpoint.spec.window * SAMPLE_RATE)
    for file, clip in zip(files, clips, strict=True):
        features = encode(fit(clip, samples)[np.newaxis]).astype(np.float32)
        scores = logits(checkpoint.head_kind, checkpoint.weights, features, checkpoint.projection)
        (said,), (sure,) = decide(scores, checkpoint.labels, checkpoint.calibration)
        yield file, said, float(sure)


def same_encoder(checkpoint: Checkpoint, path: str) -> Source:
    """The encoder that the head was trained on. Raises WordflockError where the one of that name here is another."""
    from wordflock.encoder.weights import find

    found = find(checkpoint.spec.encoder)
    if found.fingerprint != checkpoint.spec.fingerprint:
        raise WordflockError(
            f"{path} was trained on another encoder {checkpoint.spec.encoder} (fingerprint "
            f"{checkpoint.spec.fingerprint[:12]}) than the one here ({found.fingerprint[:12]}); install that one."
        )
    return found


def format_score(score: Score) -> str:
    """The score as text."""
    low, high = score.interval
    lines = [
        f"accuracy {score.accuracy:.4f} [{low:.4f}, {high:.4f}] on {score.clips} clips, loss {score.loss:.4f}, "
        f"calibration error {score.calibration_error:.4f}"
    ]
    lines += [f"  {label:<12} recall " + ("-" if r is None else f"{r:.4f}") for label, r in score.recall.items()]
    if score.threshold:
        unknown = score.recall_with_rejection.get(UNKNOWN)
        heard = "" if unknown is None else f", {UNKNOWN} recall {unknown:.4f}"
        lines.append(
            f"as predict answers, with keywords below {score.threshold:.2f} taken for {UNKNOWN}: "
            f"accuracy {score.accuracy_with_rejection:.4f}{heard}"
        )
    return "\n".join(lines)
