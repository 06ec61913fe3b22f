"""Heads in numpy alone, for who only asks them: a device that hears words needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wordflock.randomness import numpy_generator

Array = NDArray[np.float32]

ATTENTION, CHANNELS, HIDDEN = 128, 128, 256  # hidden sizes of the attentive, the convolution and the mean head
MIN_VARIANCE = 1e-5  # of attentive pooling, and what layer norm adds to one


@dataclass(frozen=True)
class Projection:
    """Random features: linear ones, drawn from a seed. Nobody trains, sends or stores the map, for all can draw it."""

    size: int
    seed: int

    def matrix(self, width: int) -> Array:
        """The map, shape (width, size); it leaves norms about as they are (Johnson & Lindenstrauss 1984)."""
        return _gaussian(self.seed, width, self.size)


@lru_cache(maxsize=2)
def _gaussian(seed: int, width: int, size: int) -> Array:
    generator = numpy_generator(seed, "random features", width, size)
    return generator.standard_normal((width, size), dtype=np.float32) / np.float32(math.sqrt(size))


def shapes(
    kind: str, frames: int, width: int, labels: int, projection: Projection | None = None
) -> dict[str, tuple[int, ...]]:
    """The weights of a head, as head.py names them, and their shapes. Raises KeyError for an unknown kind."""
    norm = {"norm.weight": (width,), "norm.bias": (width,)}
    before: dict[str, dict[str, tuple[int, ...]]] = {
        "attentive": {
            **norm,
            "attention_in.weight": (ATTENTION, width),
            "attention_in.bias": (ATTENTION,),
            "attention_out.weight": (width, ATTENTION),
        },
        "convolution": {"mix.weight": (CHANNELS, frames, 1), "mix.bias": (CHANNELS,)},
        "mean": {**norm, "hidden.weight": (HIDDEN, width), "hidden.bias": (HIDDEN,)},
        "linear": {},
        "linear-mean": {},
        "normalized": {},
    }
    sizes = {"attentive": 2 * width, "convolution": CHANNELS * width, "mean": HIDDEN, "linear-mean": width}
    size = projection.size if projection else sizes.get(kind, frames * width)
    return {**before[kind], "output.weight": (labels, size), "output.bias": (labels,)}


def logits(kind: str, weights: Mapping[str, Array], features: Array, projection: Projection | None = None) -> Array:
    """What the head of that kind with these weights answers to features of shape (batch, frames, width)."""
    pooled = _pooled(kind, weights, features, projection)
    answers: Array = pooled @ weights["output.weight"].T + weights["output.bias"]
    return answers


def _pooled(kind: str, weights: Mapping[str, Array], x: Array, projection: Projection | None) -> Array:
    """The vector of each clip: what `Head.pool` computes in torch."""
    pooled: Array = x.reshape(len(x), -1)  # the linear head's
    match kind:
        case "attentive":
            x = _normal(x) * weights["norm.weight"] + weights["norm.bias"]
            hidden = np.tanh(x @ weights["attention_in.weight"].T + weights["attention_in.bias"])
            scores = hidden @ weights["attention_out.weight"].T
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            weighted = powers / powers.sum(axis=1, keepdims=True) * x
            mean = weighted.sum(axis=1)
            variance = np.maximum((weighted * x).sum(axis=1) - mean * mean, np.float32(MIN_VARIANCE))
            pooled = np.concatenate([mean, np.sqrt(variance)], axis=1)
        case "convolution":
            mixed = weights["mix.weight"][:, :, 0] @ x + weights["mix.bias"][:, None]
            pooled = np.maximum(mixed, 0).reshape(len(x), -1)
        case "mean":
            normal: Array = _normal(x.mean(axis=1)) * weights["norm.weight"] + weights["norm.bias"]
            pooled = _gelu(normal @ weights["hidden.weight"].T + weights["hidden.bias"])
        case "linear-mean":
            pooled = x[:, 0]
        case "normalized":
            pooled = _normal(x).reshape(len(x), -1) / np.float32(math.sqrt(x.shape[1] * x.shape[2]))
            pooled = pooled if projection is None else pooled @ projection.matrix(pooled.shape[1])
    return pooled


def _normal(x: Array) -> Array:
    """Layer norm without its weights."""
    centred = x - x.mean(axis=-1, keepdims=True)
    normal: Array = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(MIN_VARIANCE))
    return normal


def _gelu(x: Array) -> Array:
    normal = np.vectorize(lambda value: (1 + math.erf(value / math.sqrt(2))) / 2, otypes=[np.float32])
    activated: Array = x * normal(x)
    return activated
