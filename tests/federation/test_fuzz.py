"""Whatever bytes and numbers a client sends, at every kind of message: it is refused, and nothing else happens."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.federation.in_process import in_process_grid
from wordflock.federation.messages import FIELDS, PACKED, content, metric, secret_of, secrets_of, to_record, weights_of
from wordflock.federation.packing import pack
from wordflock.federation.robust import update_reader
from wordflock.federation.roster import Client
from wordflock.federation.wire import DTYPES, MalformedMessage, decode, encode

MUTATIONS = 5000
CLIENT = Client(0, 2, 5, 0, 0.0, "", "")
HEAD = {"w": np.ones((3, 4), np.float32), "b": np.zeros(3, np.float32)}
ARRAYS = {
    "head": np.ones((3, 4), np.float32),
    "float16 delta": np.ones(7, np.float16),
    "statistics": np.linspace(0, 1, 10),
    "masked": np.arange(9, dtype=np.uint64),
    "packed": pack(HEAD),
}


@pytest.fixture(scope="module", autouse=True)
def grid():
    with in_process_grid(ClientApp(), 1, {}, 1):
        yield


def mutated(data: bytes, generator: random.Random) -> bytes:
    """The bytes with one to four of them changed, cut out or put in; early ones are changed more often."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        place = min(int(generator.expovariate(1 / 60)), len(changed)) if generator.random() < 0.8 else len(changed) // 2
        match generator.randrange(4):
            case 0:
                changed[place : place + 1] = bytes([generator.randrange(256)])
            case 1:
                del changed[place : place + generator.randint(1, 20)]
            case 2:
                changed[place:place] = generator.choice([b"(", b"9" * 30, b"\0", b"[", b"1e5", b"PK\3\4", b"-", b", "])
            case 3:
                changed[place : place + 8] = generator.randbytes(8)
    return bytes(changed)


def message(record: ArrayRecord, **numbers: Any) -> Message:
    made = content(num_examples=5, loss=0.5)
    made["arrays"] = record
    return Message(made, 2, "train")


def read(reading: Callable[[], Any]) -> bool:
    """Whether it could be read; anything but MalformedMessage fails the test."""
    try:
        reading()
    except MalformedMessage:
        return False
    return True


@pytest.mark.parametrize("kind", ARRAYS)
def test_bytes_of_arrays(kind):
    generator, whole, read_some = random.Random(0), encode(ARRAYS[kind]), 0
    name = PACKED if kind == "packed" else "w"
    for _ in range(MUTATIONS):
        array = Array(whole.dtype, whole.shape, whole.stype, mutated(whole.data, generator))
        sent = message(ArrayRecord({name: array}))
        read_some += read(lambda sent=sent: weights_of(sent))
        read(lambda sent=sent: update_reader(HEAD)(CLIENT, sent))
    assert read_some < MUTATIONS


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\3\4" + bytes(60),
        b"\x93NUMPY\1\0\x06\0[\n    ",
        b"\x93NUMPY\1\0\xff\xff{",
        b"\x93NUMPY\2\0" + encode(np.ones(3)).data[8:],
        encode(np.ones(3)).data.replace(b"(3,)", b"(1000000000000,)"),
        encode(np.ones(3)).data.replace(b"(3,)", b"(%d,)" % 10**30),
        encode(np.ones(3)).data.replace(b"<f8", b"|O8"),
        encode(np.ones(3)).data.replace(b"False", b"True "),
        encode(np.ones(3)).data[:-1],
        encode(np.ones(3)).data + b"\0",
        encode(np.ones(3, np.int64)).data,
        encode(np.ones(3, "c16")).data,
    ],
)
def test_other_formats_are_refused(data):
    with pytest.raises(MalformedMessage, match="sent an array"):
        decode(Array("float64", (3,), "numpy.ndarray", data))


@pytest.mark.parametrize("dtype", DTYPES.values())
@settings(max_examples=30)
@given(shape=st.lists(st.integers(0, 5), max_size=5))
def test_what_we_send_is_read(dtype, shape):
    array = np.ones(shape, dtype)
    came = decode(encode(array))
    assert came.dtype == array.dtype and came.shape == array.shape and (came == array).all()


@given(
    kind=st.one_of(st.sampled_from(["float32", "float16", "float64", None]), st.text(), st.lists(st.text())),
    shapes=st.one_of(
        st.dictionaries(st.text(), st.one_of(st.lists(st.one_of(st.integers(), st.floats(), st.none())), st.none())),
        st.lists(st.integers()),
        st.none(),
    ),
    size=st.integers(0, 100),
)
def test_headings_of_packed_heads(kind, shapes, size):
    packed = json.dumps({"kind": kind, "shapes": shapes}).encode() + b"\n" + zlib.compress(bytes(size))
    read(lambda: weights_of(message(to_record({PACKED: np.frombuffer(packed, np.uint8)}))))


VALUES = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), st.lists(st.integers(-5, 5)), st.lists(st.floats()))


@pytest.mark.parametrize("key", FIELDS)
@settings(max_examples=100)
@given(value=VALUES)
def test_numbers_have_a_type_and_a_range(key, value):
    sent = Message(RecordDict({"metrics": MetricRecord({key: value})}), 2, "train")
    if read(lambda: metric(sent, key)):
        assert type(value) is FIELDS[key].kind and FIELDS[key].low <= value <= FIELDS[key].high


SECRETS = st.one_of(
    st.binary(max_size=40), st.integers(-9, 9), st.text(max_size=5), st.floats(), st.booleans(),
    st.lists(st.binary(max_size=5), max_size=4), st.lists(st.integers(-9, 9), max_size=4), st.lists(st.floats()),
)  # fmt: skip


@settings(max_examples=100)
@given(record=st.dictionaries(st.sampled_from(["mask-key", "to", "of", "shares", "seed-hash"]), SECRETS))
def test_keys_and_shares(record):
    sent = Message(RecordDict({"secure": ConfigRecord(record)}), 2, "train")
    if read(lambda: secret_of(sent, "mask-key", 30)):
        assert isinstance(record["mask-key"], bytes) and len(record["mask-key"]) <= 30
    if read(lambda: secrets_of(sent, "to", "shares", 4)):
        assert all(isinstance(share, bytes) and len(share) <= 4 for share in record["shares"])


@pytest.mark.parametrize("name", ["arrays", "metrics", "secure"])
def test_a_record_of_another_kind_or_none_is_refused(name):
    for records in ({}, {name: ConfigRecord({"labels": ["a"]})}, {name: MetricRecord({"client": 1})}):
        sent = Message(RecordDict(dict(records)), 2, "train")
        assert not read(lambda sent=sent: weights_of(sent))
        assert not read(lambda sent=sent: update_reader(HEAD)(CLIENT, sent))
        assert not read(lambda sent=sent: secrets_of(sent, "to", "shares", 4))
