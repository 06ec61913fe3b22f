"""The server of a federation of real devices: Flower's SuperLink, and one run on it.

What it keeps is below `server/` in the run's folder: Flower's state (state.sqlite), Flower's log (flower.log) and what
the ServerApp said (output.log). The run itself goes on in Flower's process for it, which holds a lock for as long as
it lives: so its end is noticed at once, even where it was killed.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordflock.addresses import is_loopback, split_address
from wordflock.devices.connection import tls_files
from wordflock.devices.flower import KIND, scrub
from wordflock.devices.guard import OUTPUT, READY, SECRET
from wordflock.devices.processes import Tail, flower, free_port, in_own_process, stoppable
from wordflock.errors import WordflockError
from wordflock.federation.liveness import alive, end_holder, hold, is_held
from wordflock.federation.members import check_inputs, inputs_of
from wordflock.federation_settings import ServerSettings
from wordflock.files import locked, write_atomically
from wordflock.options import dashed
from wordflock.progress import relayed, report
from wordflock.report.dashboard import dashboard
from wordflock.runs import CONFIG, METRICS, find_run, resumed
from wordflock.settings import CLOSED_FORM, resolved_paths

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

START = 300.0  # seconds that Flower's processes have to start
POLL_INTERVAL = 0.2  # seconds between two looks at what the processes do


def serve(settings: ServerSettings) -> Path:
    """Start a server, train a head with the clients that come, stop the server; returns the run's folder.

    Raises WordflockError where the server cannot listen or the run ends before it is done.
    """
    settings = _resolved(settings)
    settings.check_together()
    if CLOSED_FORM in (settings.strategy, settings.init):
        check_inputs(inputs_of(settings), settings.head)
    host, port = split_address(settings.listen, "--listen")
    tls = _tls_files(settings, host)
    keys = _public_keys(settings)
    folder = Path(settings.runs) / settings.name
    _check_run(settings, folder)
    kept = _kept_running(settings, port)
    if kept is None:
        try:
            port = free_port(host, port)
        except OSError as error:
            raise WordflockError(f"--listen {settings.listen} cannot be had: {error.strerror}.") from error
    (folder / "server").mkdir(parents=True, exist_ok=True)
    for private in (folder, folder / "server"):
        private.chmod(0o700)
    if settings.data:
        in_own_process(_encode, settings)
    # The address as this machine reaches it: a server on all networks is on the loopback too.
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    with stoppable(), locked(folder / "server"), ExitStack() as stack:
        page = stack.enter_context(dashboard(folder, settings.dashboard)) if settings.dashboard else ""
        link = _Link(kept or folder / "server", f"{here}:{port}", tls)
        if kept is None:
            stack.enter_context(_started(link, settings, host, port, keys))
        else:
            link.register(keys)
        output = Tail(link.output)
        alive(folder).unlink(missing_ok=True)
        number = link.control.start_run(settings if kept is None else replace(settings, keep_running=True))
        report(f"listening on {host}:{port}{'' if tls else ' without TLS'}; waiting for clients")
        if page:
            report(f"dashboard: {page}")
        try:
            with relayed() as for_the_bar:
                _follow(folder, output, for_the_bar, link.lives)
        except WordflockError:
            if kept is not None:  # where clients would wait for what a ServerApp that died has not sent, for a minute
                link.control.stop_run(number)
            raise
        except KeyboardInterrupt:
            if kept is not None:  # whose other runs go on without this one
                link.control.stop_run(number)
                end_holder(alive(folder))  # which would notice that within half a minute
            if (folder / CONFIG).exists():
                raise KeyboardInterrupt(f"go on with: wordflock server --resume {folder}") from None
            raise
        if settings.keep_running and kept is None:
            report("the run is done; staying for the next one with the same --listen (Ctrl-C ends it)")
            while link.lives():
                with relayed() as for_the_bar:
                    _show(output, for_the_bar)
                time.sleep(POLL_INTERVAL)
    return folder


class _Link:
    """A SuperLink of ours: the folder with its files, what controls it, and whether it lives."""

    def __init__(self, state: Path, address: str, tls: tuple[Path, Path, Path] | None) -> None:
        from wordflock.devices.control import Control

        self.state, self.address, self.tls = state, address, tls
        self.log, self.output, self.ready = state / "flower.log", state / "output.log", state / "ready"
        self.secret = state / "secret"  # with which Flower's processes on this machine know one another
        self.control = Control(address, tls[0] if tls else None, self.secret)
        self.lives: Callable[[], bool] = lambda: True  # of one that another process started, the run's end tells

    def register(self, keys: Iterable[EllipticCurvePublicKey]) -> None:
        """Let the holders of these keys in."""
        for key in keys:
            self.control.register(key)


@contextmanager
def _started(
    link: _Link, settings: ServerSettings, host: str, port: int, keys: Iterable[EllipticCurvePublicKey]
) -> Iterator[None]:
    """The SuperLink, and the SuperExec that starts its ServerApps, until the block ends."""
    link.secret.touch(0o600)
    link.secret.write_text(secrets.token_hex(32))
    link.ready.unlink(missing_ok=True)
    database = link.state / "state.sqlite"
    environment = {
        "FLWR_HOME": str(link.state / "flower"),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        OUTPUT: str(link.output),
        READY: str(link.ready),
        SECRET: str(link.secret),
    }
    secret = ["--superexec-auth-secret-file", str(link.secret)]
    arguments = ["--host", host, "--port", str(port), "--database", str(database), *secret]
    arguments += ["--isolation", "process", "--disable-runtime-dependency-installation"]
    executor = ["--runtime-api-address", link.address, *secret]
    if link.tls is None:
        arguments += ["--insecure"]
        executor += ["--insecure"]
    else:
        for option, file in zip(("ca-certfile", "certfile", "keyfile"), link.tls, strict=True):
            arguments += [f"--ssl-{option}", str(file)]
        arguments += ["--enable-supernode-auth"] * bool(settings.authorized_keys)
        executor += ["--root-certificates", str(link.tls[0])]
    scrub(database)  # what an earlier SuperLink that was killed left: its messages would only keep clients busy
    with ExitStack() as stack:
        stack.callback(scrub, database)
        stack.enter_context(_announced(settings, port, link.state))
        process = stack.enter_context(flower("superlink", arguments, link.log, environment))
        # It imports what it runs while the SuperLink starts, and begins when that is ready.
        stack.enter_context(flower("superexec", executor, link.log, {**environment, KIND: "serverapp"}, link.output))
        link.lives = lambda: process.poll() is None
        link.control.wait(START, link.lives)
        link.register(keys)
        link.control.stop_runs()  # which an earlier SuperLink left behind
        link.ready.touch()
        yield


def _follow(folder: Path, output: Tail, for_the_bar: Callable[[str], bool], link_lives: Callable[[], bool]) -> None:
    """Show what the run says until its process ends. Raises WordflockError where it ends before it is done."""
    started, held, done = time.monotonic(), alive(folder), folder / METRICS
    before = done.stat().st_mtime_ns if done.exists() else 0
    go_on = f"go on with: wordflock server --resume {folder}"
    while True:
        _show(output, for_the_bar)
        if not link_lives():
            raise WordflockError(f"Flower's SuperLink ended (its log: {folder}/server/flower.log); {go_on}")
        if held.exists() and held.stat().st_size and not is_held(held):
            break
        if not held.exists() and time.monotonic() - started > START:
            raise WordflockError(f"The run does not start (see {folder}/server/flower.log); {go_on}")
        time.sleep(POLL_INTERVAL)
    _show(output, for_the_bar)
    if not done.exists() or done.stat().st_mtime_ns == before:
        raise WordflockError(f"The run ended before it was done; {go_on}")


def _show(output: Tail, for_the_bar: Callable[[str], bool]) -> None:
    for line in output.lines():
        # What Flower says of the program that it was sent is of no interest.
        if not for_the_bar(line) and not line.startswith("Successfully installed"):
            report(line)


def _resolved(settings: ServerSettings) -> ServerSettings:
    """The settings with everything decided that can be: the run's own ones for --resume, a name, whole paths."""
    if settings.resume:
        own = resumed(settings)
        settings = replace(own, keep_running=settings.keep_running, dashboard=settings.dashboard)
    files: dict[str, Any] = {
        key: resolved_paths(value)
        for key in ("data", "table", "runs", "certificates", "authorized_keys")
        if (value := getattr(settings, key))
    }
    files |= {key: str(find_run(run).resolve()) for key in ("add_to", "take_from") if (run := getattr(settings, key))}
    # Flower runs the ServerApp in a folder of its own.
    return replace(
        settings,
        **files,
        cache=str(settings.cache_folder.resolve()),
        name=settings.name or time.strftime("server-%Y%m%d-%H%M%S"),
        encoder=str(Path(settings.encoder).resolve()) if Path(settings.encoder).exists() else settings.encoder,
    )


