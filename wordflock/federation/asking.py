"""Ask clients for something, some at a time, and hear which of them answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from wordflock.federation.costs import Costs
from wordflock.federation.messages import failure_of
from wordflock.federation.roster import Client, replies_to

AT_A_TIME = 16  # clients whose sums the server holds together
WAITED_FOR = {"masked": "masked numbers", "unmask": "shares that unmask the total", "private": "bounded sums"}


def ask(
    grid: Grid,
    what: str,
    requests: Mapping[Client, RecordDict],
    seconds: float,
    refuse: Callable[[Client, str], None],
    costs: Costs,
) -> Iterator[tuple[Client, Message]]:
    """The clients that answered, in the order of the requests, and their answers; `refuse` is told of the others.

    What the answers cost the clients is added to the `costs`.
    """
    clients = list(requests)
    for start in range(0, len(clients), AT_A_TIME):
        some = clients[start : start + AT_A_TIME]
        messages = [Message(requests[c], c.node, f"{MessageType.TRAIN}.{what}", ttl=seconds) for c in some]
        came = replies_to(
            grid, messages, seconds, lambda nodes: f"for the {WAITED_FOR.get(what, what)} of {len(nodes)} clients"
        )
        # The first are worked on while others are at it.
        for client, message, reply in zip(some, messages, came, strict=True):
            if reply is None or reply.has_error():
                refuse(client, "did not answer in time" if reply is None else failure_of(reply))
            else:
                costs.add(client, message, reply)
                yield client, reply
