"""Secure aggregation: fixed-point numbers, masks and neighbourhoods, which both sides share."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.supercore.primitives.asymmetric import bytes_to_public_key
from numpy.typing import NDArray

from wordflock.errors import WordflockError

STEP = 2.0**-24  # of the fixed-point numbers; whatever the clients, the total of their numbers stays below 2.7e11
MIN_CLIENTS = 3  # clients: of two, each could take its own numbers off the total
NEIGHBOURS = 20  # of a client, at most; with a few more clients than that everyone is everyone's neighbour
STATE = "secure-sum"
Numbers = NDArray[np.uint64]


def threshold(group: int) -> int:
    """How many of a client's neighbourhood (with itself) must be left for its masks to be taken off: two thirds.

    More than half, so that there are not enough for both of a client's secrets, which together bare its numbers.
    """
    return math.ceil(2 * group / 3)


def neighbourhoods(numbers: Sequence[int]) -> dict[int, list[int]]:
    """Each client's neighbours on a ring, and itself."""
    side, ring = NEIGHBOURS // 2, sorted(numbers)
    if len(ring) <= NEIGHBOURS + 1:
        return dict.fromkeys(ring, ring)
    return {
        number: sorted(ring[(place + step) % len(ring)] for step in range(-side, side + 1))
        for place, number in enumerate(ring)
    }


def to_fixed_point(vector: NDArray[np.float64], clients: int) -> Numbers:
    """Fixed-point numbers modulo 2⁶⁴. Raises WordflockError where the total of so many clients could wrap around."""
    steps = np.rint(vector / STEP)
    if not (np.abs(steps) < 2.0**62 / clients).all():
        raise WordflockError("These numbers are too large for secure aggregation.")
    return steps.astype(np.int64).view(np.uint64)


def from_fixed_point(total: Numbers) -> NDArray[np.float64]:
    """The numbers that fixed-point numbers stand for."""
    return np.asarray(total.view(np.int64) * STEP, dtype=np.float64)


def mask(secret: bytes, length: int) -> Numbers:
    """ChaCha20's key stream; a secret makes one mask only, so the nonce may be zero."""
    stream = Cipher(algorithms.ChaCha20(secret, bytes(16)), None).encryptor().update(bytes(8 * length))
    return np.frombuffer(stream, dtype="<u8").astype(np.uint64)


def pair_secret(own: ec.EllipticCurvePrivateKey, theirs: bytes) -> bytes:
    return base64.urlsafe_b64decode(generate_shared_key(own, bytes_to_public_key(theirs)))


def reply_with(message: Message, values: dict[str, Any]) -> Message:
    return Message(RecordDict({"secure": ConfigRecord(values)}), reply_to=message)


def list_of(letter: RecordDict, key: str) -> list[int]:
    return list(cast(list[int], letter.config_records["secure"][key]))
