"""Who works on what in the grid of this process."""

import threading
import time

import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from wordflock.federation.in_process import QUICK, in_process_grid


def application(answer) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message, context):
        answer(message)
        return Message(RecordDict(), reply_to=message)

    return app


def messages(count: int) -> list[Message]:
    return [Message(RecordDict(), node, "train") for node in range(2, count + 2)]


def long_work(message) -> None:
    started = time.thread_time()
    while time.thread_time() - started < 2 * QUICK:
        pass


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_as_many_clients_run_at_the_same_time_as_there_are_workers(workers):
    together = threading.Barrier(workers)

    def meet(message):
        long_work(message)
        together.wait(30)

    with in_process_grid(application(meet), 12, {}, workers) as grid:
        for _ in range(2):  # the second time it is known that they are worth a thread
            replies = grid.send_and_receive(messages(12), timeout=60)
            assert [reply.has_content() for reply in replies] == [True] * 12


def test_quick_clients_run_in_the_thread_that_waits_for_them_each_when_it_is_looked_for():
    ran = []

    with in_process_grid(application(lambda message: ran.append(threading.current_thread())), 50, {}, 3) as grid:
        grid.send_and_receive(messages(50))  # after which they are known to be quick
        ran.clear()
        missing = list(grid.push_messages(messages(50)))
        for count, _ in enumerate(grid.pull_messages(missing), start=1):
            assert ran == [threading.current_thread()] * count
        assert count == 50
