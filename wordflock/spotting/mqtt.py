"""Words that were heard as MQTT messages: what home automation listens to."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from wordflock.errors import WordflockError
from wordflock.spotting.detector import Detection

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessageInfo

ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^/:\s]+)(:(?P<port>\d{1,5}))?/(?P<topic>[^#+\0]+)")
PORT = 1883
PATIENCE = 5.0  # seconds for the last messages


class Broker:
    """Publishes each word as JSON, at least once; messages wait while the broker is away."""

    def __init__(self, address: str) -> None:
        """`address` is HOST[:PORT]/TOPIC. Raises WordflockError where it is not one, paho-mqtt is not installed, or no
        broker answers there."""
        parts = ADDRESS.fullmatch(address)
        port = int(parts["port"] or PORT) if parts else 0
        if parts is None or not 0 < port < 65_536:
            raise WordflockError(f"--mqtt {address!r} is not HOST/TOPIC or HOST:PORT/TOPIC; give for example pi/words.")
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise WordflockError("--mqtt needs paho-mqtt; pip install 'wordflock[mqtt]'.") from error
        self._topic = parts["topic"]
        self._newest: MQTTMessageInfo | None = None
        self._client = Client(CallbackAPIVersion.VERSION2)
        try:
            self._client.connect(parts["host"].strip("[]"), port)
        except (OSError, ValueError) as error:
            raise WordflockError(
                f"No MQTT broker answers at {parts['host']}:{port} ({error}); check the address."
            ) from error
        self._client.loop_start()

    def __call__(self, heard: Detection) -> None:
        """Send the word; does not wait for the broker."""
        self._newest = self._client.publish(self._topic, json.dumps(asdict(heard)), qos=1)

    def wait(self) -> None:
        """Give the last message its time, and leave."""
        if self._newest is not None:
            self._newest.wait_for_publish(PATIENCE)
        self._client.disconnect()
        self._client.loop_stop()