def _tls_files(settings: ServerSettings, host: str) -> tuple[Path, Path, Path] | None:
    """The CA, the certificate and its key; None for a server without TLS, where that is allowed."""
    if settings.certificates:
        return tls_files(settings.certificates)
    if settings.authorized_keys:
        raise WordflockError("--authorized-keys works with TLS only; add --certificates.")
    if not settings.insecure and not is_loopback(host):
        raise WordflockError(
            f"--listen {settings.listen} without TLS would let anyone on the network read and change what is learned; "
            "add --certificates (see 'wordflock certificates'), or --insecure if that is what you want."
        )
    return None


def _public_keys(settings: ServerSettings) -> list[EllipticCurvePublicKey]:
    from wordflock.devices.certificates import read_public_key

    if not settings.authorized_keys:
        return []
    keys = sorted(Path(settings.authorized_keys).glob("*.pub"))
    if not keys:
        raise WordflockError(f"--authorized-keys {settings.authorized_keys} has no public keys (*.pub).")
    return [read_public_key(key) for key in keys]


def _encode(settings: ServerSettings) -> None:
    from wordflock.federation.members import server_side

    server_side(settings)


def _check_run(settings: ServerSettings, folder: Path) -> None:
    if not settings.resume and (folder / CONFIG).exists():
        raise WordflockError(f"The run {folder} exists already; give another --name, or delete that folder.")


