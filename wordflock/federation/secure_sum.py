"""Sums of which the server learns only the total.

Every client adds to its numbers a mask for each of its neighbours, which the neighbour takes off its own, and one mask
that is its alone; the server adds up what it gets, and asks the clients that are still there for what takes the rest
off. Bonawitz et al. 2017 (doi 10.1145/3133956.3133982), on a ring of neighbours as in Bell et al. 2020 (eprint
2020/704); four messages a client: keys, shares, masked, unmask. Holds against a server that is curious but keeps to the
protocol, together with fewer than a third of any client's neighbours.

Key exchange, encryption and secret sharing are Flower's. Its pseudo-random numbers are not used: they come from 32 bits
of the shared key (`pseudo_rand_gen`), which can be tried out. The masks are ChaCha20's key stream under all 256 bits.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat, share_keys_plaintext_separate
from flwr.serverapp import Grid
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)
from numpy.typing import NDArray

from wordflock.errors import WordflockError
from wordflock.federation.asking import ask
from wordflock.federation.costs import Costs
from wordflock.federation.messages import content, weights_of
from wordflock.federation.roster import Client

STEP = 2.0**-24  # of the fixed-point numbers; whatever the clients, the total of their numbers stays below 2.7e11
LEAST = 3  # clients: of two, each could take its own numbers off the total
NEIGHBOURS = 20  # of a client, at most; with a few more clients than that everyone is everyone's neighbour
STATE = "secure-sum"

Numbers = NDArray[np.uint64]
Refuse = Callable[[Client, str], None]


@dataclass(frozen=True)
class SecureTotal:
    """What the server learns."""

    total: NDArray[np.float64]
    clients: list[Client]  # whose numbers are in it


def secure_total(
    grid: Grid,
    clients: Sequence[Client],
    what: str,
    request: RecordDict,
    length: int,
    seconds: float,
    refuse: Refuse,
    costs: Costs,
) -> SecureTotal:
    """The total of the vectors `what`, `length` numbers each, that clients make of the `request`.

    `refuse` is told of clients that drop out, and what it costs each is added to `costs`. Raises WordflockError where
    too few are left for the total to be unmasked, and where one lied about its secrets so that it cannot be.
    """
    by_number = {client.number: client for client in clients}

    def asked(stage: str, requests: Mapping[int, RecordDict]) -> dict[int, Message]:
        came = ask(grid, stage, {by_number[n]: r for n, r in requests.items()}, seconds, refuse, costs)
        return {client.number: reply for client, reply in came}

    def with_config(**values: Any) -> RecordDict:
        return RecordDict({"config": request["config"], "secure": ConfigRecord(values)})

    keys = _public_keys(asked("keys", dict.fromkeys(by_number, with_config())), by_number, refuse)
    _enough(len(keys), LEAST)
    groups = neighbourhoods(list(keys))
    requests = {
        number: with_config(
            clients=len(keys),
            threshold=threshold(len(group)),
            group=group,
            mask_keys=[keys[n][0] for n in group],
            cipher_keys=[keys[n][1] for n in group],
        )
        for number, group in groups.items()
    }
    mailbox: dict[int, dict[int, bytes]] = {number: {} for number in groups}
    hashes: dict[int, bytes] = {}
    for number, reply in asked("shares", requests).items():
        try:
            sent = reply.content.config_records["secure"]
            to = list(zip(cast(list[int], sent["to"]), cast(list[bytes], sent["shares"]), strict=True))
            if sorted(receiver for receiver, _ in to) != [n for n in groups[number] if n != number]:
                raise ValueError("not for its neighbours")
            hashes[number] = cast(bytes, sent["seed-hash"])
        except (KeyError, TypeError, ValueError) as error:
            refuse(by_number[number], f"sent shares that are none ({error})")
            continue
        for receiver, share in to:
            mailbox[receiver][number] = share
    shared = set(hashes)

    requests = {}
    for number in sorted(shared):
        there = [n for n in groups[number] if n in shared and n != number]
        _enough(len(there) + 1, threshold(len(groups[number])))
        letter = RecordDict(dict(request.items()))
        letter["secure"] = ConfigRecord(
            {"what": what, "from": there, "shares": [mailbox[number][n] for n in there], "clients": len(keys)}
        )
        requests[number] = letter
    total, masked = np.zeros(length, dtype=np.uint64), set()
    # Added as they come, some clients at a time: the server never holds more than a few of them.
    for client, reply in ask(grid, "masked", {by_number[n]: r for n, r in requests.items()}, seconds, refuse, costs):
        try:
            numbers: NDArray[Any] = weights_of(reply)["masked"]
            if numbers.shape != (length,) or numbers.dtype != np.uint64:
                raise ValueError("of another shape")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            refuse(client, f"sent masked numbers that are {error}")
            continue
        total += numbers
        masked.add(client.number)
    _enough(len(masked), LEAST)

    requests = {}
    for number in sorted(masked):
        there, gone = ([n for n in groups[number] if n in some] for some in (masked, shared - masked))
        _enough(len(there), threshold(len(groups[number])))
        requests[number] = with_config(there=there, gone=gone)
    shares: dict[int, list[bytes]] = {number: [] for number in shared}
    for number, reply in asked("unmask", requests).items():
        try:
            sent = reply.content.config_records["secure"]
            got = list(zip(cast(list[int], sent["of"]), cast(list[bytes], sent["shares"]), strict=True))
            if [n for n, _ in got] != [n for key in ("there", "gone") for n in _list(requests[number], key)]:
                raise ValueError("not what it was asked for")
        except (KeyError, TypeError, ValueError) as error:
            refuse(by_number[number], f"sent shares that are none ({error})")
            continue
        for n, share in got:
            shares[n].append(share)
    for number in sorted(shared):
        need = threshold(len(groups[number]))
        _enough(len(shares[number]), need)
        secret = _combine(shares[number][:need])
        if number in masked:
            if hashlib.sha256(secret).digest() != hashes[number]:
                raise WordflockError(f"The shares of client {number}'s mask do not fit: some client lied about them.")
            total -= mask(secret, length)
            continue
        # Its neighbours' masks for it are still in the total; with its key they can be made, and taken off.
        key = _private_key(secret)
        if key is None or public_key_to_bytes(key.public_key()) != keys[number][0]:
            raise WordflockError(f"The shares of client {number}'s key do not fit: some client lied about them.")
        for neighbour in (n for n in groups[number] if n in masked):
            pair = mask(_pair_secret(key, keys[neighbour][0]), length)
            total += pair if neighbour < number else -pair
    return SecureTotal(decode(total), [by_number[n] for n in sorted(masked)])


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


def joined(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Arrays as one vector."""
    return np.concatenate([array.astype(np.float64).ravel() for array in arrays.values()])


