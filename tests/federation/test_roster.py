"""How replies are waited for."""

import random
from types import SimpleNamespace

import pytest

from wordflock.federation.roster import answers


class Grid:
    """Answers after as many looks as the message's place says; -1 stands for never."""

    def __init__(self, delays):
        self.delays, self.due, self.looks, self.most = delays, {}, 0, 0

    def push_messages(self, messages):
        names = [str(message.place) for message in messages]
        self.due |= {name: self.looks + self.delays[int(name)] for name in names if self.delays[int(name)] >= 0}
        return names[::-1]  # in another order, as Flower does

    def pull_messages(self, names):
        self.looks += 1
        ready = [name for name in names if self.due.get(name, self.looks + 1) <= self.looks]
        return [
            SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id=name, src_node_id=int(name))) for name in ready
        ]


def messages(count):
    return [SimpleNamespace(place=n, metadata=SimpleNamespace(dst_node_id=n)) for n in range(count)]


@pytest.mark.parametrize("at_a_time", [None, 1, 3, 100])
def test_replies_come_in_the_order_of_the_messages_whenever_they_are_there(at_a_time):
    delays = [random.Random(n).randrange(5) for n in range(20)]
    grid = Grid(delays)
    places = []
    for reply in answers(grid, messages(20), 60.0, lambda nodes: "", at_a_time):
        places.append(int(reply.metadata.reply_to_message_id))
        assert len(grid.due) <= len(places) - 1 + (at_a_time or 20)
    assert places == list(range(20))


@pytest.mark.parametrize("at_a_time", [None, 4])
def test_one_that_never_answers_is_none_and_those_after_it_count(at_a_time):
    came = list(answers(Grid([0, -1, 0, 0]), messages(4), 0.05, lambda nodes: "", at_a_time))
    assert [reply is None for reply in came] == [False, True, False, False]


def test_nobody_asked_is_nobody_waited_for():
    assert list(answers(Grid([]), [], 60.0, lambda nodes: "")) == []
