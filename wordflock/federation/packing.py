"""A head as it travels over a network: one array of bytes, compressed without loss.

Flower sends every array in requests of its own, each with nearly a kilobyte around it. And the bytes with the exponents
of a head's numbers are much the same: with all of them together, a float32 head loses a seventh of its size.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 1 << 26  # bytes: what claims to be larger is no head, and is not unpacked
KINDS = ("float32", "float16")


def packable(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether these could be a head: numbers of one of its kinds, and not too many."""
    kinds = {array.dtype.name for array in arrays.values()}
    return len(kinds) == 1 and kinds <= {*KINDS} and sum(array.nbytes for array in arrays.values()) <= MAX_BYTES


def pack(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """What `unpack` makes the same arrays of, to the bit."""
    numbers = np.concatenate([array.ravel() for array in arrays.values()])
    heading = {"kind": numbers.dtype.name, "shapes": {name: array.shape for name, array in arrays.items()}}
    planes = numbers.view(np.uint8).reshape(-1, numbers.itemsize).T
    packed = json.dumps(heading).encode() + b"\n" + zlib.compress(planes.tobytes(), 1)
    return np.frombuffer(packed, np.uint8)


def unpack(packed: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The arrays that were packed. Raises ValueError, TypeError or KeyError where these bytes are nothing packed."""
    heading, _, compressed = packed.tobytes().partition(b"\n")
    try:
        known = json.loads(heading)
        kind, shapes = known["kind"], {str(name): tuple(shape) for name, shape in known["shapes"].items()}
        if kind not in KINDS or any(type(size) is not int or size < 0 for shape in shapes.values() for size in shape):
            raise ValueError("it is of no kind that a head has")
        sizes, itemsize = [math.prod(shape) for shape in shapes.values()], np.dtype(kind).itemsize
        if (total := sum(sizes) * itemsize) > MAX_BYTES:
            raise ValueError("it is larger than a head")
        unpacking = zlib.decompressobj()
        planes = unpacking.decompress(compressed, total + 1)  # however much more there is to come
    except (zlib.error, RecursionError) as error:
        raise ValueError("it cannot be unpacked") from error
    if len(planes) != total or not unpacking.eof:
        raise ValueError("it is of another size than it says")
    numbers = np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(itemsize, -1).T).reshape(-1).view(kind)
    numbers.flags.writeable = False
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
