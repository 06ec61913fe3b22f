"""How replies are waited for."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord

from wordflock.encoder.spec import FeatureSpec
from wordflock.federation.messages import content
from wordflock.federation.roster import Client, Roster, replies_to
from wordflock.federation_settings import FederationSettings


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
    for reply in replies_to(grid, messages(20), 60.0, lambda nodes: "", at_a_time):
        places.append(int(reply.metadata.reply_to_message_id))
        assert len(grid.due) <= len(places) - 1 + (at_a_time or 20)
    assert places == list(range(20))


@pytest.mark.parametrize("at_a_time", [None, 4])
def test_one_that_never_answers_is_none_and_those_after_it_count(at_a_time):
    came = list(replies_to(Grid([0, -1, 0, 0]), messages(4), 0.05, lambda nodes: "", at_a_time))
    assert [reply is None for reply in came] == [False, True, False, False]


def roster(clients, **options):
    """A roster of as many clients, all there and able."""
    here = {n: Client(n, n, 100, 10, 0.0, "", "") for n in range(clients)}
    settings = FederationSettings(clients_per_round=3, **options)
    return Roster(None, settings, None, here, set(here))


def test_those_who_were_asked_already_are_drawn_where_there_are_not_enough_others():
    drawn = roster(8).sample("train", 1, 1, last={0: 2, 1: 1, 2: 2, 3: 1, 4: 1, 5: 2})
    assert {6, 7} < set(drawn) and set(drawn) & {1, 3, 4}, "and of them, those who did well"
    assert roster(8).sample("train", 1, 1) == roster(8).sample("train", 1, 1, last={})


def test_who_owes_an_answer_sits_out_the_rest_of_the_round_and_the_next_one():
    some = roster(4)
    some.stragglers = {3: 5}
    assert [3 in some.candidates(number) for number in (5, 6, 7)] == [False, False, True]
    assert 3 not in some.sample("evaluate", 6, holdout=True)
    some.stragglers = {1: 5, 2: 5, 3: 5}
    assert some.candidates(6) == [0]
    few = roster(4, min_replies=2)
    few.stragglers = some.stragglers
    assert few.candidates(6) == [0, 1, 2, 3], "for else there would be no round"


def test_nobody_asked_is_nobody_waited_for():
    assert list(replies_to(Grid([]), [], 60.0, lambda nodes: "")) == []


SPEC = FeatureSpec("tiny.en", 64 * "a", 1.4, "2", frame_pooling=2)


@pytest.mark.parametrize(
    ("theirs", "welcome"),
    [
        (SPEC, True),
        (replace(SPEC, precision="bfloat16"), True),  # another processor
        (replace(SPEC, layer="last"), False),
        (replace(SPEC, fingerprint=64 * "b"), False),
    ],
)
def test_a_client_needs_features_of_the_servers_kind(theirs, welcome, capsys):
    array = np.zeros((1, SPEC.frames, 384), np.float16)
    prepared = SimpleNamespace(spec=SPEC, features={"train": SimpleNamespace(array=array)})
    some = Roster(None, FederationSettings(), prepared)
    introduction = content(client=3, num_examples=50, holdout=5, frames=SPEC.frames, width=384, encode_seconds=1.0)
    introduction["about"] = ConfigRecord({"features": theirs.kind, "name": "", "processor": ""})
    some._welcome(7, SimpleNamespace(has_error=lambda: False, content=introduction))
    assert list(some.clients) == [3] * welcome
    assert ("--layer 2" in capsys.readouterr().out) != welcome
