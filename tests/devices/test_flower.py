"""What Wordflock adds to Flower's programs: who may call a SuperLink, and what a client will not run."""

from __future__ import annotations

import asyncio
import io
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.proto.message_pb2 import ObjectTree

from wordflock.devices import flower
from wordflock.devices.flower import foreign_code
from wordflock.devices.guard import CONTROL, OUTPUT, READY, SECRET, SECRET_HEADER, Guard
from wordflock.federation_settings import ServerSettings

OWN = """
[tool.flwr.app.components]
serverapp = "wordflock.federation.server_app:app"
clientapp = "wordflock.federation.client_app:app"
"""


def program(**files: str) -> bytes:
    """A program as Flower sends it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "."), text)
    return buffer.getvalue()


def test_what_the_server_sends_is_no_foreign_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from wordflock.devices.control import Control

    sent = []

    class Client:
        def StartRun(self, request: Any) -> Any:
            sent.append(request.fab.content)
            return request

    control = Control("127.0.0.1:1", None, Path("unread"))
    monkeypatch.setattr(control, "_client", Client())
    with pytest.raises(ValueError, match="run_id"):  # the answer is no answer; what counts is what was sent
        control.start_run(ServerSettings())
    assert foreign_code(sent[0]) == ""


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (program(pyproject__toml=OWN, client_app__py="import os"), "the file 'client_app.py'"),
        (program(pyproject__toml=OWN.replace("wordflock.federation.client_app", "os")), "the components"),
        (program(pyproject__toml="[tool]"), "cannot be read"),
        (program(pyproject__toml="]"), "cannot be read"),
        (program(), "cannot be read"),
        (b"no archive", "cannot be read"),
    ],
)
def test_foreign_code_is_found(content: bytes, found: str) -> None:
    assert found in foreign_code(content)


def status(path: str, peer: str, own: str = "192.168.1.10", inner: int = 200, secret: bytes = b"secret") -> int:
    """The status that a request from `peer` gets."""
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": inner, "headers": []})

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    headers = [(b"accept", b"*/*"), (SECRET_HEADER.encode(), secret)]
    scope = {"type": "http", "path": path, "client": (peer, 40_000), "server": (own, 8000), "headers": headers}
    asyncio.run(Guard(app)(scope, None, send))  # type: ignore[arg-type]
    return statuses[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(OUTPUT, str(tmp_path / "output.log"))
    monkeypatch.setenv(READY, str(tmp_path / "ready"))
    monkeypatch.setenv(SECRET, str(tmp_path / "secret"))
    (tmp_path / "ready").touch()
    (tmp_path / "secret").write_text("secret")
    return tmp_path


@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/openapi.json", "/"])
def test_other_machines_get_at_nothing_but_what_clients_need(path: str, folder: Path) -> None:
    assert status(path, "192.168.1.77") == 403
    assert f"192.168.1.77 was turned away: {path}" in (folder / "output.log").read_text()
    assert status(path, "127.0.0.1") == 200
    assert status(path, "::1") == 200
    assert status(path, "192.168.1.10") == 200, "the machine's own address"
    assert status(path, "nonsense") == 403


def test_who_does_not_know_the_secret_controls_nothing_from_this_machine_either(folder: Path) -> None:
    assert status(f"{CONTROL}start-run", "127.0.0.1", secret=b"guessed") == 403
    assert f"{CONTROL}start-run is for this server's own processes only" in (folder / "output.log").read_text()
    assert status("/v1/fleet/pull-messages", "127.0.0.1", secret=b"") == 200


def test_clients_are_let_in_when_the_server_is_ready(folder: Path) -> None:
    assert status("/v1/fleet/pull-messages", "192.168.1.77") == 200
    assert status("/health", "192.168.1.77") == 200
    (folder / "ready").unlink()
    assert status("/v1/fleet/activate-node", "192.168.1.77") == 503
    assert status("/health", "192.168.1.77") == 200


def test_an_unknown_key_is_told_of(folder: Path) -> None:
    assert status("/v1/fleet/activate-node", "192.168.1.77", inner=412) == 412
    assert "a client at 192.168.1.77 was turned away: its key" in (folder / "output.log").read_text()


def test_a_client_looks_for_messages_often_while_they_come_and_seldom_when_they_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, slept = 1000.0, list[float]()
    monkeypatch.setattr(flower, "time", SimpleNamespace(monotonic=lambda: now, sleep=slept.append))
    waiting = flower.Waiting()
    waiting.sleep(3)  # no message yet
    waiting.sleep(0.5)  # one is being answered
    for now in (1000.0, 1002.0, 1100.0):  # noqa: B007
        waiting.sleep(3)
    least, most = flower.POLL_INTERVAL, flower.MAX_POLL_INTERVAL
    assert slept == [most, flower.REPLY_POLL_INTERVAL, least, pytest.approx(least + 0.5), most]


def test_an_answer_counts_once_all_of_it_is_there(tmp_path: Path) -> None:
    """One of which a part is missing is waited for like one that has not begun: as long as the round's deadline."""
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore.inflatable.inflatable_object import get_object_id
    from flwr.supercore.object_store.sql_object_store import SqlObjectStore
    from flwr.supercore.state.schema.linkstate_models import MessageRes
    from sqlalchemy import insert

    database = str(tmp_path / "state.sqlite")
    store = SqlObjectStore(database)
    state = SqlLinkState(database, SimpleNamespace(), store)
    store.initialize()
    state.initialize()
    parts = [b"ArrayChunk  1\0a", b"ArrayChunk  1\0b"]
    root = f"Message {','.join(map(get_object_id, parts))} 0\0".encode()
    tree = ObjectTree(
        object_id=get_object_id(root), children=[ObjectTree(object_id=get_object_id(part)) for part in parts]
    )

    with state.session() as session:
        session.execute(insert(MessageRes).values(message_id=tree.object_id, reply_to_message_id="asked"))
    session_id = state.start_session(7)
    state.preregister_object_tree(tree, session_id)
    for content in (*parts, root):
        assert flower.partly_answered(state, {"asked", "other"}) == {"asked"}
        assert state.store_object(7, session_id, get_object_id(content), content)
    assert flower.partly_answered(state, {"asked", "other"}) == set()
