"""The total of what clients send: each client's seen and checked, or with secure aggregation the total alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from wordflock.arrays import Shapes, unflatten
from wordflock.federation.asking import Conversation
from wordflock.federation.messages import weights_of
from wordflock.federation.roster import Client
from wordflock.federation.secure.server import secure_total

Arrays = Mapping[str, NDArray[Any]]


def total_of(
    conversation: Conversation,
    what: str,
    clients: Sequence[Client],
    request: RecordDict,
    shapes: Shapes,
    read: Callable[[Client, Arrays], Arrays],
) -> tuple[dict[str, NDArray[np.float64]], list[Client]]:
    """The sum of the clients' arrays, which have the given `shapes`, and whose they are.

    `read` checks one client's arrays, and returns what is added; with secure aggregation no client's are seen. Raises
    WordflockError where fewer than --min-replies clients are left.
    """
    if conversation.settings.secure_aggregation:
        length = sum(math.prod(shape) for shape in shapes.values())
        vector, among = secure_total(conversation, clients, what, request, length)
        conversation.require(among)
        return unflatten(vector, shapes), among
    total = {name: np.zeros(shape) for name, shape in shapes.items()}
    added: list[Client] = []

    def checked(client: Client, reply: Message) -> Arrays:
        return read(client, weights_of(reply))

    for client, arrays in conversation.ask(what, dict.fromkeys(clients, request), checked):
        for name, array in total.items():  # in place: a running total makes no new arrays
            np.add(array, arrays[name], out=array)
        added.append(client)
    conversation.require(added)
    return total, added
