"""A Flower grid in this process: it calls the ClientApp directly, with no server, no Ray and no polling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from queue import Empty, SimpleQueue
from threading import Condition, Thread
from typing import Any

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SERVER, RUN_ID = 1, 1
CLIENT_FAILED = 1  # the error code of a reply in whose place the ClientApp raised


class InProcessGrid(Grid):
    """Node n + 2 is client n. Messages are handed over as they are; clients run in `workers` threads.

    Threads do: nearly all of a client's time is spent inside torch, which lets the others run.
    """

    def __init__(self, app: ClientApp, clients: int, run_config: dict[str, Any], workers: int) -> None:
        self._app, self._clients, self._run_config = app, clients, run_config
        self._contexts: dict[int, Context] = {}
        self._numbers = count()
        self._asked: SimpleQueue[Message | None] = SimpleQueue()
        self._replies: dict[str, Message] = {}
        self._news = Condition()
        self._workers = [Thread(target=self._work, name=f"client_{n}", daemon=True) for n in range(workers)]
        for worker in self._workers:
            worker.start()
        # flwr 1.41 builds no message without this; this and a message's number are the internals we touch.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SERVER

    def close(self) -> None:
        """Let running clients end, and start no others."""
        with suppress(Empty):
            while True:
                self._asked.get_nowait()
        for _ in self._workers:
            self._asked.put(None)
        for worker in self._workers:
            worker.join()

    def set_run(self, run: Run) -> None:
        """There is one run only."""

    @property
    def run(self) -> Run:
        """The run, of which only the identifier means anything here."""
        return Run.create_empty(RUN_ID)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes of all clients."""
        return range(2, self._clients + 2)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start working on messages."""
        identifiers = []
        for message in messages:
            identifier = str(next(self._numbers))
            message.metadata.__dict__["_message_id"] = identifier  # as Flower's own grids do: replies refer to it
            self._asked.put(message)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for the replies, at most `timeout` seconds."""
        identifiers = list(self.push_messages(messages))
        with self._news:
            self._news.wait_for(lambda: self._replies.keys() >= set(identifiers), timeout)
        return self.pull_messages(identifiers)

    def _work(self) -> None:
        while (message := self._asked.get()) is not None:
            reply = self._answer(message)
            with self._news:
                self._replies[message.metadata.message_id] = reply
                self._news.notify_all()

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node not in self._contexts:
            config: UserConfig = {"partition-id": node - 2, "num-partitions": self._clients}
            self._contexts[node] = Context(RUN_ID, node, config, RecordDict(), self._run_config)
        try:
            return self._app(message, self._contexts[node])
        except Exception as error:  # a client that fails is an answer too, on every engine
            return Message(Error(CLIENT_FAILED, f"{type(error).__name__}: {error}"), reply_to=message)


@contextmanager
def in_process_grid(app: ClientApp, clients: int, run_config: dict[str, Any], workers: int) -> Iterator[InProcessGrid]:
    """A grid that is closed at the end."""
    grid = InProcessGrid(app, clients, run_config, workers)
    try:
        yield grid
    finally:
        grid.close()