def parted(vector: NDArray[np.float64], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float64]]:
    """The arrays of the given shapes that were joined to a vector."""
    cuts = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    parts = np.split(vector, cuts)
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def encode(vector: NDArray[np.float64], clients: int) -> Numbers:
    """Fixed-point numbers modulo 2⁶⁴. Raises WordflockError where the total of so many clients could wrap around."""
    steps = np.rint(vector / STEP)
    if not (np.abs(steps) < 2.0**62 / clients).all():
        raise WordflockError("These numbers are too large for secure sums.")
    return steps.astype(np.int64).view(np.uint64)


def decode(total: Numbers) -> NDArray[np.float64]:
    """The numbers that fixed-point numbers stand for."""
    return np.asarray(total.view(np.int64) * STEP, dtype=np.float64)


def mask(secret: bytes, length: int) -> Numbers:
    """ChaCha20's key stream; a secret makes one mask only, so the nonce may be zero."""
    stream = Cipher(algorithms.ChaCha20(secret, bytes(16)), None).encryptor().update(bytes(8 * length))
    return np.frombuffer(stream, dtype="<u8").astype(np.uint64)


def make_keys(message: Message, context: Context) -> Message:
    """A client's first answer: two public keys, one for masks and one for letters to its neighbours."""
    (mask_key, mask_public), (cipher_key, cipher_public) = generate_key_pairs(), generate_key_pairs()
    public = {"mask-key": public_key_to_bytes(mask_public), "cipher-key": public_key_to_bytes(cipher_public)}
    context.state[STATE] = ConfigRecord(
        {**public, "mask-private": private_key_to_bytes(mask_key), "cipher-private": private_key_to_bytes(cipher_key)}
    )
    return _reply(message, public)


