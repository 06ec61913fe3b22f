"""Heads in numpy alone: a device that only runs inference needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wordflock.head.kinds import KINDS
from wordflock.randomness import numpy_generator

Array = NDArray[np.float32]
Weights = Mapping[str, Array]

MIN_VARIANCE = 1e-5  # of attentive pooling, and what layer norm adds to one


@dataclass(frozen=True)
class Projection:
    """Linear random features, drawn from a seed: every machine can draw the matrix, so no one stores or sends it."""

    size: int
    seed: int

    def matrix(self, width: int) -> Array:
        """The map, shape (width, size); it leaves norms about as they are (Johnson & Lindenstrauss 1984)."""
        return _gaussian(self.seed, width, self.size)


@lru_cache(maxsize=2)
def _gaussian(seed: int, width: int, size: int) -> Array:
    generator = numpy_generator(seed, "random features", width, size)
    return generator.standard_normal((width, size), dtype=np.float32) / np.float32(math.sqrt(size))


def logits(kind: str, weights: Weights, features: Array, projection: Projection | None = None) -> Array:
    """The logits, shape (batch, labels), of the head of that kind with these weights.

    `features` has shape (batch, frames, width). Raises KeyError for an unknown kind.
    """
    pooled: Array = globals()[KINDS[kind].numpy_pool](weights, features)
    if projection:
        pooled = pooled @ projection.matrix(pooled.shape[1])
    scores: Array = pooled @ weights["output.weight"].T + weights["output.bias"]
    return scores


# What `Head.pool` of each kind computes in torch: features (batch, frames, width) to one vector a clip.


def pool_attentive(weights: Weights, x: Array) -> Array:
    x = _normal(x) * weights["norm.weight"] + weights["norm.bias"]
    hidden = np.tanh(x @ weights["attention_in.weight"].T + weights["attention_in.bias"])
    scores = hidden @ weights["attention_out.weight"].T
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    weighted = powers / powers.sum(axis=1, keepdims=True) * x
    mean = weighted.sum(axis=1)
    variance = np.maximum((weighted * x).sum(axis=1) - mean * mean, np.float32(MIN_VARIANCE))
    return np.concatenate([mean, np.sqrt(variance)], axis=1)


def pool_combined(weights: Weights, x: Array) -> Array:
    learned = _normal(x) * weights["norm.weight"] + weights["norm.bias"]
    for name in ("first", "second"):
        learned = np.maximum(_convolved(learned, weights[f"{name}.weight"], weights[f"{name}.bias"]), 0)
    return np.concatenate([x.mean(axis=1), x.std(axis=1), learned.mean(axis=1), learned.max(axis=1)], axis=1)


def pool_convolution(weights: Weights, x: Array) -> Array:
    mixed = weights["mix.weight"][:, :, 0] @ x + weights["mix.bias"][:, None]
    pooled: Array = np.maximum(mixed, 0).reshape(len(x), -1)
    return pooled


def pool_mean(weights: Weights, x: Array) -> Array:
    normal: Array = _normal(x.mean(axis=1)) * weights["norm.weight"] + weights["norm.bias"]
    return _gelu(normal @ weights["hidden.weight"].T + weights["hidden.bias"])


def pool_linear(weights: Weights, x: Array) -> Array:
    return x.reshape(len(x), -1)


def pool_linear_mean(weights: Weights, x: Array) -> Array:
    return x[:, 0]


def pool_normalized(weights: Weights, x: Array) -> Array:
    return _normal(x).reshape(len(x), -1) / np.float32(math.sqrt(x.shape[1] * x.shape[2]))


def _convolved(x: Array, weight: Array, bias: Array) -> Array:
    """A convolution over three frames, with zeros before the first and after the last."""
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
    beside = np.concatenate([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], axis=2)
    convolved: Array = beside @ weight.transpose(2, 1, 0).reshape(-1, len(weight)) + bias
    return convolved


def _normal(x: Array) -> Array:
    """Layer norm without its weights."""
    centred = x - x.mean(axis=-1, keepdims=True)
    normal: Array = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(MIN_VARIANCE))
    return normal


def _gelu(x: Array) -> Array:
    normal = np.vectorize(lambda value: (1 + math.erf(value / math.sqrt(2))) / 2, otypes=[np.float32])
    activated: Array = x * normal(x)
    return activated
