"""What a detector asks: a checkpoint or an exported model, from log-mel windows to the probabilities of keywords."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordflock.data.task import SILENCE, UNKNOWN
from wordflock.encoder.onnx_encoder import build_onnx_encoder
from wordflock.encoder.spec import weights_for
from wordflock.errors import WordflockWarning
from wordflock.head.calibration import probabilities
from wordflock.head.checkpoint import Checkpoint, load_checkpoint
from wordflock.head.numpy_head import logits
from wordflock.spotting.decisions import Rule
from wordflock.spotting.hub import find_model
from wordflock.spotting.predict import same_encoder

HOP = 0.1  # seconds
THRESHOLD = 0.5  # of keywords of a model for which none was chosen on streams

Ask = Callable[[NDArray[np.float32]], NDArray[np.float64]]  # log-mel (1, 80, steps) to (keywords,)


@dataclass(frozen=True)
class Listener:
    """A model as a detector needs it."""

    keywords: tuple[str, ...]
    window: float  # seconds
    hop: float  # seconds
    rule: Rule
    ask: Ask


def open_listener(model: str | Path) -> Listener:
    """The model of a run, by its folder or name, a checkpoint, an export, by its folder or file, or one of the Hub.

    Raises WordflockError where there is none, it is damaged, or it was trained on another encoder than the one here.
    """
    for exported in (Path(model), Path(model) / "model.onnx"):
        if exported.suffix == ".onnx" and (exported.is_file() or exported == Path(model)):
            from wordflock.spotting.export import open_export

            return open_export(exported)
    return listener_of(load_checkpoint(find_model(model)), str(model))


def listener_of(checkpoint: Checkpoint, name: str) -> Listener:
    """A checkpoint's head on its encoder in onnxruntime, float32, one thread; `name` is what errors call it.

    Warns of a head that has no `_unknown_`. Raises WordflockError where the encoder here is another than the one it was
    trained on.
    """
    if UNKNOWN not in checkpoint.labels:
        warnings.warn(
            f"{name} has no label for other words, so it takes talk for its keywords; train it with --negatives, a "
            "folder of talk or 'synthetic'.",
            WordflockWarning,
            stacklevel=3,
        )
    encoder = build_onnx_encoder(checkpoint.spec, *weights_for(checkpoint.spec, same_encoder(checkpoint, name)))
    places, keywords = keyword_places(checkpoint.labels)

    def ask(log_mel: NDArray[np.float32]) -> NDArray[np.float64]:
        (features,) = encoder.session.run(None, {"log_mel": log_mel})
        scores = logits(checkpoint.head_kind, checkpoint.weights, features, checkpoint.projection)
        return probabilities(scores / np.float32(checkpoint.calibration.temperature))[0, places]

    return Listener(keywords, checkpoint.spec.window, HOP, rule_of(checkpoint), ask)


def rule_of(checkpoint: Checkpoint) -> Rule:
    """The thresholds that were chosen on streams, by keyword; THRESHOLD for keywords without one."""
    _, keywords = keyword_places(checkpoint.labels)
    chosen = checkpoint.calibration.stream_thresholds
    return Rule(tuple(chosen.get(keyword, THRESHOLD) for keyword in keywords))


def keyword_places(labels: list[str]) -> tuple[list[int], tuple[str, ...]]:
    """Which of the labels are keywords: their indices and their names."""
    places = [place for place, label in enumerate(labels) if label not in (SILENCE, UNKNOWN)]
    return places, tuple(labels[place] for place in places)
