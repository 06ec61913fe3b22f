"""Secure aggregation, the server's side: it learns the total of the clients' numbers and nothing else.

Every client adds to its numbers a mask for each of its neighbours, which the neighbour subtracts from its own, and one
mask that is its alone; the server adds up what it gets, and asks the clients that are left for what removes the rest.
Bonawitz et al. 2017 (doi 10.1145/3133956.3133982), on a ring of neighbours as in Bell et al. 2020 (eprint 2020/704);
four messages a client: keys, shares, masked, unmask. Secure against a server that is curious but keeps to the protocol,
together with fewer than a third of any client's neighbours.

Key exchange, encryption and secret sharing are Flower's. Its pseudo-random numbers are not used: they come from 32 bits
of the shared key (`pseudo_rand_gen`), which can be tried out. The masks are ChaCha20's key stream under all 256 bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes
from numpy.typing import NDArray

from wordflock.errors import WordflockError
from wordflock.federation.asking import Conversation
from wordflock.federation.messages import numbers_of, secret_of, secrets_of, weights_of
from wordflock.federation.roster import Client
from wordflock.federation.secure.masking import (
    MIN_CLIENTS,
    Numbers,
    from_fixed_point,
    mask,
    neighbourhoods,
    pair_secret,
    threshold,
)
from wordflock.federation.wire import MalformedMessage

MAX_KEY, MAX_SHARE, HASH = 1024, 4096, 32  # bytes
MAX_LIARS = 2  # of those who send shares of a secret, which is found all the same
Read = TypeVar("Read")
Keys = dict[int, tuple[bytes, bytes]]  # of clients: for masks, and for letters


def secure_total(
    conversation: Conversation, clients: Sequence[Client], what: str, request: RecordDict, length: int
) -> tuple[NDArray[np.float64], list[Client]]:
    """The total of the vectors `what`, `length` numbers each, that clients make of the `request`, and whose it is.

    Clients that drop out are refused. Where one gave away shares of its secrets that do not unmask the total, it is
    refused as well, and the others are asked once more. Raises WordflockError where too few are left.
    """
    while True:
        ring = _Ring(conversation, {client.number: client for client in clients}, request)
        try:
            ring.exchange_keys()
            shared = ring.share_secrets()
            total, masked = ring.add_masked(what, length, shared)
            ring.unmask(total, masked, shared)
            return from_fixed_point(total), [ring.clients[number] for number in sorted(masked)]
        except _Spoiled as spoiled:
            conversation.refuse(ring.clients[spoiled.number], f"{spoiled.problem}; the others begin once more")
            clients = [client for client in clients if client.number not in conversation.refused]


class _Spoiled(Exception):
    """A client's shares do not give its secrets, so the total cannot be unmasked with it."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(problem)
        self.number, self.problem = number, problem


@dataclass(frozen=True)
class _Shared:
    """What clients gave away of their secrets."""

    letters: dict[int, dict[int, bytes]]  # to a client, from its neighbours
    hashes: dict[int, bytes]  # of a client's own mask's seed; those in it shared their secrets
    unreadable: dict[int, set[int]]  # to a client, from those neighbours it says


