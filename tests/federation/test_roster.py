"""How replies are waited for."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.clientapp import ClientApp

from wordflock.encoder.spec import FeatureSpec
from wordflock.federation.in_process import in_process_grid
from wordflock.federation.messages import content
from wordflock.federation.roster import Client, Roster, replies_to
from wordflock.federation_settings import FederationSettings, ServerSettings


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


def introduce(some: Roster, node: int, number: int, name: str = "") -> None:
    """A node says which client it is."""
    introduction = content(client=number, num_examples=50, holdout=5, frames=SPEC.frames, width=384, encode_seconds=1.0)
    introduction["about"] = ConfigRecord({"features": SPEC.kind, "name": name, "processor": ""})
    some._welcome(node, SimpleNamespace(has_error=lambda: False, content=introduction))


def server_roster(tmp_path, **options) -> Roster:
    prepared = SimpleNamespace(spec=SPEC, features={"train": SimpleNamespace(array=np.zeros((1, SPEC.frames, 384)))})
    some = Roster(None, ServerSettings(runs=str(tmp_path), name="run", **options), prepared)
    some.connected = {7, 8, 9}
    return some


def test_a_number_and_a_name_belong_to_the_first_key_that_came_with_them(tmp_path):
    with in_process_grid(ClientApp(), 1, {}, 1):  # a message needs a run
        with_keys = {"authorized_keys": "keys", "certificates": "tls"}
        some, told = server_roster(tmp_path, **with_keys), []
        some.grid = SimpleNamespace(push_messages=told.extend)
        introduce(some, 7, 0, "kitchen")
        introduce(some, 8, 0)
        introduce(some, 9, 4, "kitchen")
        assert [(message.metadata.dst_node_id, message.content["config"]["reason"]) for message in told] == [
            (8, "the number 0 belongs to another key in this run; give it another --cid or --name"),
            (9, "the name kitchen belongs to another key in this run; give it another --name"),
        ]
        assert {number: client.node for number, client in some.clients.items()} == {0: 7}
        assert some._turned_away == {8, 9}
        resumed = server_roster(tmp_path, **with_keys)
        resumed.grid = some.grid
        introduce(resumed, 8, 0)
        introduce(resumed, 7, 1)
        introduce(resumed, 7, 0, "kitchen")
        assert {number: client.node for number, client in resumed.clients.items()} == {0: 7}


def test_without_keys_a_device_that_comes_back_takes_its_number_again(tmp_path):
    some = server_roster(tmp_path)
    introduce(some, 7, 0)
    introduce(some, 8, 0)
    assert some.clients[0].node == 8


def test_an_introduction_counts_however_late_it_comes(tmp_path, monkeypatch):
    """A busy client answers the first question after it was asked a second time."""
    now, pushed = [1000.0], []

    class OneNode:
        def get_node_ids(self):
            return [7]

        def push_messages(self, messages):
            pushed.extend(messages)
            return [str(len(pushed) - len(messages) + n) for n in range(len(messages))]

        def pull_messages(self, identifiers):
            if now[0] < 1100 or "0" not in identifiers:
                return []
            metadata = SimpleNamespace(reply_to_message_id="0", src_node_id=7)
            return [SimpleNamespace(metadata=metadata)]

    monkeypatch.setattr("wordflock.federation.roster.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("wordflock.federation.roster.Message", lambda content, node, kind, ttl: node)
    some = server_roster(tmp_path)
    some.prepared.task = SimpleNamespace(labels=["a", "b"])
    some.grid, welcomed = OneNode(), []
    some._welcome = lambda node, reply: welcomed.append(node)
    for now[0] in (1000.0, 1070.0, 1140.0):
        some.refresh()
    assert welcomed == [7] and len(pushed) >= 2
