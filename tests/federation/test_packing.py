"""Heads that travel packed are the same heads, to the bit; and what strangers send in their place is refused."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from flwr.app import Message, MessageType
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st
from made_up import FRAMES, LABELS, WIDTH

from wordflock.federation.in_process import in_process_grid
from wordflock.federation.messages import PACKED, content, pack_head, packed, payload_bytes, to_record, weights_of
from wordflock.federation.packing import MAX_BYTES, pack, packable, unpack
from wordflock.federation.roster import Client
from wordflock.federation.rounds import update_reader
from wordflock.federation.wire import MalformedMessage
from wordflock.head.checkpoint import get_weights
from wordflock.head.torch_head import build_head

CLIENT = Client(0, 2, 5, 0, 0.0, "", "")
SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=5)


@given(kind=st.sampled_from(["float32", "float16"]), shapes=SHAPES, seed=st.integers(0, 99))
def test_what_is_unpacked_is_what_was_packed(kind, shapes, seed):
    generator = np.random.default_rng(seed)
    any_bits = {
        f"{place}.weight": generator.integers(0, 256, (*shape, np.dtype(kind).itemsize), dtype=np.uint8)
        for place, shape in enumerate(shapes)
    }
    arrays = {name: bits.view(kind)[..., 0] for name, bits in any_bits.items()}  # with NaNs of every kind
    assert packable(arrays)
    back = unpack(pack(arrays))
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("kind", ["float64", "uint64"])
def test_sums_are_not_packed(kind):
    letter = content({"statistics": np.ones(9, kind)})
    pack_head(letter)
    assert not packed(letter)
    assert not packable({"a": np.ones(3, np.float32), "b": np.ones(3, np.float16)})


def heading(kind="float32", shapes=None) -> bytes:
    return json.dumps({"kind": kind, "shapes": shapes or {"a": [4]}}).encode() + b"\n"


@pytest.mark.parametrize(
    "bytes_",
    [
        b"",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"{}\n",
        b'{"kind": "float32", "shapes": [1]}\n' + zlib.compress(bytes(4)),
        heading() + b"no zlib",
        heading() + zlib.compress(bytes(16))[:-2],
        heading() + zlib.compress(bytes(15)),
        heading() + zlib.compress(bytes(MAX_BYTES)),  # far more than it says
        heading("object") + zlib.compress(bytes(32)),
        heading(shapes={"a": [MAX_BYTES]}) + zlib.compress(bytes(16)),
        heading(shapes={"a": [-1, -4]}) + zlib.compress(bytes(16)),
        heading(shapes={"a": [4.0]}) + zlib.compress(bytes(16)),
    ],
)
def test_nonsense_is_refused_like_any_other_head_that_is_none(bytes_):
    nonsense = np.frombuffer(bytes_, np.uint8)
    with pytest.raises(MalformedMessage, match="sent a packed head"):
        unpack(nonsense)
    with in_process_grid(ClientApp(), 1, {}, 1):
        reply = Message(content({PACKED: nonsense}, num_examples=5, loss=0.1), 2, MessageType.TRAIN)
        with pytest.raises(MalformedMessage, match="sent a packed head"):
            update_reader({"a": np.zeros(4, np.float32)})(CLIENT, reply)


def test_a_packed_head_is_checked_as_any_other():
    weights = get_weights(build_head("attentive", FRAMES, WIDTH, len(LABELS), seed=0))
    with in_process_grid(ClientApp(), 1, {}, 1):
        replies = [Message(content(weights, num_examples=5, loss=0.1), 2, MessageType.TRAIN) for _ in range(2)]
    plain, small = replies
    pack_head(small.content)
    pack_head(small.content)  # which changes nothing any more
    assert packed(small.content) and not packed(plain.content)
    assert payload_bytes(small) < payload_bytes(plain)
    assert {n: a.tobytes() for n, a in weights_of(small).items()} == {n: a.tobytes() for n, a in weights.items()}
    for reply in replies:
        assert update_reader(weights)(CLIENT, reply).norm == 0
    small.content["arrays"] = to_record({PACKED: pack({**weights, "output.bias": np.full(len(LABELS), np.nan, "f4")})})
    with pytest.raises(MalformedMessage, match="not finite"):
        update_reader(weights)(CLIENT, small)
