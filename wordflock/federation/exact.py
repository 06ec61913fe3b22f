"""One round, closed form: clients send sums, and the server solves the head's last layer as if it had all clips.

Two messages a client: moments first (a few numbers a coordinate), from which the server makes the scale that all
standardise by, then the sums. Both are added as they come, some clients at a time, so that the server never holds more
than a few clients' sums, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from numpy.typing import NDArray

from wordflock.checkpoint import get_weights
from wordflock.closed_form import Moments, Scale, Solution, Sums, solve
from wordflock.errors import WordflockError
from wordflock.federation.messages import content, payload_bytes, task_record, weights_of
from wordflock.federation.roster import Client, Roster, collect
from wordflock.head import Head
from wordflock.settings import FederationSettings

AT_A_TIME = 16  # clients whose sums the server holds together


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

    def ask(what: str, clients: Sequence[Client], arrays: dict[str, NDArray[Any]]) -> Iterator[tuple[Client, Message]]:
        """The clients that answered, in the order of their numbers, and their answers."""
        request = content({**weights, **arrays})
        request["config"] = task_record(roster.prepared.task.labels)
        for start in range(0, len(clients), AT_A_TIME):
            some = clients[start : start + AT_A_TIME]
            messages = [
                Message(request, client.node, f"{MessageType.TRAIN}.{what}", ttl=settings.round_deadline)
                for client in some
            ]
            came = collect(grid, messages, settings.round_deadline, lambda nodes: f"for the {what} of {len(nodes)}")
            replies = {reply.metadata.src_node_id: reply for reply in came}
            for client in some:
                reply = replies.get(client.node)
                if reply is None or reply.has_error():
                    refuse(client, "did not answer in time" if reply is None else f"failed: {reply.error.reason}")
                    continue
                sizes[client.number] = sizes.get(client.number, 0) + payload_bytes(reply)
                yield client, reply

    def refuse(client: Client, problem: str) -> None:
        problems.append(f"client {client} {problem}")
        print(f"exact: {problems[-1]}", flush=True)

    def enough(clients: Sequence[Client]) -> None:
        if len(clients) < settings.min_replies:
            raise WordflockError(f"{len(clients)} clients sent usable sums, and {settings.min_replies} are needed.")

    able = [roster.clients[number] for number in roster.able()]
    moments = Moments(np.zeros(labels), np.zeros(size), np.zeros(size))
    known: list[Client] = []
    for client, reply in ask("moments", able, {}):
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

    total = Sums(np.zeros((size + 1) * (size + 2) // 2), np.zeros((size + 1, labels)), np.zeros(labels))
    summed: list[Client] = []
    for client, reply in ask("sums", known, scale.packed()):
        try:
            sums = Sums.unpacked(weights_of(reply), size, labels)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            refuse(client, f"sent sums that are {error}")
            continue
        if sums.counts.sum() != client.clips:
            refuse(client, f"sent sums over {sums.counts.sum():.0f} clips, and introduced itself with {client.clips}")
            continue
        total += sums
        keep(client.number, sums)
        summed.append(client)
    enough(summed)
    numbers = [client.number for client in summed]
    up = sum(sizes[number] for number in numbers) // len(numbers)
    return ExactRound(solve(total, scale), scale, total, numbers, up, problems)
