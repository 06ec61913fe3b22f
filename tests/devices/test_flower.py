"""What Wordflock adds to Flower's programs: who may call a SuperLink, and what a client will not run."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState
from numpy.typing import NDArray

from wordflock.devices import flower, guard
from wordflock.devices.flower import foreign_code, inflate_or_error, scrub
from wordflock.devices.guard import CONTROL, OUTPUT, READY, SECRET, SECRET_HEADER, Guard, max_body
from wordflock.federation.in_process import in_process_grid
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


def status(
    path: str,
    peer: str,
    own: str = "192.168.1.10",
    inner: int = 200,
    secret: bytes = b"secret",
    body: Sequence[bytes] = (b"",),
    length: bytes | None = None,
) -> int:
    """The status that a request from `peer` gets, whose body comes in parts."""
    statuses: list[int] = []
    parts = list(body)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"".join(body)
        await send({"type": "http.response.start", "status": inner, "headers": []})

    async def receive() -> Any:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    headers = [(b"accept", b"*/*"), (SECRET_HEADER.encode(), secret)]
    headers += [(b"content-length", length)] if length is not None else []
    scope = {"type": "http", "path": path, "client": (peer, 40_000), "server": (own, 8000), "headers": headers}
    asyncio.run(Guard(app)(scope, receive, send))
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


@pytest.mark.parametrize("path", ["activate-node", "pull-messages", "push-messages", "push-object"])
def test_a_body_is_bounded_by_its_path_before_it_is_read(path: str, folder: Path) -> None:
    path = f"/v1/fleet/{path}"
    most = max_body(path)
    assert status(path, "192.168.1.77", body=[b"a" * (most // 2)] * 2, length=b"%d" % most) == 200
    assert status(path, "192.168.1.77", body=[], length=b"%d" % (most + 1)) == 413, "nothing of it was read"
    assert status(path, "192.168.1.77", body=[b"a" * most, b"a", b"never read"]) == 413, "it did not say how long it is"
    assert status(path, "192.168.1.77", body=[], length=b"1e9") == 413


def test_all_bodies_together_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_IN_FLIGHT", 1000)
    assert status("/v1/fleet/push-object", "192.168.1.77", body=[b"a" * 600, b"a" * 600]) == 503


def pushed_array(numbers: NDArray[Any], change: Callable[[dict[str, Any]], None] = lambda body: None) -> Any:
    """A client's message with an array, as it is sent: its identifier and its parts, some of them changed."""
    with in_process_grid(ClientApp(), 1, {}, 1):
        message = Message(RecordDict({"arrays": ArrayRecord({"a": Array(numbers)})}), 2, "train")
        message.metadata.__dict__["_message_id"] = ""
        parts = {key: part.deflate() for key, part in get_all_nested_objects(message).items()}
        for key, part in parts.items():
            if part.startswith(b"Array "):
                head, _, body = part.partition(b"\0")
                known = json.loads(body)
                change(known)
                parts[key] = head + b"\0" + json.dumps(known).encode()
        return message.object_id, parts


def test_a_message_that_cannot_be_put_together_is_an_error_of_its_client() -> None:
    identifier, parts = pushed_array(np.ones(5))
    assert inflate_or_error(identifier, dict(parts)).has_content()

    def repeated(known: dict[str, Any]) -> None:
        known["arraychunk_ids"] = known["arraychunk_ids"] * 10**6

    for change in (repeated, dict.clear, lambda known: known.update(arraychunk_ids=[9])):
        identifier, parts = pushed_array(np.ones(50), change)
        came = inflate_or_error(identifier, parts)
        assert came.has_error() and "cannot be put together" in came.error.reason
    identifier, parts = pushed_array(np.ones(5))
    for key in parts:
        if key != identifier:
            assert inflate_or_error(identifier, {**parts, key: b"RecordDict  3\0\xff\xff\xff"}).has_error()


def test_what_messages_held_is_nowhere_in_a_state_that_was_scrubbed(tmp_path: Path) -> None:
    database, secret = tmp_path / "state.sqlite", np.random.default_rng(0).normal(size=5000).tobytes()
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE objects (content BLOB)")
    connection.execute("CREATE TABLE node (public_key BLOB)")
    connection.execute("INSERT INTO objects VALUES (?)", (secret,))
    connection.execute("INSERT INTO node VALUES (?)", (b"its key",))
    connection.commit()
    connection.execute("DELETE FROM objects")  # as Flower does with what was delivered
    connection.commit()

    def found(what: bytes) -> bool:
        return any(what in path.read_bytes() for path in tmp_path.iterdir())

    assert found(secret[1000:1016])
    connection.close()
    scrub(database)
    assert not found(secret[1000:1016]) and found(b"its key")
    scrub(tmp_path / "none")


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


@pytest.mark.parametrize("run", [None, 7])
def test_a_reply_that_came_late_does_not_wait_for_the_next_message(run: int | None) -> None:
    state = InMemoryNodeState(ObjectStoreFactory().store())

    def pulled() -> int | None:
        return flower.pulled(lambda state, receive: run, state=state, receive=None)

    def stored(number: str, reply_to: str) -> None:
        metadata = SimpleNamespace(message_id=number, reply_to_message_id=reply_to, run_id=1)
        state.store_message(cast(Message, SimpleNamespace(metadata=metadata)))

    stored("asked", "")
    assert pulled() == run
    stored("reply", "asked")
    assert pulled() == (run or 0)
    assert [message.metadata.message_id for message in state.get_messages_legacy(is_reply=True)] == ["reply"]
    assert pulled() == run
