"""Milliseconds of processor time that a clip takes in each backend: `python -m benchmarks.backends`.

Two layers of the smallest Whisper with random weights, over a batch of clips of the default window; the least of
several times, in turns, of one thread's own processor time, so that a busy machine measures the same.
"""

from __future__ import annotations

import time
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.encoder import backend
from wordflock.encoder.processor import processor_name
from wordflock.encoder.spec import FeatureSpec
from wordflock.encoder.weights import Dimensions, shapes
from wordflock.randomness import numpy_generator

DIMENSIONS = Dimensions(mels=80, width=384, layers=2, attention_heads=6)
SPEC = FeatureSpec("", "", 1.4, "last", frame_pooling=6)
CLIPS, REPEATS = 8, 6


def main() -> None:
    """Print a line for each backend."""
    generator = numpy_generator(0, "timing")

    def random(*shape: int) -> NDArray[np.float32]:
        return generator.standard_normal(shape, np.float32) * np.float32(0.05)

    tensors = {name: random(*shape) for name, shape in shapes(DIMENSIONS)}
    clips = random(CLIPS, round(SPEC.window * SAMPLE_RATE))
    encoders, best = dict[str, backend.Encode](), dict[str, float]()
    with patch.object(backend, "weights_for", lambda spec, source: (DIMENSIONS, tensors)):
        for way, precision in backend.available_backends("cpu"):
            encoders[f"{way} {precision}"] = backend.open_encoder(replace(SPEC, backend=way, precision=precision))
    torch.set_num_threads(1)
    for turn in range(1 + REPEATS):
        for name, encode in encoders.items():
            started = time.thread_time()
            encode(clips)
            took = 1000 * (time.thread_time() - started) / CLIPS
            best[name] = min(took, best.get(name, took)) if turn > 1 else took
    print(f"processor: {processor_name()}, torch {torch.__version__}")
    for name, milliseconds in best.items():
        print(f"{name}: {milliseconds:.2f} ms a clip")


if __name__ == "__main__":
    main()
