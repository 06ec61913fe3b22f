"""Named arrays: are two sets alike in names and shapes or in all, and one vector made of several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Shapes = dict[str, tuple[int, ...]]


class Shaped(Protocol):
    """An array of numpy, or a tensor of torch."""

    @property
    def shape(self) -> Any:
        """Its sizes."""
        ...


def shapes_of(arrays: Mapping[str, Shaped]) -> Shapes:
    """The shapes of named arrays."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def same_shapes(one: Mapping[str, Shaped], other: Mapping[str, Shaped]) -> bool:
    """Whether both have the same names with the same shapes."""
    return shapes_of(one) == shapes_of(other)


def equal(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> bool:
    """Whether both have the same names with the same arrays."""
    return one.keys() == other.keys() and all(np.array_equal(array, other[name]) for name, array in one.items())


def flatten(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Arrays as one vector, one after the other."""
    return np.concatenate([array.astype(np.float64).ravel() for array in arrays.values()])


def unflatten(vector: NDArray[np.float64], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float64]]:
    """The arrays of the given shapes that `flatten` made a vector of."""
    cuts = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    parts = np.split(vector, cuts)
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
