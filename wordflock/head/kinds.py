"""The kinds of heads: one table. A new head is a row here, a class in torch_head.py and a function in numpy_head.py.

The settings read this table too, so it imports nothing that takes time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]

THREE = "2+3+last"  # layers

ATTENTION, CHANNELS, HIDDEN = 128, 128, 256  # hidden sizes of the attentive, the convolution and the mean head
TEMPORAL = 48  # channels of the combined head's convolutions over time


@dataclass(frozen=True)
class HeadKind:
    """What distinguishes one kind of head; `frames` and `width` are those of a clip's features."""

    torch_class: str  # its class in torch_head.py
    numpy_pool: str  # the function in numpy_head.py that computes what the class's `pool` does
    body: Callable[[int, int], Shapes]  # (frames, width) to the weights below the output layer
    pooled_size: Callable[[int, int], int]  # (frames, width) to the size of the vector that `pool` makes
    layer: str = "last"  # the encoder's layers that it works on unless told otherwise
    pooled: bool = False  # it works on features whose frames are pooled before they are stored
    random_features: bool = False  # the vector may be projected at random

    def shapes(self, frames: int, width: int, labels: int, random_features: int = 0) -> Shapes:
        """The weights of a head and their shapes; `random_features` is the size of its projection (0: none)."""
        size = random_features or self.pooled_size(frames, width)
        return {**self.body(frames, width), "output.weight": (labels, size), "output.bias": (labels,)}


def _norm(width: int) -> Shapes:
    return {"norm.weight": (width,), "norm.bias": (width,)}


def _attention(frames: int, width: int) -> Shapes:
    attention = {"attention_in.weight": (ATTENTION, width), "attention_in.bias": (ATTENTION,)}
    return {**_norm(width), **attention, "attention_out.weight": (width, ATTENTION)}


def _temporal(frames: int, width: int) -> Shapes:
    first = {"first.weight": (TEMPORAL, width, 3), "first.bias": (TEMPORAL,)}
    second = {"second.weight": (TEMPORAL, TEMPORAL, 3), "second.bias": (TEMPORAL,)}
    return {**_norm(width), **first, **second}


def _convolution(frames: int, width: int) -> Shapes:
    return {"mix.weight": (CHANNELS, frames, 1), "mix.bias": (CHANNELS,)}


def _perceptron(frames: int, width: int) -> Shapes:
    return {**_norm(width), "hidden.weight": (HIDDEN, width), "hidden.bias": (HIDDEN,)}


def _nothing(frames: int, width: int) -> Shapes:
    return {}


def _all_frames(frames: int, width: int) -> int:
    return frames * width


KINDS: dict[str, HeadKind] = {
    "combined": HeadKind(
        "CombinedHead", "pool_combined", _temporal, lambda frames, width: 2 * (width + TEMPORAL), THREE
    ),
    "attentive": HeadKind("AttentiveHead", "pool_attentive", _attention, lambda frames, width: 2 * width),
    "convolution": HeadKind(
        "ConvolutionHead", "pool_convolution", _convolution, lambda frames, width: CHANNELS * width
    ),
    "mean": HeadKind("MeanHead", "pool_mean", _perceptron, lambda frames, width: HIDDEN),
    "linear": HeadKind("LinearHead", "pool_linear", _nothing, _all_frames, THREE, pooled=True),
    "linear-mean": HeadKind(
        "LinearMeanHead", "pool_linear_mean", _nothing, lambda frames, width: width, THREE, pooled=True
    ),
    "normalized": HeadKind(
        "NormalizedHead", "pool_normalized", _nothing, _all_frames, THREE, pooled=True, random_features=True
    ),
}