def share_secrets(message: Message, context: Context, number: int) -> Message:
    """The second: shares of its two secrets, each encrypted for the neighbour that is to keep it.

    Raises WordflockError where the neighbourhood that the server names is none to be safe in.
    """
    state, sent = _state(context, "mask-key"), message.content.config_records["secure"]
    group, need = _list(message.content, "group"), cast(int, sent["threshold"])
    mask_keys, cipher_keys = cast(list[bytes], sent["mask_keys"]), cast(list[bytes], sent["cipher_keys"])
    if len(group) < LEAST or len(set(group)) != len(group) or number not in group or 2 * need <= len(group):
        raise WordflockError("the server names a neighbourhood that would protect nobody")
    if len({*mask_keys, *cipher_keys}) != 2 * len(group):
        raise WordflockError("two clients have the same key")
    place = group.index(number)
    if (mask_keys[place], cipher_keys[place]) != (state["mask-key"], state["cipher-key"]):
        raise WordflockError("the server passes a wrong key on as this client's own")
    seed = os.urandom(32)
    private = bytes_to_private_key(cast(bytes, state["mask-private"]))
    scalar = private.private_numbers().private_value.to_bytes(48, "big")
    seed_shares, key_shares = create_shares(seed, need, len(group)), create_shares(scalar, need, len(group))
    cipher = bytes_to_private_key(cast(bytes, state["cipher-private"]))
    to, letters = [], []
    for i, neighbour in enumerate(group):
        if neighbour != number:
            plain = share_keys_plaintext_concat(number, neighbour, seed_shares[i], key_shares[i])
            to.append(neighbour)
            letters.append(encrypt(generate_shared_key(cipher, bytes_to_public_key(cipher_keys[i])), plain))
    state |= {"group": group, "mask-keys": mask_keys, "cipher-keys": cipher_keys, "seed": seed, "threshold": need}
    state |= {"clients": cast(int, sent["clients"]), "own": [seed_shares[place], key_shares[place]]}
    context.state[STATE] = ConfigRecord(state)
    return _reply(message, {"to": to, "shares": letters, "seed-hash": hashlib.sha256(seed).digest()})


def masked(message: Message, context: Context, number: int, vector: NDArray[np.float64]) -> Message:
    """The third: its numbers, masked. Raises WordflockError where a neighbour's letter cannot be read."""
    state, sent = _state(context, "seed"), message.content.config_records["secure"]
    group, need = cast(list[int], state["group"]), cast(int, state["threshold"])
    there, letters = _list(message.content, "from"), cast(list[bytes], sent["shares"])
    if not set(there) < set(group) or number in there or len(set(there)) + 1 < need:
        raise WordflockError("too few neighbours are left")
    cipher = bytes_to_private_key(cast(bytes, state["cipher-private"]))
    own = bytes_to_private_key(cast(bytes, state["mask-private"]))
    seed_share, key_share = cast(list[bytes], state["own"])
    kept = {number: (seed_share, key_share)}
    numbers = encode(vector, cast(int, state["clients"])) + mask(cast(bytes, state["seed"]), len(vector))
    for neighbour, letter in zip(there, letters, strict=True):
        place = group.index(neighbour)
        public = bytes_to_public_key(cast(list[bytes], state["cipher-keys"])[place])
        try:
            sender, receiver, *both = share_keys_plaintext_separate(
                decrypt(generate_shared_key(cipher, public), letter)
            )
        except InvalidToken as error:
            raise WordflockError(f"the letter of client {neighbour} cannot be decrypted") from error
        if (sender, receiver) != (neighbour, number):
            raise WordflockError(f"the letter of client {neighbour} is another's")
        kept[neighbour] = (both[0], both[1])
        pair = mask(_pair_secret(own, cast(list[bytes], state["mask-keys"])[place]), len(vector))
        numbers += pair if neighbour < number else -pair
    # What is needed no more is not kept, so that it cannot be asked for either.
    context.state[STATE] = ConfigRecord(
        {
            "kept": sorted(kept),
            "seed-shares": [kept[n][0] for n in sorted(kept)],
            "key-shares": [kept[n][1] for n in sorted(kept)],
            "threshold": need,
        }
    )
    return Message(content({"masked": numbers}), reply_to=message)


