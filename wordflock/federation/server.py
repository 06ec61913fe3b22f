"""The server of a federation of real devices: Flower's SuperLink, and one run on it.

What it keeps is below `server/` in the run's folder: Flower's state (state.sqlite), Flower's log (flower.log) and what
the ServerApp said (output.log). The run itself goes on in Flower's process for it, which holds a lock for as long as
it lives: so its end is noticed at once, even where it was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from wordflock.errors import WordflockError
from wordflock.federation.flower import KIND, OUTPUT, READY
from wordflock.federation.processes import Tail, flower, free_port, in_own_process, split_address, stoppable
from wordflock.progress import relayed
from wordflock.settings import ServerSettings

START = 120.0  # seconds that Flower's processes have to start
LOOK = 0.2  # seconds between two looks at what the processes do
CA, CERTIFICATE, KEY = "ca.crt", "server.crt", "server.key"


def serve(settings: ServerSettings) -> Path:
    """Start a server, train a head with the clients that come, stop the server; returns the run's folder.

    Raises WordflockError where the server cannot listen or the run ends before it is done.
    """
    settings = _settled(settings)
    host, port = split_address(settings.listen, "--listen")
    tls = _tls_files(settings, host)
    keys = _public_keys(settings)
    folder = Path(settings.runs) / settings.name
    state = folder / "server"
    if (folder / "config.toml").exists() and not settings.resume:
        raise WordflockError(f"The run {folder} exists already; give another --name, or delete that folder.")
    running = _running(settings, port)
    if running is None:
        try:
            port = free_port(host, port)
        except OSError as error:
            raise WordflockError(f"--listen {settings.listen} cannot be had: {error.strerror}.") from error
    state.mkdir(parents=True, exist_ok=True)
    if settings.data:
        in_own_process(_encode, settings)
    with stoppable(), ExitStack() as stack:
        from wordflock.federation.control import Control

        # The address as this machine reaches it: a server on all networks is on the loopback too.
        here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        control = Control(f"{here}:{port}", tls[0] if tls else None)
        if running is None:
            stack.enter_context(_announced(settings, port, state))
            secret = state / "secret"  # with which Flower's processes on this machine know one another
            secret.touch(0o600)
            secret.write_text(secrets.token_hex(32))
            environment = {
                "FLWR_HOME": str(state / "flower"),
                "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
                OUTPUT: str(state / "output.log"),
                READY: str(state / "ready"),
            }
            (state / "ready").unlink(missing_ok=True)
            log = state / "flower.log"
            link = stack.enter_context(
                flower("superlink", _superlink_arguments(settings, host, port, state, tls), log, environment)
            )
            control.wait(START, lambda: link.poll() is None)
            for key in keys:
                control.register(key)
            control.stop_runs()
            (state / "ready").touch()
            stack.enter_context(_executor(f"{here}:{port}", tls, state, environment))
        elif keys:
            for key in keys:
                control.register(key)
        output = Tail((running or state) / "output.log")
        alive(folder).unlink(missing_ok=True)
        control.start_run(settings)
        print(f"listening on {host}:{port}{'' if tls else ' without TLS'}; waiting for clients", flush=True)
        with relayed() as for_the_bar:
            _follow(folder, output, for_the_bar, lambda: running is not None or link.poll() is None)
        if settings.keep_running and running is None:
            print("the run is done; staying for the next one with the same --listen (Ctrl-C ends it)", flush=True)
            while link.poll() is None:
                with relayed() as for_the_bar:
                    _show(output, for_the_bar)
                time.sleep(LOOK)
    return folder


def alive(folder: Path) -> Path:
    """The file that a run's ServerApp holds a lock on."""
    return folder / "server" / "alive"


