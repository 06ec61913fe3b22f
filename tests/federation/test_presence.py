from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from wordflock.federation import presence
from wordflock.federation.presence import Presence
from wordflock.federation.roster import Client
from wordflock.report.live import ASKED, AWAY, CLIENTS, ONLINE, REPLIED


def client(number: int) -> Client:
    return Client(number, 100 + number, 9, 0, 1.0, "", f"pi {number}")


def states(folder: Path) -> dict[int, str]:
    return {entry["number"]: entry["state"] for entry in json.loads((folder / CLIENTS).read_bytes())}


def test_who_came_left_and_replied_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(presence, "time", SimpleNamespace(monotonic=lambda: now[0]))
    some, three = Presence(tmp_path), [client(n) for n in range(3)]

    def after(seconds: float) -> dict[int, str]:
        now[0] += seconds
        some.write()
        return states(tmp_path)

    now[0] = 10.0
    some.see(three, {100, 101})
    assert states(tmp_path) == {0: ONLINE, 1: ONLINE, 2: AWAY}
    some.tell(ASKED, three[:2])
    assert states(tmp_path)[0] == ONLINE  # written half a second ago at most
    assert after(1) == {0: ASKED, 1: ASKED, 2: AWAY}
    some.tell(REPLIED, three[:1])
    some.see(three, {100, 102})
    assert after(1) == {0: REPLIED, 1: AWAY, 2: ONLINE}
    some.tell(REPLIED, three[1:])
    some.write(now=True)
    assert states(tmp_path) == dict.fromkeys(range(3), REPLIED)


def test_what_an_earlier_server_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / CLIENTS).parent.mkdir()
    (tmp_path / CLIENTS).write_text('[{"number": 0, "name": "", "clips": 1, "state": "replied"}]')
    Presence(tmp_path).see([], set())
    assert states(tmp_path) == {}


def test_of_a_simulation_nothing_is_kept(tmp_path: Path) -> None:
    some = Presence(None)
    some.see([client(0)], {100})
    some.tell(ASKED, [client(0)])
    some.write(now=True)
    assert list(tmp_path.iterdir()) == []
