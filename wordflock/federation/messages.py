"""What travels between server and clients: a head's weights, a few numbers about them, and a few words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SType
from numpy.typing import NDArray

from wordflock.federation.packing import pack, packable, unpack

Weights = Mapping[str, NDArray[np.float32]]
Kind = TypeVar("Kind", ArrayRecord, ConfigRecord, MetricRecord)
Filled = TypeVar("Filled", ArrayRecord, MetricRecord, RecordDict)
PACKED = "packed"  # the one array of a packed head
NPY = b"\x93NUMPY\x01\x00"  # how numpy's own format begins, in its version 1.0


def content(weights: Mapping[str, NDArray[np.number]] | None = None, **metrics: float) -> RecordDict:
    """The content of a message: weights under "arrays" and numbers under "metrics", each where there are any."""
    records: dict[str, ArrayRecord | MetricRecord] = {}
    if weights is not None:
        records["arrays"] = to_record(weights)
    if metrics:
        numbers = {
            key.replace("_", "-"): value if type(value) is int else float(value) for key, value in metrics.items()
        }
        records["metrics"] = _filled(MetricRecord(), numbers)
    return _filled(RecordDict(), records)


def to_record(weights: Mapping[str, NDArray[np.number]]) -> ArrayRecord:
    """Weights as they travel."""
    return _filled(ArrayRecord(), {name: _encoded(array) for name, array in weights.items()})


def weights_of(message: Message) -> dict[str, NDArray[np.float32]]:
    """The weights in a message, read-only. Raises KeyError or ValueError where there are none that can be read."""
    arrays = {name: _decoded(array) for name, array in _record(message, "arrays", ArrayRecord).items()}
    return unpack(arrays[PACKED]) if PACKED in arrays else arrays


def packed(content: RecordDict) -> bool:
    """Whether the weights in it, where there are any, are packed for a journey."""
    record = content.get("arrays")
    return isinstance(record, ArrayRecord) and PACKED in record


def pack_head(content: RecordDict) -> None:
    """Pack the weights in it for a journey, if they are those of a head; anything else stays as it is."""
    record = content.get("arrays")
    if isinstance(record, ArrayRecord) and PACKED not in record:
        arrays = {name: _decoded(array) for name, array in record.items()}
        if packable(arrays):
            content["arrays"] = to_record({PACKED: pack(arrays)})


def _filled(record: Filled, items: Mapping[str, Any]) -> Filled:
    """An empty record with items that are of the right types: to find that out, it takes 3 µs for each."""
    vars(record)["_data"].update(items)
    return record


def _encoded(array: NDArray[np.number]) -> Array:
    """What `Array.from_numpy_ndarray` makes, to the byte, with one copy in place of three: sums are 20 MB a client."""
    numbers = np.asarray(array, order="C")
    dtype, header = _written_header(numbers.dtype, numbers.shape)
    made = Array.__new__(Array)  # its constructor first finds out which of three things it was given: longer than this
    vars(made).update(dtype=dtype, shape=numbers.shape, stype=SType.NUMPY, data=b"".join((header, numbers.data)))
    return made


@lru_cache
def _written_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[str, bytes]:
    """The type's name, and how the bytes begin."""
    header = BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    return str(dtype), header.getvalue()


def _decoded(array: Array) -> NDArray[np.float32]:
    """What `array.numpy()` returns, without a copy, and without reading a header that was read before."""
    data = array.data
    if array.stype != SType.NUMPY or data[:8] != NPY:
        return array.numpy()
    end = 10 + int.from_bytes(data[8:10], "little")
    shape, fortran, dtype, size = _header(data[8:end])
    if len(data) - end < size:
        raise ValueError("an array is cut short")
    return np.ndarray(shape, dtype, data, end, order="F" if fortran else "C")


@lru_cache
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """The shape, whether columns come first, the type, and how many bytes there must be."""
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(BytesIO(header))
    if dtype.hasobject:
        raise ValueError("an array holds objects")
    return shape, fortran, dtype, math.prod(shape) * dtype.itemsize


def float16_delta(trained: Weights, received: Weights) -> dict[str, NDArray[np.float16]]:
    """What training changed, in half the bytes: a change is small, and float16 keeps three digits of it."""
    return {name: (trained[name] - received[name]).astype(np.float16) for name in trained}


def apply_delta(head: Weights, weights: Weights) -> Weights:
    """The head that a half update, if it is one, makes of the `weights` sent out; any other is left as it is."""
    if any(array.dtype != np.float16 for array in head.values()):
        return head
    if {name: array.shape for name, array in head.items()} != {name: array.shape for name, array in weights.items()}:
        return head
    return {name: (weights[name] + head[name]).astype(np.float32) for name in weights}


def metric(message: Message, key: str) -> float:
    """One of the numbers in a message. Raises KeyError or TypeError where it is missing or no number."""
    value = _record(message, "metrics", MetricRecord)[key]
    if isinstance(value, list):
        raise TypeError(f"{key} is a list")
    return value


def add_metrics(message: Message, **metrics: float) -> None:
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
    """The labels that the server teaches."""
    labels = config_of(message)["labels"]
    assert isinstance(labels, list)
    return [str(label) for label in labels]


def words_of(message: Message, key: str) -> str:
    """A text that a client says about itself, without what could garble a terminal; empty where it says none."""
    record = message.content.get("about")
    value = record.get(key, "") if isinstance(record, ConfigRecord) else ""
    return printable(value, 80) if isinstance(value, str) else ""


def failure_of(reply: Message) -> str:
    """Why a client failed, in its own words."""
    return f"failed: {printable(reply.error.reason)}"


def printable(text: object, most: int = 200) -> str:
    """What came from the network, without what could garble a terminal, and no longer than a line or two."""
    return "".join(c for c in str(text) if c.isprintable())[:most]


def payload_bytes(message: Message) -> int:
    """The size of the weights in a message, and of the keys and shares of a secure sum."""
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
    record = message.content[name]
    if not isinstance(record, kind):
        raise KeyError(name)
    return record
