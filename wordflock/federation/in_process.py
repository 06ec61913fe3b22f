"""A Flower grid in this process: it calls the ClientApp directly, with no server, no Ray and no polling."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from math import inf
from threading import Condition, Lock, Thread
from typing import Any

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SERVER, RUN_ID = 1, 1
CLIENT_FAILED = 1  # the error code of a reply in whose place the ClientApp raised
QUICK = 0.001  # seconds of an answer below which threads that take turns in Python are slower than one
POLL_SECONDS = 0.05  # seconds after which the server looks around, if what it waits for has not come


class InProcessGrid(Grid):
    """Node n + 2 is client n. Messages are handed over as they are; `workers` clients run at the same time.

    One of them runs in the server's own thread, while it waits for replies: it gets a reply that is still in the
    processor's cache, and no thread need wake another. The others have threads of their own, for nearly all of a
    client's time is spent inside torch, which lets the others run; where it is not, they sleep.
    """

    def __init__(self, app: ClientApp, clients: int, run_config: dict[str, Any], workers: int) -> None:
        self._app, self._clients, self._run_config = app, clients, run_config
        self._contexts: dict[int, Context] = {}
        self._numbers = count()
        self._asked: deque[Message] = deque()
        self._replies: dict[str, Message] = {}
        self._seconds: dict[str, float] = {}  # of a processor, for the last answer to a type of message
        self._in_hand = 0  # messages that threads are at
        self._closed = False
        self._lock = Lock()  # of all the above
        self._news, self._help_wanted = Condition(self._lock), Condition(self._lock)
        self._helpers = [Thread(target=self._help, name=f"client_{n}", daemon=True) for n in range(1, workers)]
        for helper in self._helpers:
            helper.start()
        # flwr 1.41 and 1.42 build no message without this; this and a message's number are the internals we touch.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SERVER

    def close(self) -> None:
        """Let running clients end, and start no others."""
        with self._lock:
            self._asked.clear()
            self._closed = True
            self._help_wanted.notify_all()
        for helper in self._helpers:
            helper.join()

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
        """Have messages worked on."""
        identifiers = []
        with self._lock:
            for message in messages:
                identifier = str(next(self._numbers))
                message.metadata.__dict__["_message_id"] = identifier  # as Flower's own grids do: replies refer to it
                self._asked.append(message)
                identifiers.append(identifier)
            self._call_for_help()
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The replies that are there, and those that come within a spell: each is made when it is looked for."""
        missing, until = set(message_ids), time.monotonic() + POLL_SECONDS
        while missing:
            for identifier in self._replies.keys() & missing:
                missing.remove(identifier)
                yield self._replies.pop(identifier)
            with self._lock:
                left = until - time.monotonic()
                if left < 0 or not (self._asked or self._in_hand):
                    return
                message = self._take() if self._asked else None
                if message is None:
                    self._news.wait_for(lambda: self._replies.keys() & missing or not self._in_hand, left)
            if message is not None:
                self._work(message)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for the replies, at most `timeout` seconds."""
        missing, until = set(self.push_messages(messages)), time.monotonic() + (inf if timeout is None else timeout)
        replies: list[Message] = []
        while missing and time.monotonic() < until:
            replies += self.pull_messages(missing)
            missing -= {reply.metadata.reply_to_message_id for reply in replies}
        return replies

    def _help(self) -> None:
        """What a helper's thread does."""
        while True:
            with self._lock:
                self._help_wanted.wait_for(lambda: self._closed or self._is_long())
                if self._closed:
                    return
                message = self._take()
            self._work(message)

    def _is_long(self) -> bool:
        """Whether there is work that a thread is worth waking for."""
        return bool(self._asked) and self._seconds.get(self._asked[0].metadata.message_type, inf) > QUICK

    def _call_for_help(self) -> None:
        if self._is_long():
            self._help_wanted.notify_all()

    def _take(self) -> Message:
        self._in_hand += 1
        return self._asked.popleft()

    def _work(self, message: Message) -> None:
        """Answer a message that was taken."""
        started = time.thread_time()
        reply = self._answer(message)
        with self._lock:
            self._seconds[message.metadata.message_type] = time.thread_time() - started
            self._replies[message.metadata.message_id] = reply
            self._in_hand -= 1
            self._news.notify_all()
            self._call_for_help()

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
