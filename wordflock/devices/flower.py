"""Flower's own programs, as Wordflock starts them: `python -m wordflock.devices.flower PROGRAM …`.

The programs are Flower's, with a few things added. They end when the process that started them ends, however it ends.
A SuperLink opens to other machines only what clients need: Flower serves the interface through which programs are
started on the same port, with no password. A SuperNode runs the ClientApp installed with Wordflock and no code that a
server sends. A SuperExec imports the apps once and forks for every message, where Flower's starts a Python that imports
torch again, for seconds on a small board.

With `federation/in_process.py` this is the module that touches Flower's internals. They are: uvicorn's start
(`uvicorn.run`), the middleware (`extensions.get_middleware`), `SqlLinkState.activate_node` and `.get_message_res`, the
tables of its state, `SubprocessExecutor.launch`, `http_grid.inflate_object_from_contents`, `get_fused_config_from_fab`,
`runtime_handlers.confirm_message_received`, the `_pull_and_store_message` and the `time` of `start_client_internal`,
and the `msg_store` of a SuperNode's state.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import math
import os
import signal
import sqlite3
import ssl
import sys
import time
import tomllib
import traceback
import zipfile
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from wordflock.devices.guard import READY, Guard, tell
from wordflock.lifetime import end_with_parent

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

KIND = "WORDFLOCK_APP"  # environment: which app a SuperExec runs, serverapp or clientapp
COMPONENTS = {
    "serverapp": "wordflock.federation.server_app:app",
    "clientapp": "wordflock.federation.client_app:app",
}
POLL_INTERVAL, MAX_POLL_INTERVAL = 0.25, 1.0  # seconds between a SuperNode's looks for messages, each of 850 bytes
REPLY_POLL_INTERVAL = 0.1  # seconds between its looks for the answer to one, which cost the network nothing
SHUTDOWN_GRACE = 1  # seconds that a SuperLink which is told to end has for the requests that it is at
MAX_ARRAY_BYTES = 1 << 28  # of an array that a client's message is put together to
# Tables of a SuperLink's state with what messages hold, the parts before what they are parts of.
PAYLOADS = [
    "object_push_session_pending",
    "object_push_session_roots",
    "object_push_sessions",
    "run_objects",
    "object_children",
    "objects",
    "message_ins",
    "message_res",
]
REFUSED = 76  # exit status of a SuperNode that was sent foreign code


def main() -> None:
    """Run one of Flower's programs in this process."""
    program = sys.argv.pop(1)
    sys.argv[0] = f"flower-{program}"
    end_with_parent()
    match program:
        case "superlink":
            _superlink()
        case "superexec":
            _superexec()
        case "supernode":
            _supernode()


def foreign_code(program: bytes) -> str:
    """What a program that a server sent has beyond naming Wordflock's own modules; empty where it has nothing."""
    try:
        with zipfile.ZipFile(io.BytesIO(program)) as archive:
            extra = [name for name in archive.namelist() if name != "pyproject.toml" and not name.startswith(".info/")]
            if extra:
                return f"the file {extra[0]!r}"
            app = tomllib.loads(archive.read("pyproject.toml").decode())["tool"]["flwr"]["app"]
    except Exception as error:  # whatever a stranger's bytes raise
        return f"a program that cannot be read ({error!r})"
    return "" if app.get("components") == COMPONENTS else f"the components {app.get('components')!r}"


class Handshake(ssl.SSLObject):
    """Says which clients do not get through to the server: theirs is not a request that `Guard` sees."""

    def do_handshake(self) -> None:
        """Agree on keys with a client. Raises ssl.SSLError where that fails."""
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            reason = error.reason or ""
            if reason == "HTTP_REQUEST":
                tell("a client was turned away: it does not speak TLS; start it with --ca")
            elif "CA" in reason.split("_") or "CERTIFICATE" in reason.split("_"):
                tell("a client was turned away: it does not trust this server's certificate; see its --ca and --server")
            raise


