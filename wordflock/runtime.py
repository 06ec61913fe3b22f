"""What the encoder runs on: torch or onnxruntime, in float32 or bfloat16, by what is fastest on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordflock.audio import SAMPLE_RATE
from wordflock.errors import WordflockError
from wordflock.features import FeatureSpec, weights_for
from wordflock.files import write_atomically
from wordflock.processor import computes_bfloat16, processor_name
from wordflock.randomness import numpy_generator
from wordflock.settings import DataSettings, Settings, default_cache
from wordflock.weights import Dimensions, Source, shapes

Encode = Callable[[NDArray[np.float32]], NDArray[np.float16]]  # clips (batch, samples) to features as they are stored
Way = tuple[str, str]  # a runtime and a precision

GAIN = 0.9  # of another way's time: who gains less is not preferred, for machines of one kind should agree
# What is timed: two layers of the smallest Whisper, over a batch of clips of the usual window.
TIMED = Dimensions(mels=80, width=384, layers=2, attention_heads=6)
TIMED_SPEC = FeatureSpec("", "", 1.4, "last", frame_pooling=6)
TIMED_CLIPS, TIMES = 8, 4


def open_encoder(spec: FeatureSpec, device: str = "cpu", source: Source | None = None) -> Encode:
    """What makes the features of a spec, on any thread; `source` is where its weights were found.

    Raises WordflockError as `weights_for` does.
    """
    return _built(spec, *weights_for(spec, source), device)


def _built(spec: FeatureSpec, dimensions: Dimensions, tensors: dict[str, NDArray[np.float32]], device: str) -> Encode:
    if spec.runtime == "onnxruntime":
        from wordflock.onnx_encoder import build_onnx_encoder

        return build_onnx_encoder(spec, dimensions, tensors).encode
    from wordflock import encoder

    built = encoder.build_encoder(dimensions, tensors, spec.layer, spec.pooled, spec.frame_pooling, spec.precision)
    return partial(encoder.encode, built.to(device), device=device)


def device(settings: DataSettings) -> str:
    """The device to compute on. Raises WordflockError for a CUDA device that is not there."""
    if settings.device == "cpu":
        return "cpu"  # known without torch, which takes a second to import
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise WordflockError("--device cuda finds no CUDA device that torch can use; take --device cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device


def choose_way(settings: Settings, cache: Path | None = None) -> Way:
    """The runtime and the precision that settings ask for, the fastest where they leave it open.

    It is measured once for a kind of processor and the versions of both runtimes, and kept in the user's own cache,
    or in `cache`, whatever --cache says: it is about the machine, and not about clips.
    Raises WordflockError where the runtime does not compute in the precision, or not on the device.
    """
    where = device(settings)
    asked = settings.runtime, settings.precision
    # Who asks for bfloat16 gets it, if only imitated.
    ways = [*_ways(where), *[("torch", "bfloat16")] * ("bfloat16" in asked)]
    ways = [way for way in ways if all(a in ("auto", part) for a, part in zip(asked, way, strict=True))]
    if not ways:
        raise WordflockError(
            f"--runtime {asked[0]} does not compute in {asked[1]} on the device {where}; leave one of the options out."
        )
    if len(set(ways)) == 1:
        return ways[0]
    if where == "cuda":
        return ways[-1]
    cost, best = _costs((cache or default_cache()) / "runtimes.json"), ways[0]
    for way in ways[1:]:
        best = way if cost[" ".join(way)] < GAIN * cost[" ".join(best)] else best
    return best


def _ways(device: str) -> list[Way]:
    """What this machine can do, the plainest first."""
    if device == "cuda":
        import torch

        return [("torch", "float32"), *[("torch", "bfloat16")] * torch.cuda.is_bf16_supported()]
    return [("torch", "float32"), ("onnxruntime", "float32"), *[("torch", "bfloat16")] * computes_bfloat16()]


def _costs(file: Path) -> dict[str, float]:
    """Milliseconds of a processor's time that a clip takes in each way, as they were when they were first measured."""
    from importlib.metadata import version

    kind = f"{processor_name()}, torch {version('torch')}, onnxruntime {version('onnxruntime')}"
    names = [" ".join(way) for way in _ways("cpu")]
    known = _kept(file).get(kind, {})
    if known.keys() != set(names):
        everything = {kind: _milliseconds()} | _kept(
            file
        )  # where another process was faster, its answer is that of all
        known = everything[kind]
        with suppress(OSError):  # then it is measured again the next time
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(everything, indent=2).encode())
    return known


def _kept(file: Path) -> dict[str, dict[str, float]]:
    try:
        kept = json.loads(file.read_text())
        return {kind: {way: float(cost) for way, cost in costs.items()} for kind, costs in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _milliseconds() -> dict[str, float]:
    """Of this thread alone, and the least of several times, in turns: a busy machine measures the same."""
    import torch

    generator, threads = numpy_generator(0, "timing"), torch.get_num_threads()

    def random(*shape: int) -> NDArray[np.float32]:
        return generator.standard_normal(shape, np.float32) * np.float32(0.05)

    tensors = {name: random(*shape) for name, shape in shapes(TIMED)}
    clips = random(TIMED_CLIPS, round(TIMED_SPEC.window * SAMPLE_RATE))
    encoders, least = dict[str, Encode](), dict[str, float]()
    for runtime, precision in _ways("cpu"):
        spec = replace(TIMED_SPEC, runtime=runtime, precision=precision)
        encoders[f"{runtime} {precision}"] = _built(spec, TIMED, tensors, "cpu")
    torch.set_num_threads(1)
    try:
        for turn in range(1 + TIMES):  # what is made at the first call is not timed
            for way, encode in encoders.items():
                started = time.thread_time()
                encode(clips)
                took = 1000 * (time.thread_time() - started) / TIMED_CLIPS
                least[way] = min(took, least.get(way, took)) if turn > 1 else took
    finally:
        torch.set_num_threads(threads)
    return least