def hold(path: Path) -> None:
    """Lock a file until this process ends, in whatever way it does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, b"%d\n" % os.getpid())


def _follow(folder: Path, output: Tail, for_the_bar: Callable[[str], bool], link_lives: Callable[[], bool]) -> None:
    """Show what the run says until its process ends. Raises WordflockError where it ends before it is done."""
    started, held, done = time.monotonic(), alive(folder), folder / "metrics.json"
    before = done.stat().st_mtime_ns if done.exists() else 0
    go_on = f"go on with: wordflock server --resume {folder}"
    while True:
        _show(output, for_the_bar)
        if not link_lives():
            raise WordflockError(f"Flower's SuperLink ended (its log: {folder}/server/flower.log); {go_on}")
        if held.exists() and held.stat().st_size and not _held(held):
            break
        if not held.exists() and time.monotonic() - started > START:
            raise WordflockError(f"The run does not start (see {folder}/server/flower.log); {go_on}")
        time.sleep(LOOK)
    _show(output, for_the_bar)
    if not done.exists() or done.stat().st_mtime_ns == before:
        raise WordflockError(f"The run ended before it was done; {go_on}")


def _held(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _show(output: Tail, for_the_bar: Callable[[str], bool]) -> None:
    for line in output.lines():
        # What Flower says of the program that it was sent is of no interest.
        if not for_the_bar(line) and not line.startswith("Successfully installed"):
            print(line, flush=True)


def _settled(settings: ServerSettings) -> ServerSettings:
    """The settings with everything decided that can be: the run's own ones for --resume, a name, whole paths."""
    if settings.resume:
        folder = next((f for f in (Path(settings.resume), Path(settings.runs) / settings.resume) if f.is_dir()), None)
        if folder is None or not (folder / "config.toml").exists():
            raise WordflockError(f"--resume {settings.resume} is no run; name a folder with a config.toml.")
        before = ServerSettings.from_config(tomllib.loads((folder / "config.toml").read_text()))
        folder = folder.resolve()
        settings = replace(
            before,
            resume=str(folder),
            name=folder.name,
            runs=str(folder.parent),
            keep_running=settings.keep_running,
        )
    files: dict[str, Any] = {
        key: str(Path(value).expanduser().resolve())
        for key in ("data", "table", "runs", "certificates", "require_keys")
        if (value := getattr(settings, key)) and value != "synthetic"
    }
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
        files = tuple(Path(settings.certificates) / name for name in (CA, CERTIFICATE, KEY))
        for file in files:
            if not file.is_file():
                raise WordflockError(
                    f"There is no {file}; make it with: wordflock certificates {settings.certificates}"
                )
        return files[0], files[1], files[2]
    if settings.require_keys:
        raise WordflockError("--require-keys works with TLS only; add --certificates.")
    if not settings.insecure and not _loopback(host):
        raise WordflockError(
            f"--listen {settings.listen} without TLS would let anyone on the network read and change what is learned; "
            "add --certificates (see 'wordflock certificates'), or --insecure if that is what you want."
        )
    return None


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _public_keys(settings: ServerSettings) -> list[Path]:
    if not settings.require_keys:
        return []
    keys = sorted(Path(settings.require_keys).glob("*.pub"))
    if not keys:
        raise WordflockError(f"--require-keys {settings.require_keys} has no public keys (*.pub).")
    return keys


def _superlink_arguments(
    settings: ServerSettings, host: str, port: int, state: Path, tls: tuple[Path, Path, Path] | None
) -> list[str]:
    arguments = ["--host", host, "--port", str(port), "--database", str(state / "state.sqlite")]
    arguments += ["--isolation", "process", "--disable-runtime-dependency-installation"]
    arguments += ["--superexec-auth-secret-file", str(state / "secret")]
    if tls is None:
        return [*arguments, "--insecure"]
    for option, file in zip(("ca-certfile", "certfile", "keyfile"), tls, strict=True):
        arguments += [f"--ssl-{option}", str(file)]
    return [*arguments, *["--enable-supernode-auth"] * bool(settings.require_keys)]


@contextmanager
def _executor(
    address: str, tls: tuple[Path, Path, Path] | None, state: Path, environment: dict[str, str]
) -> Iterator[None]:
    """Flower's SuperExec, which starts the ServerApp."""
    arguments = ["--runtime-api-address", address, "--superexec-auth-secret-file", str(state / "secret")]
    arguments += ["--insecure"] if tls is None else ["--root-certificates", str(tls[0])]
    environment = {**environment, KIND: "serverapp"}
    with flower("superexec", arguments, state / "flower.log", environment, state / "output.log"):
        yield


def _encode(settings: ServerSettings) -> None:
    from wordflock.federation.members import server_side

    server_side(settings)


def _note(settings: ServerSettings, port: int) -> Path:
    return Path(settings.runs) / f".server-{port}.json"


@contextmanager
def _announced(settings: ServerSettings, port: int, state: Path) -> Iterator[None]:
    """A note for the next `wordflock server`, that this one keeps running on the port."""
    if not settings.keep_running:
        yield
        return
    note, held = _note(settings, port), state / "keeps-running"
    hold(held)
    note.write_text(json.dumps(str(state)))
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def _running(settings: ServerSettings, port: int) -> Path | None:
    """The folder of the server that keeps running on the port; None where there is none."""
    note = _note(settings, port)
    if not note.exists():
        return None
    state = Path(json.loads(note.read_text()))
    held = state / "keeps-running"
    return state if held.exists() and _held(held) else None
