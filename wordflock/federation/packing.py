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

from wordflock.arrays import Shapes, shapes_of
from wordflock.federation.wire import MalformedMessage
from wordflock.files import parse_json

MAX_BYTES = 1 << 26  # of the arrays: what claims to be larger is not a head, and is not unpacked
MAX_HEADING = 1 << 14  # bytes; that of the largest head has 500
MAX_ARRAYS, MAX_DIMENSIONS = 64, 8
KINDS = ("float32", "float16")


def packable(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether these could be a head: numbers of one of its kinds, and not too many."""
    kinds = {array.dtype.name for array in arrays.values()}
    return len(kinds) == 1 and kinds <= {*KINDS} and sum(array.nbytes for array in arrays.values()) <= MAX_BYTES


def pack(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """What `unpack` makes the same arrays of, to the bit."""
    numbers = np.concatenate([array.ravel() for array in arrays.values()])
    heading = {"kind": numbers.dtype.name, "shapes": shapes_of(arrays)}
    planes = numbers.view(np.uint8).reshape(-1, numbers.itemsize).T
    packed = json.dumps(heading).encode() + b"\n" + zlib.compress(planes.tobytes(), 1)
    return np.frombuffer(packed, np.uint8)


def unpack(packed: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The arrays that were packed. Raises MalformedMessage for bytes that `pack` does not make."""
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise MalformedMessage("sent a packed head that is not bytes")
    content = packed.tobytes()
    end = content.find(b"\n", 0, MAX_HEADING)
    if end < 0:
        raise MalformedMessage("sent a packed head without a heading")
    kind, shapes = _read_heading(content[:end])
    sizes = [math.prod(shape) for shape in shapes.values()]
    dtype, count = np.dtype(kind), sum(sizes)
    planes = _decompress(content[end + 1 :], count * dtype.itemsize)
    numbers = np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(dtype.itemsize, count).T)
    numbers = numbers.reshape(-1).view(dtype)
    numbers.flags.writeable = False
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _read_heading(heading: bytes) -> tuple[str, Shapes]:
    """The kind of numbers and the arrays' shapes, within bounds."""
    try:
        known = parse_json(heading)
    except ValueError as error:
        raise MalformedMessage("sent a packed head whose heading cannot be read") from error
    if not isinstance(known, dict) or known.get("kind") not in KINDS or not isinstance(known.get("shapes"), dict):
        raise MalformedMessage("sent a packed head of another kind")
    shapes: dict[str, Any] = known["shapes"]
    bounded = 0 < len(shapes) <= MAX_ARRAYS and all(
        isinstance(shape, list)
        and len(shape) <= MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size <= MAX_BYTES for size in shape)
        for shape in shapes.values()
    )
    itemsize = np.dtype(known["kind"]).itemsize
    if not bounded or sum(math.prod(shape) for shape in shapes.values()) * itemsize > MAX_BYTES:
        raise MalformedMessage("sent a packed head with shapes that no head has")
    return known["kind"], {name: tuple(shape) for name, shape in shapes.items()}


def _decompress(compressed: bytes, size: int) -> bytes:
    """So many bytes; not one more is made, however many there are."""
    unpacking = zlib.decompressobj()
    try:
        planes = unpacking.decompress(compressed, size + 1)
    except zlib.error as error:
        raise MalformedMessage("sent a packed head that cannot be decompressed") from error
    if len(planes) != size or not unpacking.eof:
        raise MalformedMessage("sent a packed head of another size than it says")
    return planes