def unmask(message: Message, context: Context, number: int) -> Message:
    """The last: its shares of the masks of neighbours that are there, and of the keys of those that are gone.

    Never both of one, and never twice: that would bare a neighbour's numbers. Raises WordflockError where it is asked.
    """
    state = _state(context, "kept")
    there, gone = (_list(message.content, key) for key in ("there", "gone"))
    kept = cast(list[int], state["kept"])
    del context.state[STATE]
    wanted = {*there, *gone}
    if len(wanted) != len(there) + len(gone) or not wanted <= set(kept) or number not in there:
        raise WordflockError("the server asks for more shares than unmasking needs")
    if len(there) < cast(int, state["threshold"]):
        raise WordflockError("too few neighbours are left")
    shares = [cast(list[bytes], state["seed-shares"])[kept.index(n)] for n in there]
    shares += [cast(list[bytes], state["key-shares"])[kept.index(n)] for n in gone]
    return _reply(message, {"of": [*there, *gone], "shares": shares})


def _public_keys(
    replies: Mapping[int, Message], clients: Mapping[int, Client], refuse: Refuse
) -> dict[int, tuple[bytes, bytes]]:
    """The keys of the clients whose keys can be any."""
    keys: dict[int, tuple[bytes, bytes]] = {}
    for number, reply in replies.items():
        try:
            sent = reply.content.config_records["secure"]
            pair = (cast(bytes, sent["mask-key"]), cast(bytes, sent["cipher-key"]))
            for key in pair:  # in one spelling, so that the same key cannot pass for two
                public = bytes_to_public_key(key)
                if not isinstance(public.curve, ec.SECP384R1) or public_key_to_bytes(public) != key:
                    raise ValueError
        except Exception:  # whatever the parser makes of a stranger's bytes
            refuse(clients[number], "sent a public key that is no point of the curve")
            continue
        keys[number] = pair
    holders: dict[bytes, list[int]] = {}
    for number, pair in keys.items():
        for key in pair:
            holders.setdefault(key, []).append(number)
    for number in sorted({n for several in holders.values() if len(several) > 1 for n in several}):
        refuse(clients[number], "sent a public key that is another's too")
        del keys[number]
    return keys


def _enough(left: int, least: int) -> None:
    if left < least:
        raise WordflockError(f"{left} clients are left of the {least} that a secure sum needs; nothing was learnt.")


def _combine(shares: list[bytes]) -> bytes:
    try:
        return combine_shares(shares)
    except ValueError:
        return b""


def _private_key(scalar: bytes) -> ec.EllipticCurvePrivateKey | None:
    try:
        return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP384R1())
    except ValueError:
        return None


def _pair_secret(own: ec.EllipticCurvePrivateKey, theirs: bytes) -> bytes:
    return base64.urlsafe_b64decode(generate_shared_key(own, bytes_to_public_key(theirs)))


def _reply(message: Message, values: dict[str, Any]) -> Message:
    return Message(RecordDict({"secure": ConfigRecord(values)}), reply_to=message)


def _list(letter: RecordDict, key: str) -> list[int]:
    return list(cast(list[int], letter.config_records["secure"][key]))


def _state(context: Context, needs: str) -> dict[str, Any]:
    record = context.state.config_records.get(STATE)
    if record is None or needs not in record:
        raise WordflockError("this comes out of turn")
    return dict(record)