class _Ring:
    """The clients of one total, each with its neighbours, through the four stages."""

    def __init__(self, conversation: Conversation, clients: Mapping[int, Client], request: RecordDict) -> None:
        self.conversation, self.clients, self.request = conversation, clients, request
        self.keys: Keys = {}
        self.groups: dict[int, list[int]] = {}

    def exchange_keys(self) -> None:
        """The first stage: each client's two public keys, of which none may be another's; and so the neighbours."""
        for number, pair in self._ask("keys", dict.fromkeys(self.clients, self._config()), _read_keys):
            self.keys[number] = pair
        holders: dict[bytes, list[int]] = {}
        for number, pair in self.keys.items():
            for key in pair:
                holders.setdefault(key, []).append(number)
        for number in sorted({n for several in holders.values() if len(several) > 1 for n in several}):
            self.conversation.refuse(self.clients[number], "sent a public key that is another's too")
            del self.keys[number]
        _require(len(self.keys), MIN_CLIENTS)
        self.groups = neighbourhoods(list(self.keys))

    def share_secrets(self) -> _Shared:
        """The second: of each client an encrypted share of its secrets for each neighbour."""
        requests = {
            number: self._config(
                clients=len(self.keys),
                threshold=threshold(len(group)),
                group=group,
                mask_keys=[self.keys[n][0] for n in group],
                cipher_keys=[self.keys[n][1] for n in group],
            )
            for number, group in self.groups.items()
        }

        def read(client: Client, reply: Message) -> tuple[list[tuple[int, bytes]], bytes]:
            letters = secrets_of(reply, "to", "shares", MAX_SHARE)
            if sorted(to for to, _ in letters) != [n for n in self.groups[client.number] if n != client.number]:
                raise MalformedMessage("sent shares that are not for its neighbours")
            return letters, secret_of(reply, "seed-hash", HASH)

        shared = _Shared({number: {} for number in self.groups}, {}, {})
        for number, (letters, digest) in self._ask("shares", requests, read):
            shared.hashes[number] = digest
            for receiver, share in letters:
                shared.letters[receiver][number] = share
        return shared

    def add_masked(self, what: str, length: int, shared: _Shared) -> tuple[Numbers, set[int]]:
        """The third: the sum of the clients' masked numbers, added as they come, and who is in it."""
        requests = {}
        for number in sorted(shared.hashes):
            there = [n for n in self.groups[number] if n in shared.hashes and n != number]
            _require(len(there) + 1, threshold(len(self.groups[number])))
            letters = [shared.letters[number][n] for n in there]
            requests[number] = RecordDict(dict(self.request.items()))
            requests[number]["secure"] = ConfigRecord(
                {"what": what, "from": there, "shares": letters, "clients": len(self.keys)}
            )

        def read(client: Client, reply: Message) -> tuple[Numbers, set[int]]:
            numbers: NDArray[Any] | None = weights_of(reply).get("masked")
            if numbers is None or numbers.shape != (length,) or numbers.dtype != np.uint64:
                raise MalformedMessage(f"sent masked numbers that are not {length} of uint64")
            return numbers, set(numbers_of(reply, "unreadable")) - {client.number}

        total, masked = np.zeros(length, dtype=np.uint64), set[int]()
        for number, (numbers, unreadable) in self._ask("masked", requests, read):
            total += numbers
            masked.add(number)
            shared.unreadable[number] = unreadable
        _require(len(masked), MIN_CLIENTS)
        return total, masked

    def unmask(self, total: Numbers, masked: set[int], shared: _Shared) -> None:
        """The last: remove the masks from the total, by the shares of those who are in it."""
        shares = self._gather_shares(masked, shared)
        for number in sorted(shared.hashes):
            need = threshold(len(self.groups[number]))
            unread = sum(number in shared.unreadable[n] for n in masked)
            if len(shares[number]) < need <= len(shares[number]) + unread:
                raise _Spoiled(number, f"sent shares of its secrets that {unread} of its neighbours cannot read")
            _require(len(shares[number]), need)
            secret = _secret(shares[number], need, partial(self._fits, number, shared if number in masked else None))
            if secret is None:
                raise _Spoiled(number, "sent shares of its secrets that do not fit")
            if number in masked:
                total -= mask(secret, len(total))
            else:
                self._remove_pairs(total, number, secret, masked)

    def _fits(self, number: int, shared: _Shared | None, secret: bytes) -> bool:
        """Whether this is the seed of a client's own mask, or without `shared` its key for masks with neighbours."""
        if shared is not None:
            return hashlib.sha256(secret).digest() == shared.hashes[number]
        return _public_key(secret) == self.keys[number][0]

    def _gather_shares(self, masked: set[int], shared: _Shared) -> dict[int, list[bytes]]:
        """Shares of the masks of clients that are in the total, and of the keys of those that are gone.

        A client is not asked for shares that it could not read, nor at all where it would be left with too few.
        """
        wanted, requests = dict[int, list[int]](), {}
        for number in sorted(masked):
            group, need = self.groups[number], threshold(len(self.groups[number]))
            _require(len(masked.intersection(group)), need)
            there, gone = (
                [n for n in group if n in those and n not in shared.unreadable[number]]
                for those in (masked, shared.hashes.keys() - masked)
            )
            if len(there) >= need:
                wanted[number], requests[number] = [*there, *gone], self._config(there=there, gone=gone)

        def read(client: Client, reply: Message) -> list[tuple[int, bytes]]:
            got = secrets_of(reply, "of", "shares", MAX_SHARE)
            if [n for n, _ in got] != wanted[client.number]:
                raise MalformedMessage("sent other shares than it was asked for")
            return got

        shares: dict[int, list[bytes]] = {number: [] for number in shared.hashes}
        for _, got in self._ask("unmask", requests, read):
            for n, share in got:
                shares[n].append(share)
        return shares

    def _remove_pairs(self, total: Numbers, number: int, scalar: bytes, masked: set[int]) -> None:
        """Remove the masks that neighbours added for a client that is gone: with its key they can be made again."""
        for neighbour in (n for n in self.groups[number] if n in masked):
            pair = mask(pair_secret(_private_key(scalar), self.keys[neighbour][0]), len(total))
            total += pair if neighbour < number else -pair

    def _config(self, **values: Any) -> RecordDict:
        return RecordDict({"config": self.request["config"], "secure": ConfigRecord(values)})

    def _ask(
        self, stage: str, requests: Mapping[int, RecordDict], read: Callable[[Client, Message], Read]
    ) -> Iterator[tuple[int, Read]]:
        by_client = {self.clients[number]: request for number, request in requests.items()}
        for client, usable in self.conversation.ask(stage, by_client, read):
            yield client.number, usable


def _read_keys(client: Client, reply: Message) -> tuple[bytes, bytes]:
    """A client's public keys: points of the curve, in the one spelling that each has, so that none passes for two."""
    pair = secret_of(reply, "mask-key", MAX_KEY), secret_of(reply, "cipher-key", MAX_KEY)
    for key in pair:
        try:
            public = bytes_to_public_key(key)
            if not isinstance(public.curve, ec.SECP384R1) or public_key_to_bytes(public) != key:
                raise ValueError
        except Exception as error:  # whatever the parser raises
            raise MalformedMessage("sent a public key that is not a point of the curve") from error
    return pair


def _require(left: int, least: int) -> None:
    if left < least:
        raise WordflockError(
            f"{left} clients are left of the {least} that secure aggregation needs; nothing was learned."
        )


def _secret(shares: Sequence[bytes], need: int, fits: Callable[[bytes], bool]) -> bytes | None:
    """The secret of which these are shares, by any `need` of them, though up to MAX_LIARS are wrong; else None."""
    for liars in range(min(MAX_LIARS, len(shares) - need) + 1):
        for wrong in combinations(range(len(shares)), liars):
            try:
                secret = combine_shares([share for place, share in enumerate(shares) if place not in wrong][:need])
            except Exception:  # whatever a stranger's bytes make the library raise
                continue
            if fits(secret):
                return secret
    return None


def _private_key(scalar: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP384R1())


def _public_key(scalar: bytes) -> bytes | None:
    """The public key to a private one; None where it is none."""
    try:
        return public_key_to_bytes(_private_key(scalar).public_key())
    except ValueError:
        return None
