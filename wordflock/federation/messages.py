"""What travels between server and clients: a head's weights, a few numbers about them, and a few words.

Everything that a client sends is read here, with the type and the range that it must have; what has not raises
MalformedMessage, whatever bytes there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from wordflock.arrays import same_shapes
from wordflock.federation.packing import pack, packable, unpack
from wordflock.federation.wire import MalformedMessage, decode, encode, filled

Weights = Mapping[str, NDArray[np.float32]]
Kind = TypeVar("Kind", ArrayRecord, ConfigRecord, MetricRecord)
PACKED = "packed"  # the one array of a packed head
MAX_ARRAYS = 64  # of a message


@dataclass(frozen=True)
class Field:
    """The type and the range of a number that a client reports."""

    kind: type[int] | type[float]
    low: float
    high: float


FIELDS = {
    "client": Field(int, 0, 10**9),
    "num-examples": Field(int, 0, 10**7),  # clips; a year of speech
    "holdout": Field(int, 0, 10**7),  # clips
    "frames": Field(int, 1, 1500),  # of a clip
    "width": Field(int, 1, 10**5),
    "encode-seconds": Field(float, 0.0, 1e8),
    "seconds": Field(float, 0.0, 1e8),
    "peak-memory": Field(int, 0, 2**50),  # bytes
    "loss": Field(float, 0.0, 1e6),  # mean cross-entropy of a clip
    "accuracy": Field(float, 0.0, 1.0),
}


def content(weights: Mapping[str, NDArray[np.number]] | None = None, **metrics: float) -> RecordDict:
    """The content of a message: weights under "arrays" and numbers under "metrics", each where there are any."""
    records: dict[str, ArrayRecord | MetricRecord] = {}
    if weights is not None:
        records["arrays"] = to_record(weights)
    if metrics:
        numbers = {
            key.replace("_", "-"): value if type(value) is int else float(value) for key, value in metrics.items()
        }
        records["metrics"] = filled(MetricRecord(), numbers)
    return filled(RecordDict(), records)


def to_record(weights: Mapping[str, NDArray[np.number]]) -> ArrayRecord:
    """Weights as they travel."""
    return filled(ArrayRecord(), {name: encode(array) for name, array in weights.items()})


def weights_of(message: Message) -> dict[str, NDArray[Any]]:
    """The arrays in a message, read-only. Raises MalformedMessage where there are none that can be read."""
    record = _record(message, "arrays", ArrayRecord)
    if len(record) > MAX_ARRAYS:
        raise MalformedMessage(f"sent {len(record)} arrays")
    arrays = {name: decode(array) for name, array in record.items()}
    return unpack(arrays[PACKED]) if PACKED in arrays else arrays


def packed(content: RecordDict) -> bool:
    """Whether the weights in it, where there are any, are packed for a journey."""
    record = content.get("arrays")
    return isinstance(record, ArrayRecord) and PACKED in record


def pack_head(content: RecordDict) -> None:
    """Pack the weights in it for a journey, if they are those of a head; anything else stays as it is."""
    record = content.get("arrays")
    if isinstance(record, ArrayRecord) and PACKED not in record:
        arrays = {name: decode(array) for name, array in record.items()}
        if packable(arrays):
            content["arrays"] = to_record({PACKED: pack(arrays)})


def float16_delta(trained: Weights, received: Weights) -> dict[str, NDArray[np.float16]]:
    """What training changed, in half the bytes: a change is small, and float16 keeps three digits of it."""
    return {name: (trained[name] - received[name]).astype(np.float16) for name in trained}


def apply_delta(head: Mapping[str, NDArray[Any]], weights: Weights) -> Weights:
    """The head that a float16 delta, if it is one, makes of the `weights` sent out; any other is left as it is."""
    if any(array.dtype != np.float16 for array in head.values()) or not same_shapes(head, weights):
        return head
    return {name: (weights[name] + head[name]).astype(np.float32) for name in weights}


def metric(message: Message, key: str) -> float:
    """One of the numbers in a message, within its FIELDS. Raises MalformedMessage for any other value."""
    field, record = FIELDS[key], _record(message, "metrics", MetricRecord)
    value = record.get(key)
    if value is None:
        raise MalformedMessage(f"sent no {key}")
    if type(value) is not field.kind or not field.low <= value <= field.high:
        name = field.kind.__name__
        raise MalformedMessage(f"sent {key} {printable(value, 40)}, not {name} from {field.low:g} to {field.high:g}")
    return value


def whole(message: Message, key: str) -> int:
    """One of the whole numbers in a message. Raises MalformedMessage as `metric` does."""
    return int(metric(message, key))


def counts_of(message: Message, key: str, length: int) -> list[int] | None:
    """`length` counts of clips in a message; None where it has none. Raises MalformedMessage for anything else."""
    value, most = _record(message, "metrics", MetricRecord).get(key), int(FIELDS["num-examples"].high)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != length or not all(type(n) is int and 0 <= n <= most for n in value):
        raise MalformedMessage(f"sent {key} {printable(value, 40)}, not {length} counts from 0 to {most}")
    return [int(count) for count in value]


def add_metrics(message: Message, **metrics: float | list[int]) -> None:
    """Put further numbers into a message."""
    record = message.content.get("metrics", MetricRecord())
    assert isinstance(record, MetricRecord)
    message.content["metrics"] = record
    record.update({key.replace("_", "-"): value for key, value in metrics.items()})


def task_record(labels: list[str]) -> ConfigRecord:
    """What all clients must agree on: the task's labels, in the order of the head's outputs."""
    return ConfigRecord({"labels": labels})


def config_of(message: Message) -> ConfigRecord:
    """What the server wants of the client, besides the labels."""
    return _record(message, "config", ConfigRecord)


def labels_of(message: Message) -> list[str]:
    """The labels of the server's task."""
    labels = config_of(message)["labels"]
    assert isinstance(labels, list)
    return [str(label) for label in labels]