def _note(settings: ServerSettings, port: int) -> Path:
    return Path(settings.runs) / f".server-{port}.json"


def _offered(settings: ServerSettings) -> dict[str, str]:
    """What clients and runs of a server that keeps running rely on."""
    return {name: getattr(settings, name) for name in ("listen", "certificates", "authorized_keys")}


@contextmanager
def _announced(settings: ServerSettings, port: int, state: Path) -> Iterator[None]:
    """A note for the next `wordflock server`, that this one keeps running on the port."""
    if not settings.keep_running:
        yield
        return
    note = _note(settings, port)
    hold(state / "keeps-running")
    write_atomically(note, json.dumps({"state": str(state), **_offered(settings)}).encode())
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def _kept_running(settings: ServerSettings, port: int) -> Path | None:
    """The files of the server that keeps running on the port; None where there is none.

    Raises WordflockError where it is not as open, or as closed, as the settings ask for.
    """
    note = _note(settings, port)
    if not note.exists():
        return None
    try:
        offered = json.loads(note.read_text())
        state = Path(offered.pop("state"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not what we wrote
    held = state / "keeps-running"
    if not held.exists() or not is_held(held):
        return None
    if offered != _offered(settings):
        has = " ".join(f"--{dashed(name)} {value}" for name, value in offered.items() if value)
        raise WordflockError(f"The server that keeps running on port {port} has {has}; give the same, or end it first.")
    return state
