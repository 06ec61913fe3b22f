"""What travels between server and clients: a head's weights, and a few numbers about them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[np.float32]]


def content(weights: Weights | None = None, **metrics: float) -> RecordDict:
    """The content of a message: weights under "arrays" and numbers under "metrics", each where there are any."""
    records: dict[str, ArrayRecord | MetricRecord] = {}
    if weights is not None:
        records["arrays"] = to_record(weights)
    if metrics:
        records["metrics"] = MetricRecord({key.replace("_", "-"): value for key, value in metrics.items()})
    return RecordDict(dict(records))


def to_record(weights: Weights) -> ArrayRecord:
    """Weights as they travel."""
    return ArrayRecord({name: Array(array) for name, array in weights.items()})


def weights_of(message: Message) -> dict[str, NDArray[np.float32]]:
    """The weights in a message. Raises KeyError or ValueError where there are none that can be read."""
    return {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}


def metric(message: Message, key: str) -> float:
    """One of the numbers in a message. Raises KeyError or TypeError where it is missing or no number."""
    value = message.content.metric_records["metrics"][key]
    if isinstance(value, list):
        raise TypeError(f"{key} is a list")
    return value


def payload_bytes(message: Message) -> int:
    """The size of the weights in a message."""
    return sum(len(array.data) for array in message.content.array_records["arrays"].values())
