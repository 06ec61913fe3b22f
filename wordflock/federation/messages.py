"""What travels between server and clients: a head's weights, a few numbers about them, and a few words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[np.float32]]


def content(weights: Mapping[str, NDArray[np.number]] | None = None, **metrics: float) -> RecordDict:
    """The content of a message: weights under "arrays" and numbers under "metrics", each where there are any."""
    records: dict[str, ArrayRecord | MetricRecord] = {}
    if weights is not None:
        records["arrays"] = to_record(weights)
    if metrics:
        records["metrics"] = MetricRecord({key.replace("_", "-"): value for key, value in metrics.items()})
    return RecordDict(dict(records))


def to_record(weights: Mapping[str, NDArray[np.number]]) -> ArrayRecord:
    """Weights as they travel."""
    return ArrayRecord({name: Array(array) for name, array in weights.items()})


def weights_of(message: Message) -> dict[str, NDArray[np.float32]]:
    """The weights in a message. Raises KeyError or ValueError where there are none that can be read."""
    return {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}


def half_update(trained: Weights, received: Weights) -> dict[str, NDArray[np.float16]]:
    """What training changed, in half the bytes: a change is small, and float16 keeps three digits of it."""
    return {name: (trained[name] - received[name]).astype(np.float16) for name in trained}


def widen(message: Message, weights: Weights) -> None:
    """Turn the half update in a message, if it is one, into the head that it makes of the `weights` sent out."""
    try:
        update = weights_of(message)
    except (KeyError, TypeError, ValueError, AttributeError):
        return  # no head at all, which check_reply says
    shapes = {name: (np.dtype(np.float16), array.shape) for name, array in weights.items()}
    if {name: (array.dtype, array.shape) for name, array in update.items()} == shapes:
        whole = {name: (weights[name] + update[name]).astype(np.float32) for name in weights}
        message.content["arrays"] = to_record(whole)


def metric(message: Message, key: str) -> float:
    """One of the numbers in a message. Raises KeyError or TypeError where it is missing or no number."""
    value = message.content.metric_records["metrics"][key]
    if isinstance(value, list):
        raise TypeError(f"{key} is a list")
    return value


def task_record(labels: list[str]) -> ConfigRecord:
    """What all clients must agree on: the task's labels, in the order of the head's outputs."""
    return ConfigRecord({"labels": labels})


def labels_of(message: Message) -> list[str]:
    """The labels that the server teaches."""
    labels = message.content.config_records["config"]["labels"]
    assert isinstance(labels, list)
    return [str(label) for label in labels]


def words_of(message: Message, key: str) -> str:
    """A text that a client says about itself, without what could garble a terminal; empty where it says none."""
    record = message.content.config_records.get("about")
    value = record.get(key, "") if record is not None else ""
    return "".join(c for c in value if c.isprintable())[:80] if isinstance(value, str) else ""


def payload_bytes(message: Message) -> int:
    """The size of the weights in a message."""
    return sum(len(array.data) for array in message.content.array_records["arrays"].values())
