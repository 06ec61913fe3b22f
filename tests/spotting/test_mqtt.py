"""Words reach a broker as JSON; one that is not there, and an address that is none, are said in one sentence."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from wordflock.errors import WordflockError
from wordflock.spotting.detector import Detection
from wordflock.spotting.mqtt import Broker

CONNECT, PUBLISH, DISCONNECT = 1, 3, 14  # packet types of MQTT 3.1.1


class OneClient(threading.Thread):
    """A broker that speaks as much MQTT 3.1.1 as one client that publishes with acknowledgements needs."""

    def __init__(self) -> None:
        super().__init__()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.messages: list[tuple[str, bytes]] = []
        self.left = False

    def run(self) -> None:
        connection, _ = self.server.accept()
        with connection, connection.makefile("rb") as stream:
            while head := stream.read(1):
                kind, length, shift = head[0] >> 4, 0, 0
                while True:
                    (byte,) = stream.read(1)
                    length |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                body = stream.read(length)
                if kind == CONNECT:
                    connection.sendall(b"\x20\x02\x00\x00")
                elif kind == PUBLISH:
                    end = 2 + int.from_bytes(body[:2], "big")
                    self.messages.append((body[2:end].decode(), body[end + 2 :]))
                    connection.sendall(b"\x40\x02" + body[end : end + 2])
                elif kind == DISCONNECT:
                    self.left = True
                    return


@pytest.fixture
def broker() -> Iterator[OneClient]:
    pytest.importorskip("paho.mqtt.client")
    broker = OneClient()
    broker.start()
    yield broker
    broker.join(10)
    broker.server.close()


def test_each_word_arrives_in_its_order_and_the_client_leaves(broker: OneClient) -> None:
    publish = Broker(f"127.0.0.1:{broker.port}/home/words")
    for number, label in enumerate(("yes", "tür")):
        publish(Detection(label, 0.9, number, number + 0.5))
    publish.wait()
    broker.join(10)
    assert broker.left and [topic for topic, _ in broker.messages] == ["home/words"] * 2
    assert [json.loads(content) for _, content in broker.messages] == [
        {"label": "yes", "confidence": 0.9, "start": 0, "end": 0.5},
        {"label": "tür", "confidence": 0.9, "start": 1, "end": 1.5},
    ]


@pytest.mark.parametrize("address", ["host", "host/", "/topic", "host:99999/topic", "host/a/#", "ho st/topic"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(WordflockError, match="HOST/TOPIC"):
        Broker(address)


def test_a_broker_that_is_not_there_is_said() -> None:
    pytest.importorskip("paho.mqtt.client")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(WordflockError, match=rf"No MQTT broker answers at 127.0.0.1:{port}"):
        Broker(f"127.0.0.1:{port}/words")
