"""One round, closed form: clients send sums, and the server solves the head's last layer as if it had all clips.

Two messages a client: moments first (a few numbers a coordinate), from which the server makes the scale that all
standardise by, then the sums. Both are added as they come, some clients at a time, so that the server never holds more
than a few clients' sums, whatever their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from wordflock.checkpoint import get_weights
from wordflock.closed_form import Moments, Scale, Solution, Sums, solve
from wordflock.errors import WordflockError
from wordflock.federation.asking import ask
from wordflock.federation.messages import content, payload_bytes, task_record, weights_of
from wordflock.federation.roster import Client, Roster
from wordflock.federation.secure_sum import parted, secure_total
from wordflock.head import Head
from wordflock.settings import FederationSettings


@dataclass(frozen=True)
class ExactRound:
    """What came of it."""

    solution: Solution
    scale: Scale
    total: Sums
    clients: list[int]
    bytes_up: int  # a client
    problems: list[str]


def exact_round(
    grid: Grid,
    roster: Roster,
    settings: FederationSettings,
    head: Head,
    keep: Callable[[int, Sums], None] = lambda client, sums: None,
) -> ExactRound:
    """Ask all clients for moments, then for sums, and solve the last layer of the head. `keep` gets each client's sums.

    Raises WordflockError where fewer than --min-replies clients answer well.
    """
    weights = get_weights(head)
    size, labels = head.output.in_features, head.output.out_features
    problems: list[str] = []
    sizes: dict[int, int] = {}

    def asked(
        what: str, clients: Sequence[Client], arrays: dict[str, NDArray[Any]]
    ) -> Iterator[tuple[Client, Message]]:
        """The clients that answered, in the order of their numbers, and their answers."""
        request = content({**weights, **arrays})
        request["config"] = task_record(roster.prepared.task.labels)
        requests = dict.fromkeys(clients, request)
        for client, reply in ask(grid, what, requests, settings.round_deadline, refuse):
            sizes[client.number] = sizes.get(client.number, 0) + payload_bytes(reply)
            yield client, reply

    def refuse(client: Client, problem: str) -> None:
        problems.append(f"client {client} {problem}")
        print(f"exact: {problems[-1]}", flush=True)

    def done(scale: Scale, total: Sums, clients: Sequence[Client]) -> ExactRound:
        numbers = [client.number for client in clients]
        up = sum(sizes[number] for number in numbers) // len(numbers)
        return ExactRound(solve(total, scale), scale, total, numbers, up, problems)

    def enough(clients: Sequence[Client]) -> None:
        if len(clients) < settings.min_replies:
            raise WordflockError(f"{len(clients)} clients sent usable sums, and {settings.min_replies} are needed.")

    def securely(
        what: str, clients: Sequence[Client], arrays: dict[str, NDArray[Any]], shapes: dict[str, tuple[int, ...]]
    ) -> tuple[dict[str, NDArray[Any]], list[Client]]:
        """The total of the clients' arrays, with "counts" among them, and whose they are."""
        request = content({**weights, **arrays})
        request["config"] = task_record(roster.prepared.task.labels)
        length = sum(math.prod(shape) for shape in shapes.values())
        came = secure_total(grid, clients, what, request, length, settings.round_deadline, refuse)
        enough(came.clients)
        total = parted(came.total, shapes)
        if total["counts"].sum() != sum(client.clips for client in came.clients):
            raise WordflockError(f"The total of the {what} counts other clips than its clients have: some client lied.")
        for client in came.clients:
            sizes[client.number] = sizes.get(client.number, 0) + came.bytes_up
        return total, came.clients

    able = [roster.clients[number] for number in roster.able()]
    if settings.secure_sums:
        total, clients = securely("moments", able, {}, {"counts": (labels,), "total": (size,), "squares": (size,)})
        scale = Moments(**total).scale()
        shapes = {"triangle": ((size + 1) * (size + 2) // 2,), "cross": (size + 1, labels), "counts": (labels,)}
        total, clients = securely("sums", clients, scale.packed(), shapes)
        return done(scale, Sums(**total), clients)
    moments = Moments(np.zeros(labels), np.zeros(size), np.zeros(size))
    known: list[Client] = []
    for client, reply in asked("moments", able, {}):
        try:
            arrays = weights_of(reply)
            theirs = Moments.unpacked(arrays, size, labels)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            refuse(client, f"sent moments that are {error}")
            continue
        if theirs.counts.sum() != client.clips:
            refuse(client, f"counts {theirs.counts.sum():.0f} clips, and introduced itself with {client.clips}")
            continue
        moments += theirs
        known.append(client)
    enough(known)
    scale = moments.scale()

    summing = Sums(np.zeros((size + 1) * (size + 2) // 2), np.zeros((size + 1, labels)), np.zeros(labels))
    summed: list[Client] = []
    for client, reply in asked("sums", known, scale.packed()):
        try:
            sums = Sums.unpacked(weights_of(reply), size, labels)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            refuse(client, f"sent sums that are {error}")
            continue
        if sums.counts.sum() != client.clips:
            refuse(client, f"sent sums over {sums.counts.sum():.0f} clips, and introduced itself with {client.clips}")
            continue
        summing += sums
        keep(client.number, sums)
        summed.append(client)
    enough(summed)
    return done(scale, summing, summed)
