"""What the encoder runs on: torch or onnxruntime, in float32 or bfloat16, by a rule of what the processor has."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wordflock.encoder.processor import computes_bfloat16
from wordflock.encoder.spec import FRAMES_PER_SECOND, FeatureSpec, feature_spec, weights_for
from wordflock.encoder.weights import Source
from wordflock.errors import WordflockError
from wordflock.settings import DataSettings, Settings

Encode = Callable[[NDArray[np.float32]], NDArray[np.float16]]  # clips (batch, samples) to features as they are stored
Backend = tuple[str, str]  # a runtime and a precision


def open_encoder(spec: FeatureSpec, device: str = "cpu", source: Source | None = None) -> Encode:
    """What makes the features of a spec, on any thread; `source` is where its weights were found.

    Raises WordflockError as `weights_for` does.
    """
    if spec.backend == "onnxruntime":
        from wordflock.encoder.onnx_encoder import build_onnx_encoder

        return build_onnx_encoder(spec, *weights_for(spec, source)).encode
    from wordflock.encoder import torch_encoder

    return partial(torch_encoder.encode, torch_encoder.load_encoder(spec, source).to(device), device=device)


def device(settings: DataSettings) -> str:
    """The device to compute on. Raises WordflockError for a CUDA device that is not there."""
    if settings.device == "cpu":
        return "cpu"  # known without torch, which takes a second to import
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise WordflockError("--device cuda finds no CUDA device that torch can use; take --device cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device


def choose_backend(settings: Settings) -> Backend:
    """The runtime and the precision that settings ask for; where they leave it open, a rule decides.

    torch in bfloat16 where the device computes in it, else onnxruntime in float32 on the processor (measured: never
    over a tenth slower than torch, see benchmarks/backends.py) and torch in float32 on a GPU. The rule looks at what
    the device has and at nothing else, so that two caches, or two machines of one kind, never disagree.
    Raises WordflockError where the runtime does not compute in the precision, or not on the device.
    """
    where = device(settings)
    ways = available_backends(where)
    # An explicit request for bfloat16 is granted where the processor only emulates it.
    ways += [("torch", "bfloat16")] * (settings.precision == "bfloat16" and ("torch", "bfloat16") not in ways)
    asked = settings.backend, settings.precision
    chosen = [way for way in ways if all(a in ("auto", part) for a, part in zip(asked, way, strict=True))]
    if not chosen:
        raise WordflockError(
            f"--backend {asked[0]} does not compute in {asked[1]} on the device {where}; leave one of the options out."
        )
    return chosen[0]


def available_backends(device: str) -> list[Backend]:
    """The combinations of runtime and precision that a device has, the preferred one first."""
    if device == "cuda":
        import torch

        return [*[("torch", "bfloat16")] * torch.cuda.is_bf16_supported(), ("torch", "float32")]
    return [*[("torch", "bfloat16")] * computes_bfloat16(), ("onnxruntime", "float32"), ("torch", "float32")]


BATCH_FRAMES = 1_120  # 16 clips of 1.4 s: more of them fall out of the processor's cache and take longer each
CUDA_BYTES_A_FRAME = 200_000  # of the encoder's work, at most; computed, not measured: no GPU was available
CUDA_MOST_CLIPS = 2_048


def spec_of(settings: Settings) -> FeatureSpec:
    """The spec of the features that the settings ask for, in the way that is fastest on this machine where they leave
    it open. Raises WordflockError as `feature_spec` and `choose_backend` do."""
    backend, precision = choose_backend(settings)
    pooled, by = settings.pooled, settings.frame_pooling
    return feature_spec(settings.encoder, settings.window, settings.layer, pooled, by, precision, backend)


def batch_size(spec: FeatureSpec, device: str) -> int:
    """Clips that are encoded together: what the processor's cache holds, or a GPU's free memory. Two at the least, for
    one takes as long (`torch_encoder.encode`)."""
    frames, most = BATCH_FRAMES, math.inf
    if device == "cuda":
        import torch

        frames, most = torch.cuda.mem_get_info()[0] // CUDA_BYTES_A_FRAME, CUDA_MOST_CLIPS
    return int(min(most, max(2, frames // round(spec.window * FRAMES_PER_SECOND))))