def text_of(message: Message, key: str) -> str:
    """A text that a client says about itself, without control characters; empty where it says none."""
    record = message.content.get("about")
    value = record.get(key, "") if isinstance(record, ConfigRecord) else ""
    return printable(value, 80) if isinstance(value, str) else ""


def secret_of(message: Message, key: str, most: int) -> bytes:
    """Bytes of secure aggregation, at most so many. Raises MalformedMessage where there are none or more."""
    value = _record(message, "secure", ConfigRecord).get(key)
    if not isinstance(value, bytes) or len(value) > most:
        raise MalformedMessage(f"sent no {key} of at most {most} bytes")
    return value


def secrets_of(message: Message, numbers: str, key: str, most: int) -> list[tuple[int, bytes]]:
    """Pairs of a client's number and bytes for it, at most so many each. Raises as `secret_of` does."""
    record = _record(message, "secure", ConfigRecord)
    clients, values = record.get(numbers), record.get(key)
    if not isinstance(clients, list) or not isinstance(values, list) or len(clients) != len(values):
        raise MalformedMessage(f"sent no {key}")
    pairs = []
    for client, value in zip(clients, values, strict=True):
        if type(client) is not int or not isinstance(value, bytes) or len(value) > most:
            raise MalformedMessage(f"sent no {key} of at most {most} bytes")
        pairs.append((client, value))
    return pairs


def numbers_of(message: Message, key: str) -> list[int]:
    """Numbers of clients. Raises MalformedMessage where there are none."""
    clients = _record(message, "secure", ConfigRecord).get(key)
    if not isinstance(clients, list) or not all(type(client) is int for client in clients):
        raise MalformedMessage(f"sent no {key}")
    return [int(client) for client in clients]


def failure_of(reply: Message) -> str:
    """Why a client failed, in its own words."""
    return f"failed: {printable(reply.error.reason)}"


def printable(text: object, most: int = 200) -> str:
    """What came from the network, without control characters, and no longer than a line or two."""
    return "".join(c for c in str(text)[: 10 * most] if c.isprintable())[:most]


def payload_bytes(message: Message) -> int:
    """The size of the weights in a message, and of the keys and shares of secure aggregation."""
    size = 0
    for record in message.content.values():
        if isinstance(record, ArrayRecord):
            size += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            several = (value if isinstance(value, list) else [value] for value in record.values())
            size += sum(len(value) for values in several for value in values if isinstance(value, bytes))
    return size


def _record(message: Message, name: str, kind: type[Kind]) -> Kind:
    """A record of a message. Flower's `array_records` and so on would copy all there are, for each number read."""
    record = message.content.get(name)
    if not isinstance(record, kind):
        raise MalformedMessage(f"sent no {name}")
    return record
