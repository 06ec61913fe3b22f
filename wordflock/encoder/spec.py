"""What features are made of: the encoder, its window, layers and frames."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordflock.encoder.processor import computes_bfloat16
from wordflock.errors import WordflockError

if TYPE_CHECKING:
    from wordflock.encoder.weights import Dimensions, Source

FRAMES_PER_SECOND = 50
MIN_WINDOW, MAX_WINDOW = 0.2, 30.0  # seconds


@dataclass(frozen=True)
class FeatureSpec:
    """What makes features what they are. Two clips' features go together only when this is the same for both."""

    encoder: str
    fingerprint: str
    window: float  # seconds, a whole number of 20 ms frames
    layer: str  # "last" is the top layer after the final norm; "2" the second layer as it is; "2+last" both
    pooled: bool = False  # over the frames: their mean and standard deviation in place of two frames
    frame_pooling: int = 1  # neighbouring frames that become one (see encoder.py); the last of a clip may be of fewer
    precision: str = "float32"  # in which the encoder computes; what is stored is float16 in any case
    backend: str = "torch"  # which computes it, to the same digits but the last

    @property
    def frames(self) -> int:
        """Frames in a clip's features: of 50 a second, those that pooling leaves."""
        return 2 if self.pooled else math.ceil(round(self.window * FRAMES_PER_SECOND) / self.frame_pooling)

    @property
    def kind(self) -> str:
        """What a head must know of features to work on them. Precision and runtime are no part of it: heads are as
        often right on features of other ones (docs/performance.md), so one federation may have unlike processors."""
        merged = merged_frames(self.frame_pooling)
        frames = f"-by{'2x' if merged == 2 else ''}{self.frame_pooling // merged}" if self.frame_pooling > 1 else ""
        pooling = frames + "-pooled" * self.pooled
        return f"{self.fingerprint[:16]}-{self.window:.2f}s-{self.layer}{pooling}"

    @property
    def folder(self) -> str:
        """The store's folder below the cache."""
        way = f"-{self.precision}" * (self.precision != "float32") + f"-{self.backend}" * (self.backend != "torch")
        return self.kind + way

    def here(self) -> FeatureSpec:
        """These features as this machine makes them: not in bfloat16 where the processor would have to imitate it."""
        return self if computes_bfloat16() else replace(self, precision="float32")


def merged_frames(frame_pooling: int) -> int:
    """How many neighbouring frames become one after the encoder's first layer already, of those that do in the end."""
    return 2 if frame_pooling % 2 == 0 else 1


def feature_spec(
    encoder: str,
    window: float,
    layer: str,
    pooled: bool = False,
    frame_pooling: int = 1,
    precision: str = "float32",
    backend: str = "torch",
) -> FeatureSpec:
    """The spec of an encoder's features; finds the encoder, but does not load it.

    Raises WordflockError for a window outside 0.2 to 30 s, a layer that is neither "last" nor a number, and an
    encoder that is nowhere.
    """
    from wordflock.encoder.weights import find  # here, because who only reads a store has no use for it

    if not MIN_WINDOW <= window <= MAX_WINDOW:
        raise WordflockError(f"A window of {window} s is outside {MIN_WINDOW} to {MAX_WINDOW:.0f} s.")
    if not names_layers(layer):
        raise WordflockError(
            f"Layer {layer!r} is neither 'last' nor a number from 1 on, nor rising ones joined by '+'."
        )
    frames = round(window * FRAMES_PER_SECOND)
    # The pooling over all frames leaves nothing for that of neighbours to do, but after the first layer.
    by = merged_frames(frame_pooling) if pooled else frame_pooling
    fingerprint, window = find(encoder).fingerprint, frames / FRAMES_PER_SECOND
    return FeatureSpec(encoder, fingerprint, window, layer, pooled, by, precision, backend)


def weights_for(spec: FeatureSpec, source: Source | None = None) -> tuple[Dimensions, dict[str, NDArray[np.float32]]]:
    """The sizes and the tensors of a spec's encoder, from `source` or from wherever they are on this machine.

    Raises WordflockError for a window that is longer than it can see.
    """
    from wordflock.encoder.weights import find, load

    dimensions, tensors = load(source or find(spec.encoder, fetch=False))
    if spec.window * FRAMES_PER_SECOND > dimensions.positions:
        raise WordflockError(
            f"The encoder {spec.encoder} sees {dimensions.positions / FRAMES_PER_SECOND} s at most; "
            f"take a shorter --window than {spec.window}."
        )
    return dimensions, tensors


def highest_layer(layer: str, dimensions: Dimensions) -> int:
    """The last layer that has to be computed. Raises WordflockError where the encoder does not have all of them."""
    depths = [dimensions.layers if part == "last" else int(part) for part in layer.split("+")]
    if min(depths) < 1 or max(depths) > dimensions.layers:
        raise WordflockError(f"The encoder has layers 1 to {dimensions.layers}, and not all of {layer}.")
    return max(depths)


def names_layers(layer: str) -> bool:
    """Whether this is "last", a number from 1 on, or rising ones joined by "+"."""
    parts = layer.split("+")
    if not all(re.fullmatch("last|[1-9][0-9]?", part) for part in parts):
        return False
    depths = [math.inf if part == "last" else int(part) for part in parts]
    return depths == sorted(set(depths))