def _superlink() -> None:
    import uvicorn
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink
    from starlette.middleware import Middleware

    extensions.get_middleware = lambda: (Middleware(Guard),)
    run = uvicorn.run

    def telling(config: uvicorn.Config, create: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        context = create()
        context.sslobject_class = Handshake
        return context

    def serve(**options: Any) -> None:
        """Clients keep their connections open, and would keep a server that is told to end."""
        factory = telling if options.get("ssl_certfile") else None
        run(**options, ssl_context_factory=factory, timeout_graceful_shutdown=SHUTDOWN_GRACE)

    setattr(uvicorn, "run", serve)  # noqa: B010
    activate = SqlLinkState.activate_node

    def activate_anew(state: SqlLinkState, node_id: int, heartbeat_interval: float) -> bool:
        """A client that lost power is back before Flower notices, which would turn it away for a minute."""
        if activate(state, node_id, heartbeat_interval):
            return True
        return state.deactivate_node(node_id) and activate(state, node_id, heartbeat_interval)

    setattr(SqlLinkState, "activate_node", activate_anew)  # noqa: B010
    answers = SqlLinkState.get_message_res

    def whole_answers(state: SqlLinkState, message_ids: set[str], run_id: int) -> Any:
        """An answer that is still on its way up is none: a ServerApp that is told of it waits for it and for no other,
        for three minutes and whatever its deadline, where the client is gone.
        """
        return answers(state, message_ids - partly_answered(state, message_ids), run_id)

    setattr(SqlLinkState, "get_message_res", whole_answers)  # noqa: B010
    flower_superlink()


def partly_answered(state: SqlLinkState, message_ids: set[str]) -> set[str]:
    """Those messages whose answers a SuperLink has begun to get, and has not got to the end."""
    from flwr.supercore.state.schema.corestate_models import ObjectPushSessionRoot
    from flwr.supercore.state.schema.linkstate_models import MessageRes
    from sqlalchemy import select

    under_way = select(ObjectPushSessionRoot.root_object_id)
    answers = select(MessageRes.reply_to_message_id).where(MessageRes.message_id.in_(under_way))
    with state.session() as session:
        return message_ids & set(session.scalars(answers))


def _superexec() -> None:
    from flwr.supercore.cli.flower_superexec import flower_superexec
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
    from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
    from flwr.superlink.cli.flwr_serverapp import flwr_serverapp
    from flwr.superlink.grid import http_grid
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    kind = os.environ[KIND]
    setattr(http_grid, "inflate_object_from_contents", inflate_or_error)  # noqa: B010
    importlib.import_module(COMPONENTS[kind].partition(":")[0])
    while kind == "serverapp" and not Path(os.environ[READY]).exists():
        time.sleep(REPLY_POLL_INTERVAL)  # before that there may be runs that an earlier SuperLink left behind
    program = {"serverapp": flwr_serverapp, "clientapp": flwr_clientapp}[kind]
    expected = {"serverapp": TaskType.SERVER_APP, "clientapp": TaskType.CLIENT_APP}[kind]

    running: list[int] = []

    def launch(executor: SubprocessExecutor, spec: ExecutionSpec) -> LaunchResult:
        if spec.task_type != expected:
            return LaunchResult.failed(f"{spec.task_type} is nothing that Wordflock runs")
        # Flower handles one message after the other. Who is still at an earlier one waits for data of a run that ended.
        running[:] = [pid for pid in running if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        for pid in running:
            os.kill(pid, signal.SIGTERM)
        sys.stdout.flush()
        sys.stderr.flush()
        if (pid := os.fork()) == 0:
            _run_forked(program, spec.runtime_api_address, spec.token, spec.root_certificates_path)
        running.append(pid)
        return LaunchResult.accepted()

    setattr(SubprocessExecutor, "launch", launch)  # noqa: B010
    # Flower's log is for the log, and what the app prints for users. Flower mixes the two unless it cannot.
    log = logging.getLogger("flwr")
    log.handlers, log.propagate = [logging.StreamHandler(os.fdopen(os.dup(2), "w", buffering=1))], False
    flower_superexec()


def inflate_or_error(message_id: str, contents: dict[str, bytes]) -> Message:
    """A client's message from its parts, as Flower puts it together; one with an error where that cannot be done.

    Flower would end the ServerApp, or assemble an array that names one part a million times.
    """
    from flwr.app import Error, Message
    from flwr.app.message import make_message
    from flwr.common.constant import ErrorCode
    from flwr.common.serde_utils import metadata_from_proto
    from flwr.proto.message_pb2 import Message as ProtoMessage
    from flwr.supercore.inflatable.inflatable_object import get_object_body
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    head = contents[message_id]
    try:
        for content in contents.values():
            _check_array(content, contents)
        inflated = inflate_object_from_contents(message_id, contents)
        if not isinstance(inflated, Message):
            raise ValueError("not a message")
        return inflated
    except Exception as error:  # whatever a stranger's bytes make Flower raise
        metadata = metadata_from_proto(ProtoMessage.FromString(get_object_body(head, Message)).metadata)
        reason = f"its message cannot be put together ({type(error).__name__})"
        return make_message(metadata=metadata, error=Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason))


def _check_array(content: bytes, contents: dict[str, bytes]) -> None:
    """Raises ValueError where an array would be larger than MAX_ARRAY_BYTES."""
    from flwr.app import Array
    from flwr.supercore.inflatable.inflatable_object import (
        get_object_body,
        get_object_head_values_from_object_content,
    )

    kind, children, _ = get_object_head_values_from_object_content(content)
    if kind == "Array":
        places = json.loads(get_object_body(content, Array))["arraychunk_ids"]
        if sum(len(contents[children[place]]) for place in places) > MAX_ARRAY_BYTES:
            raise ValueError("an array is too large")


def scrub(database: Path) -> None:
    """Delete what messages held from a SuperLink's state, which must not run, and leave no trace of it in the files.

    Flower keeps what it deleted in free pages and in the log. What is left are the nodes with their keys, and the runs.
    """
    if not database.exists():
        return
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        known = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in PAYLOADS:
            if table in known:
                connection.execute(f"DELETE FROM {table}")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _run_forked(program: Callable[[], None], address: str, token: str, ca: str | None) -> NoReturn:
    """Run an app in a process just forked, and end the process with it."""
    end_with_parent()
    sys.argv = [f"flwr-{os.environ[KIND]}", "--runtime-api-address", address, "--token", token]
    sys.argv += ["--insecure"] if ca is None else ["--root-certificates", ca]
    status = 1
    try:
        program()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


class Waiting:
    """How a SuperNode waits: shortly for the next message when the last one is not long ago, longer when it is.

    Flower's looks for messages every 3 seconds, which is most of a round of small clients, and twice a second whether
    the current one is answered.
    """

    FOR_A_MESSAGE = 3.0  # what Flower would sleep

    def __init__(self) -> None:
        self._last = -math.inf  # when the last message came

    def sleep(self, seconds: float) -> None:
        """Sleep in the place of Flower's `time.sleep`."""
        now = time.monotonic()
        if seconds < self.FOR_A_MESSAGE:
            self._last = now
            time.sleep(REPLY_POLL_INTERVAL)
        else:
            time.sleep(min(POLL_INTERVAL + (now - self._last) / 4, MAX_POLL_INTERVAL))


def pulled(pull: Callable[..., int | None], *, state: Any, **more: Any) -> int | None:
    """What a SuperNode's look for a message gives: the number of a run, after which it sends replies, or None.

    Flower sends any reply after each message. A server that is killed while a message is on its way leaves one whose
    reply comes on its own: from then on each reply would wait for the message after it.
    """
    run = pull(state=state, **more)
    waiting = (entry for entry in list(state.msg_store.values()) if not entry.is_retrieved)  # asking would take them
    return 0 if run is None and any(entry.message.metadata.reply_to_message_id for entry in waiting) else run


def _supernode() -> NoReturn:
    from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli.flower_supernode import flower_supernode
    from flwr.supernode.servicer.runtime import runtime_handlers

    confirm, kept = runtime_handlers.confirm_message_received, list[tuple[Any, ...]]()

    def confirm_the_one_before(*message: Any) -> ConfirmMessageReceivedResponse:
        """What a message brought is kept until the next is here: the head that is scored is the one trained next."""
        kept.append(message)
        return confirm(*kept.pop(0)) if len(kept) > 1 else ConfirmMessageReceivedResponse()

    setattr(runtime_handlers, "confirm_message_received", confirm_the_one_before)  # noqa: B010
    read: Callable[..., Any] = getattr(start_client_internal, "get_fused_config_from_fab")  # noqa: B009

    def checked(program: bytes, run: Any) -> Any:
        if foreign := foreign_code(program):
            print(f"REFUSED: the server sent {foreign}", file=sys.stderr, flush=True)
            os._exit(REFUSED)
        return read(program, run)

    setattr(start_client_internal, "get_fused_config_from_fab", checked)  # noqa: B010
    pull: Callable[..., int | None] = getattr(start_client_internal, "_pull_and_store_message")  # noqa: B009
    setattr(start_client_internal, "_pull_and_store_message", partial(pulled, pull))  # noqa: B010
    setattr(start_client_internal, "time", SimpleNamespace(sleep=Waiting().sleep))  # noqa: B010
    flower_supernode()
    os._exit(1)  # it came back because the connection failed, and its web server would keep the process alive


if __name__ == "__main__":
    main()
