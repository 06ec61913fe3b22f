"""The conversation of a round with its clients: requests, replies that are checked, refusals, quorum, and costs.

Every round is one `Conversation`: rounds of training, the closed form, private rounds, and the stages of secure
aggregation. What a client sends is read by a function that raises MalformedMessage for what cannot be used; the client
is then refused by name, and the round goes on with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from wordflock.errors import WordflockError, counted
from wordflock.federation.costs import Costs
from wordflock.federation.messages import content, failure_of, task_record
from wordflock.federation.roster import Client, Roster, answered, listed, replies_to
from wordflock.federation.wire import MalformedMessage
from wordflock.federation_settings import FederationSettings
from wordflock.progress import report
from wordflock.report.live import ASKED, REFUSED, REPLIED

AT_A_TIME = 16  # clients whose statistics the server holds together
WAITED_FOR = {"masked": "masked numbers", "unmask": "shares that unmask the total", "private": "bounded statistics"}
Read = TypeVar("Read")


class Conversation:
    """What a round asks its clients, whom it refused and why, and what it cost each client."""

    def __init__(self, grid: Grid, roster: Roster, settings: FederationSettings, name: str) -> None:
        """`name` begins each line that is printed about a refused client."""
        self.grid, self.roster, self.settings, self.name = grid, roster, settings, name
        self.problems: list[str] = []
        self.costs = Costs()
        self.refused: set[int] = set()  # clients
        self.late: set[int] = set()  # those of them that did not answer

    def request(self, arrays: Mapping[str, NDArray[Any]]) -> RecordDict:
        """A request with arrays and the labels of the task."""
        request = content(arrays)
        request["config"] = task_record(self.roster.prepared.task.labels)
        return request

    def ask(
        self, what: str, requests: Mapping[Client, RecordDict], read: Callable[[Client, Message], Read]
    ) -> Iterator[tuple[Client, Read]]:
        """Ask clients for `what`, some at a time; yields what is read of each usable reply, in the requests' order."""
        clients, seconds = list(requests), self.settings.round_timeout
        for start in range(0, len(clients), AT_A_TIME):
            some = clients[start : start + AT_A_TIME]
            messages = [Message(requests[c], c.node, f"{MessageType.TRAIN}.{what}", ttl=seconds) for c in some]
            # The first are worked on while others are at it.
            yield from self.exchange(WAITED_FOR.get(what, what), dict(zip(some, messages, strict=True)), read)

    def exchange(
        self,
        what: str,
        messages: Mapping[Client, Message],
        read: Callable[[Client, Message], Read],
        at_a_time: int | None = None,
    ) -> Iterator[tuple[Client, Read]]:
        """Send messages; yields what is read of each usable reply, in the messages' order, and refuses the others.

        `at_a_time` is that of `replies_to`; `what` is what the bar says is waited for.
        """
        by_node, presence = {client.node: client for client in messages}, self.roster.presence
        presence.tell(ASKED, messages)

        def waited_for(nodes: list[int]) -> str:
            replied = (by_node[node] for node in by_node.keys() - set(nodes))
            presence.tell(REPLIED, [client for client in replied if client.number not in self.refused])
            came = f"{len(by_node) - len(nodes)} of {len(by_node)} replied"
            return f"for {what} ({came}): {listed([by_node[node] for node in nodes])}"

        seconds = self.settings.round_timeout
        replies = replies_to(self.grid, list(messages.values()), seconds, waited_for, at_a_time)
        for (client, message), reply in zip(messages.items(), replies, strict=True):
            if reply is None or not answered(reply):
                self.late.add(client.number)
                self.refuse(client, "did not answer in time")
            elif reply.has_error():
                self.refuse(client, failure_of(reply))
            else:
                try:
                    usable = read(client, reply)
                except MalformedMessage as error:
                    self.refuse(client, str(error))
                    continue
                self.costs.add(client, message, reply)
                presence.tell(REPLIED, [client])
                yield client, usable
        presence.write(now=True)

    def refuse(self, client: Client, problem: str) -> None:
        """Leave a client out of the round, and say why."""
        self.refused.add(client.number)
        self.problems.append(f"client {client} {problem}")
        self.roster.presence.tell(REFUSED, [client])
        report(f"{self.name}: {self.problems[-1]}")

    def require(self, clients: Sequence[Client]) -> None:
        """Raises WordflockError where fewer clients than --min-replies are left."""
        least = self.settings.min_replies
        if len(clients) < least:
            raise WordflockError(
                f"{self.name}: {counted(len(clients), 'client')} sent what can be used, and {least} are needed; "
                "see what was refused above."
            )
