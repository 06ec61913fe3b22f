"""Flower's own programs, as Wordflock starts them: `python -m wordflock.devices.flower PROGRAM …`.

The programs are Flower's, with a few things added. They end when the process that started them ends, however it ends.
A SuperLink opens to other machines only what clients need: Flower serves the interface through which programs are
started on the same port, with no password. A SuperNode runs the ClientApp installed with Wordflock and no code that a
server sends. A SuperExec imports the apps once and forks for every message, where Flower's starts a Python that imports
torch anew, for seconds on a small board.
"""

from __future__ import annotations

import importlib
import io
import logging
import math
import os
import secrets
import signal
import ssl
import sys
import time
import tomllib
import traceback
import zipfile
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from wordflock.devices.processes import end_with_parent

if TYPE_CHECKING:
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

OUTPUT = "WORDFLOCK_OUTPUT"  # environment: the file for what users should see
SECRET = "WORDFLOCK_SECRET"  # environment: the file with what those who control a SuperLink must know
READY = "WORDFLOCK_READY"  # environment: the file that is there once clients may come
KIND = "WORDFLOCK_APP"  # environment: which app a SuperExec runs, serverapp or clientapp
COMPONENTS = {
    "serverapp": "wordflock.federation.server_app:app",
    "clientapp": "wordflock.federation.client_app:app",
}
OPEN_TO_CLIENTS = ("/v1/fleet/", "/health")
CONTROL = "/v1/control/"
SECRET_HEADER = "wordflock-secret"
SERVER_HEADER = "wordflock-server"  # in the answer to /health: by it a client knows a server of ours from any other
POLL_INTERVAL, MAX_POLL_INTERVAL = 0.25, 1.0  # seconds between a SuperNode's looks for messages, each of 850 bytes
REPLY_POLL_INTERVAL = 0.1  # seconds between its looks for the answer to one, which cost the network nothing
SHUTDOWN_GRACE = 1  # seconds that a SuperLink which is told to end has for the requests that it is at
REFUSED = 76  # exit status of a SuperNode that was sent foreign code

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


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


class Guard:
    """Turns away what comes from other machines and is not for them; says which clients were turned away.

    Who controls the SuperLink must know its secret as well: another user of this machine, or whoever comes through a
    tunnel or a proxy on it, does not.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app, self._ready = app, Path(os.environ[READY])
        self._secret = Path(os.environ[SECRET]).read_bytes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request, or answer it with 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, peer = scope["path"], (scope.get("client") or ("", 0))[0]
        if not path.startswith(OPEN_TO_CLIENTS) and not same_machine(peer, (scope.get("server") or ("", 0))[0]):
            tell(f"{peer} was turned away: {path} is for this machine only")
            await _answer(send, 403)
            return
        if path.startswith(CONTROL):
            given = dict(scope["headers"]).get(SECRET_HEADER.encode(), b"")
            if not secrets.compare_digest(given, self._secret):
                tell(f"{peer} was turned away: {path} is for this server's own processes only")
                await _answer(send, 403)
                return
        if path.startswith("/v1/fleet/") and not self._ready.exists():
            await _answer(send, 503)  # a client takes this for "try again", and an unknown key for the end
            return

        async def watched(message: MutableMapping[str, Any]) -> None:
            status = message.get("status", 200)
            if path in ("/v1/fleet/activate-node", "/v1/fleet/register-node") and status >= 400:
                tell(f"a client at {peer} was turned away: its key is not among those of --authorized-keys")
            if path == "/health" and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), (SERVER_HEADER.encode(), b"1")]}
            await send(message)

        await self._app(scope, receive, watched)


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def same_machine(peer: str, own: str) -> bool:
    """Whether a connection from address `peer` to our address `own` stays on this machine."""
    try:
        return peer == own or ip_address(peer).is_loopback
    except ValueError:
        return False


def tell(line: str) -> None:
    """Say something to the user at the terminal, who does not see Flower's log; in one line, whoever it speaks of."""
    with Path(os.environ[OUTPUT]).open("a") as file:
        file.write("".join(c for c in line if c.isprintable()) + "\n")


def foreign_code(program: bytes) -> str:
    """What a program that a server sent has beyond naming Wordflock's own modules; empty where it has nothing."""
    try:
        with zipfile.ZipFile(io.BytesIO(program)) as archive:
            extra = [name for name in archive.namelist() if name != "pyproject.toml" and not name.startswith(".info/")]
            if extra:
                return f"the file {extra[0]!r}"
            app = tomllib.loads(archive.read("pyproject.toml").decode())["tool"]["flwr"]["app"]
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return f"a program that cannot be read ({error!r})"
    return "" if app.get("components") == COMPONENTS else f"the components {app.get('components')!r}"


class Handshake(ssl.SSLObject):
    """Says which clients do not get through to the server: theirs is no request that `Guard` could see."""

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
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    kind = os.environ[KIND]
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
    the one at hand is answered.
    """

    FOR_A_MESSAGE = 3.0  # what Flower would sleep

    def __init__(self) -> None:
        self._last = -math.inf  # when a message was at hand

    def sleep(self, seconds: float) -> None:
        """Sleep in the place of Flower's `time.sleep`."""
        now = time.monotonic()
        if seconds < self.FOR_A_MESSAGE:
            self._last = now
            time.sleep(REPLY_POLL_INTERVAL)
        else:
            time.sleep(min(POLL_INTERVAL + (now - self._last) / 4, MAX_POLL_INTERVAL))


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
    setattr(start_client_internal, "time", SimpleNamespace(sleep=Waiting().sleep))  # noqa: B010
    flower_supernode()
    os._exit(1)  # it came back because the connection failed, and its web server would keep the process alive


if __name__ == "__main__":
    main()
