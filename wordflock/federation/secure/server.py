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

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.serverapp import Grid
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes
from numpy.typing import NDArray

from wordflock.errors import WordflockError
from wordflock.federation.asking import ask
from wordflock.federation.costs import Costs
from wordflock.federation.messages import weights_of
from wordflock.federation.roster import Client
from wordflock.federation.secure.masking import (
    MIN_CLIENTS,
    from_fixed_point,
    list_of,
    mask,
    neighbourhoods,
    pair_secret,
    threshold,
)

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
    _enough(len(keys), MIN_CLIENTS)
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
    _enough(len(masked), MIN_CLIENTS)

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
            if [n for n, _ in got] != [n for key in ("there", "gone") for n in list_of(requests[number], key)]:
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
            pair = mask(pair_secret(key, keys[neighbour][0]), length)
            total += pair if neighbour < number else -pair
    return SecureTotal(from_fixed_point(total), [by_number[n] for n in sorted(masked)])


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
