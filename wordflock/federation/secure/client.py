"""Secure aggregation, the client's side: keys, shares, masked numbers, unmasking."""

from __future__ import annotations

import hashlib
import os
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.common.secure_aggregation.crypto.shamir import create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat, share_keys_plaintext_separate
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)
from numpy.typing import NDArray

from wordflock.errors import WordflockError
from wordflock.federation.messages import content
from wordflock.federation.secure.masking import (
    MIN_CLIENTS,
    STATE,
    list_of,
    mask,
    pair_secret,
    reply_with,
    to_fixed_point,
)


def make_keys(message: Message, context: Context) -> Message:
    """A client's first answer: two public keys, one for masks and one for letters to its neighbours."""
    (mask_key, mask_public), (cipher_key, cipher_public) = generate_key_pairs(), generate_key_pairs()
    public = {"mask-key": public_key_to_bytes(mask_public), "cipher-key": public_key_to_bytes(cipher_public)}
    context.state[STATE] = ConfigRecord(
        {**public, "mask-private": private_key_to_bytes(mask_key), "cipher-private": private_key_to_bytes(cipher_key)}
    )
    return reply_with(message, public)


def share_secrets(message: Message, context: Context, number: int) -> Message:
    """The second: shares of its two secrets, each encrypted for the neighbour that is to keep it.

    Raises WordflockError where the neighbourhood that the server names is none to be safe in.
    """
    state, sent = _state(context, "mask-key"), message.content.config_records["secure"]
    group, need = list_of(message.content, "group"), cast(int, sent["threshold"])
    mask_keys, cipher_keys = cast(list[bytes], sent["mask_keys"]), cast(list[bytes], sent["cipher_keys"])
    if len(group) < MIN_CLIENTS or len(set(group)) != len(group) or number not in group or 2 * need <= len(group):
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
    return reply_with(message, {"to": to, "shares": letters, "seed-hash": hashlib.sha256(seed).digest()})


def masked(message: Message, context: Context, number: int, vector: NDArray[np.float64]) -> Message:
    """The third: its numbers, masked, and whose letters it cannot read.

    Those neighbours' masks need no letter: the server decides whether enough others can read theirs. Raises
    WordflockError where the server leaves too few neighbours.
    """
    state, sent = _state(context, "seed"), message.content.config_records["secure"]
    group, need = cast(list[int], state["group"]), cast(int, state["threshold"])
    there, letters = list_of(message.content, "from"), cast(list[bytes], sent["shares"])
    if not set(there) < set(group) or number in there or len(set(there)) + 1 < need:
        raise WordflockError("too few neighbours are left")
    cipher = bytes_to_private_key(cast(bytes, state["cipher-private"]))
    own = bytes_to_private_key(cast(bytes, state["mask-private"]))
    seed_share, key_share = cast(list[bytes], state["own"])
    kept = {number: (seed_share, key_share)}
    numbers = to_fixed_point(vector, cast(int, state["clients"])) + mask(cast(bytes, state["seed"]), len(vector))
    for neighbour, letter in zip(there, letters, strict=True):
        place = group.index(neighbour)
        public = bytes_to_public_key(cast(list[bytes], state["cipher-keys"])[place])
        if shares := _opened(letter, generate_shared_key(cipher, public), neighbour, number):
            kept[neighbour] = shares
        pair = mask(pair_secret(own, cast(list[bytes], state["mask-keys"])[place]), len(vector))
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
    reply = Message(content({"masked": numbers}), reply_to=message)
    reply.content["secure"] = ConfigRecord({"unreadable": [neighbour for neighbour in there if neighbour not in kept]})
    return reply


def unmask(message: Message, context: Context, number: int) -> Message:
    """The last: its shares of the masks of neighbours that are there, and of the keys of those that are gone.

    Never both of one, and never twice: that would bare a neighbour's numbers. Raises WordflockError where it is asked.
    """
    state = _state(context, "kept")
    there, gone = (list_of(message.content, key) for key in ("there", "gone"))
    kept = cast(list[int], state["kept"])
    del context.state[STATE]
    wanted = {*there, *gone}
    if len(wanted) != len(there) + len(gone) or not wanted <= set(kept) or number not in there:
        raise WordflockError("the server asks for more shares than unmasking needs")
    if len(there) < cast(int, state["threshold"]):
        raise WordflockError("too few neighbours are left")
    shares = [cast(list[bytes], state["seed-shares"])[kept.index(n)] for n in there]
    shares += [cast(list[bytes], state["key-shares"])[kept.index(n)] for n in gone]
    return reply_with(message, {"of": [*there, *gone], "shares": shares})


def _opened(letter: bytes, key: bytes, neighbour: int, number: int) -> tuple[bytes, bytes] | None:
    """The two shares in a neighbour's letter; None where it cannot be read, or is another's."""
    try:
        sender, receiver, *shares = share_keys_plaintext_separate(decrypt(key, letter))
    except Exception:  # whatever a stranger's bytes make Flower raise
        return None
    return (shares[0], shares[1]) if (sender, receiver) == (neighbour, number) else None


def _state(context: Context, needs: str) -> dict[str, Any]:
    record = context.state.config_records.get(STATE)
    if record is None or needs not in record:
        raise WordflockError("this comes out of turn")
    return dict(record)
