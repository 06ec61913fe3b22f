"""Ask a head which word a recording holds. Without torch, whatever the head was trained with: it takes long to load."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wordflock.audio.reading import SAMPLE_RATE, fault_of, fit, read_clip
from wordflock.data.listing import AUDIO_SUFFIXES
from wordflock.encoder.backend import open_encoder
from wordflock.errors import OptionError, WordflockError, WordflockWarning
from wordflock.head.calibration import decide, probabilities
from wordflock.head.checkpoint import Checkpoint, load_checkpoint
from wordflock.head.numpy_head import logits
from wordflock.spotting.hub import find_model

if TYPE_CHECKING:
    from wordflock.encoder.weights import Source

Recording = str | Path | bytes | ArrayLike  # a file, a file's bytes, or samples
MUCH_LONGER = 2.0  # windows from which on a recording is likely to hold more than one word
RAW_SCALE = np.float32(2**15)  # 16-bit samples to [-1, 1]
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz, of samples


@dataclass(frozen=True)
class Prediction:
    """What a head says of a recording."""

    label: str  # `_unknown_` where the head is less sure of a keyword than its threshold
    confidence: float  # probability of the label
    probabilities: dict[str, float]  # of every label of the head, the most probable first


class Model:
    """A head and its encoder, ready to predict."""

    def __init__(self, checkpoint: Checkpoint, source: Source) -> None:
        self.checkpoint = checkpoint
        self.labels = list(checkpoint.labels)
        self.window = checkpoint.spec.window  # seconds of a recording that the head hears
        self.threshold = checkpoint.calibration.threshold  # a keyword below it becomes `_unknown_`
        spec = replace(checkpoint.spec, precision="float32", backend="onnxruntime")
        self._encode = open_encoder(spec, source=source)

    def __call__(self, recording: Recording, sample_rate: int = SAMPLE_RATE) -> Prediction:
        """The word in a recording: an audio file's path or bytes, or samples, of shape (n,) or (n, channels).

        Samples are floating point in [-1, 1] or 16-bit integers, at `sample_rate` Hz. Of a recording that is longer
        than the window the loudest part counts; one that is much longer is warned about. Raises WordflockError for what
        is not audio.
        """
        clip = _read(recording, sample_rate)
        seconds = len(clip) / SAMPLE_RATE
        if seconds > MUCH_LONGER * self.window:
            name = recording if isinstance(recording, str | Path) else "A recording"
            warnings.warn(
                f"{name} has {seconds:.1f} s, and the head hears the loudest {self.window:g} s of them; cut it into "
                "words.",
                WordflockWarning,
                stacklevel=2,
            )
        features = self._encode(fit(clip, round(self.window * SAMPLE_RATE))[np.newaxis]).astype(np.float32)
        head, calibration = self.checkpoint, replace(self.checkpoint.calibration, threshold=self.threshold)
        scores = logits(head.head_kind, head.weights, features, head.projection)
        (label,), (best,) = decide(scores, self.labels, calibration)
        (row,) = probabilities(scores / np.float32(calibration.temperature))
        ranked = {self.labels[place]: float(row[place]) for place in np.argsort(-row, kind="stable")}
        # A rejected keyword, where the head has no label for all other words: how probable it is that it is another.
        return Prediction(label, ranked.get(label, 1.0 - float(best)), ranked)

    def predict(self, recordings: Iterable[Recording], sample_rate: int = SAMPLE_RATE) -> list[Prediction]:
        """The words in several recordings."""
        return [self(recording, sample_rate) for recording in recordings]


def load(model: str | Path, *, encoder: str | Path = "", threshold: float | None = None) -> Model:
    """The model in a checkpoint, a run (its folder, or its name below runs/), or a repository of the Hugging Face Hub.

    `encoder` is where to find the encoder that the head was trained with, such as a file of `wordflock encoder save`;
    `threshold` replaces the checkpoint's. Raises WordflockError where either is missing or not what it should be.
    """
    checkpoint = load_checkpoint(find_model(model))
    loaded = Model(checkpoint, same_encoder(checkpoint, str(model), str(encoder)))
    if threshold is not None:
        if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise OptionError("threshold", threshold, "is not a probability from 0 to 1")
        loaded.threshold = float(threshold)
    return loaded


def predict_files(
    model: Model, names: Iterable[str], standard_input: BinaryIO, raw_rate: int | None = None
) -> Iterator[tuple[str, Prediction | WordflockError]]:
    """What the model says of each file, of each audio file in a folder, and of what `-` reads from standard input: an
    audio file, or, given a rate in Hz, raw 16-bit mono samples. A recording that cannot be read has its error instead.
    """
    for name in _files(names):
        try:
            if name != "-":
                yield name, model(name)
            elif raw_rate is None:
                yield name, model(standard_input.read())
            else:
                content = standard_input.read()
                yield name, model(np.frombuffer(content[: len(content) // 2 * 2], "<i2"), raw_rate)
        except WordflockError as error:
            yield name, error


def same_encoder(checkpoint: Checkpoint, name: str, encoder: str = "") -> Source:
    """The encoder that the head was trained with. Raises WordflockError where the one found here is another."""
    from wordflock.encoder.weights import find

    found = find(encoder or checkpoint.spec.encoder, fetch=bool(encoder))
    if found.fingerprint != checkpoint.spec.fingerprint:
        raise WordflockError(
            f"{name} was trained on another encoder {checkpoint.spec.encoder} (fingerprint "
            f"{checkpoint.spec.fingerprint[:12]}) than the one here ({found.fingerprint[:12]}); name that one with "
            "--encoder."
        )
    return found


def _files(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if not Path(name).is_dir():
            yield name
            continue
        files = sorted(file for file in Path(name).rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
        if not files:
            warnings.warn(f"The folder {name} has no audio files.", WordflockWarning, stacklevel=2)
        yield from map(str, files)


def _read(recording: Recording, sample_rate: int) -> NDArray[np.float32]:
    """A recording at 16 kHz, shape (n,)."""
    if isinstance(recording, str | Path | bytes):
        return read_clip(recording)
    if type(sample_rate) is not int or not MIN_RATE <= sample_rate <= MAX_RATE:
        raise OptionError("sample_rate", sample_rate, f"is not a whole number of Hz from {MIN_RATE} to {MAX_RATE}")
    samples = np.asarray(recording)
    if samples.dtype == np.int16:
        samples = samples / RAW_SCALE
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2) or not samples.size:
        shape = f"{samples.dtype} of shape {samples.shape}"
        raise WordflockError(f"The recording is {shape}; give samples, floating point or int16, of shape (n,).")
    if fault := fault_of(samples):
        raise WordflockError(f"The recording {fault}; record it again.")
    mono = np.ascontiguousarray(samples if samples.ndim == 1 else samples.mean(axis=1), dtype=np.float32)
    if sample_rate == SAMPLE_RATE:
        return mono
    import soxr

    resampled: NDArray[np.float32] = soxr.resample(mono, sample_rate, SAMPLE_RATE)
    return resampled
