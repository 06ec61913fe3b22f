"""A client on a real device: encode its clips, connect, serve rounds, come back when the network does."""

from __future__ import annotations

import re
import secrets
import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from wordflock.addresses import is_loopback, split_address
from wordflock.devices.connection import unreachable
from wordflock.devices.flower import KIND, REFUSED
from wordflock.devices.processes import Tail, flower, free_port, in_own_process, stoppable
from wordflock.errors import WordflockError, counted
from wordflock.federation_settings import ClientSettings
from wordflock.files import read_named
from wordflock.progress import report
from wordflock.settings import resolved_paths

POLL_INTERVAL = 0.2  # seconds between two looks at what the SuperNode does
INITIAL_PAUSE, MAX_PAUSE = 1.0, 30.0  # seconds between two tries to reach the server
# What a SuperNode logs when it may not register or is not known, by HTTP's status or Flower's ApiErrorCode.
NOT_LET_IN = r"'40[13] |\[code: 200[14]\]"
MAX_LOG_BYTES = 5_000_000  # bytes, for the sake of the SD card


def serve_rounds(settings: ClientSettings) -> None:
    """Take part in the server's run until it is over; with --reconnect-timeout 0 in all its runs, until interrupted.

    Raises WordflockError where the server cannot be trusted, does not want this client, or is gone for too long.
    """
    settings = _resolved(settings)
    host, port = split_address(settings.server_address, "--server")
    context = _tls(settings, host)
    if settings.key:
        from wordflock.devices.certificates import check_private_key

        check_private_key(Path(settings.key))
    unreachable(host, port, context)  # a server that cannot be trusted is better known before the clips are encoded
    member = in_own_process(_prepare, settings)
    log = member.with_suffix(".log")
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.unlink()
    gone_since, pause, said = time.monotonic(), INITIAL_PAUSE, ""
    with stoppable():
        while True:
            problem = unreachable(host, port, context)
            if not problem:
                problem, gone_since = _serve_while_it_lasts(settings, host, port, context, member, log)
                if not problem:
                    report("the run is over")
                    return
                pause = INITIAL_PAUSE
            gone = time.monotonic() - gone_since
            if settings.reconnect_timeout and gone >= settings.reconnect_timeout:
                raise WordflockError(f"No server at {settings.server_address} for {gone:.0f} s ({problem}); giving up.")
            if problem != said:
                report(f"{problem}; trying again")
                said = problem
            left = settings.reconnect_timeout - gone if settings.reconnect_timeout else pause
            time.sleep(min(pause, left))
            pause = min(2 * pause, MAX_PAUSE)


def _serve_while_it_lasts(
    settings: ClientSettings, host: str, port: int, context: ssl.SSLContext | None, member: Path, log: Path
) -> tuple[str, float]:
    """Run a SuperNode until it ends by itself, or the run is over; returns why it ended, empty where the run is over,
    and since when the server has not answered it."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    port_here = free_port()
    arguments = ["--superlink", address, "--port", str(port_here), "--isolation", "process"]
    arguments += ["--node-config", f'wordflock-device="{member}"']
    if settings.reconnect_timeout:
        arguments += ["--max-wait-time", str(settings.reconnect_timeout)]
    arguments += ["--insecure"] if context is None else ["--root-certificates", settings.ca] * bool(settings.ca)
    arguments += ["--auth-supernode-private-key", settings.key] * bool(settings.key)
    environment = {"FLWR_HOME": str(member.with_suffix(".flower")), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5"}
    runner = ["--runtime-api-address", f"127.0.0.1:{port_here}", "--insecure"]
    secret = member.with_suffix(".secret")  # with which the two know each other
    secret.touch(0o600)
    secret.write_text(secrets.token_hex(32))
    for each in (arguments, runner):
        each += ["--superexec-auth-secret-file", str(secret)]
    tail = Tail(log)
    with (
        flower("supernode", arguments, log, environment, proxies=not is_loopback(host)) as node,
        flower("superexec", runner, log, {**environment, KIND: "clientapp"}) as executor,
    ):
        story = SuperNodeLog(settings.server_address)
        while True:
            ended = node.poll() is not None or executor.poll() is not None
            for line in tail.lines():
                story.tell(line)
            if story.unwanted and settings.reconnect_timeout:  # else it waits for the next run, which may want it
                raise WordflockError(f"The server {settings.server_address} turned this client away: {story.unwanted}.")
            if story.is_over and settings.reconnect_timeout:
                return "", time.monotonic()
            if ended:
                break
            time.sleep(POLL_INTERVAL)
    if node.returncode == REFUSED:
        raise WordflockError(
            f"The server {settings.server_address} sent a program of its own "
            f"({story.refused}), and this client runs none; "
            "use a server started with 'wordflock server' of the same version."
        )
    if not story.connected and story.turned_away:
        raise WordflockError(
            f"The server {settings.server_address} turned this client away: "
            + (f"it does not know the key {settings.key}." if settings.key else "it requires a --key.")
        )
    ended_by = f" ({story.failure})" if story.failure else ""
    return f"the connection to {settings.server_address} ended{ended_by}", story.silent_since or time.monotonic()


class SuperNodeLog:
    """What of a SuperNode's log its user wants to know."""

    def __init__(self, server: str) -> None:
        self.connected, self.turned_away, self.refused, self.failure = False, False, "", ""
        self.unwanted = ""  # why the server takes nothing from this client
        self.is_over = False  # the server has said so, and knows that this client heard it
        self.silent_since: float | None = None  # when the server last stopped to answer, on the monotonic clock
        self._server, self._round, self._failing, self._over = server, "", False, False

    def tell(self, line: str) -> None:
        """Take in one line of the log, and say it in our words where it matters."""
        line = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
        if "SuperNode ID" in line:
            self.connected = True
            report(f"connected to {self._server}")
        elif "[RUN" in line:
            found = re.search(r"ROUND (\d+)", line)
            self._round = f"round {found[1]}: " if found else ""
        elif found := re.search(r"Receiving: ([\w.]+)", line):
            self._over = found[1] == OVER
            if found[1] == UNWANTED:
                return  # the next line says why
            report(f"{self._round}{WORK.get(found[1], found[1])}")
        # The SuperNode's, not the SuperExec's: that one waits for the SuperNode, which takes its time on a small board.
        elif re.match("WARNING.*retrying in", line) and self.silent_since is None:
            self.silent_since = time.monotonic()
            report(f"{self._server} does not answer; trying again")
        elif re.match("INFO.*Connection successful", line) and self.silent_since is not None:
            self.silent_since = None
            report(f"{self._server} answers again")
        elif "Sent successfully" in line:
            self.is_over = self._over
        elif line.startswith("REFUSED: "):
            self.refused = line.removeprefix("REFUSED: ")
        elif line.startswith("TURNED AWAY: "):
            self.unwanted = line.removeprefix("TURNED AWAY: ")
            report(f"{self._server} takes nothing from this client: {self.unwanted}")
        elif "raised an exception" in line:
            report(f"{self._round}failed; see the log of this client")
        elif "Failed to initialize the connection" in line:
            self._failing = True
        elif self._failing and line:  # the line after it says why
            self.failure, self._failing = line[:200], False
            self.turned_away = bool(re.search(NOT_LET_IN, line))


OVER, UNWANTED = "query.over", "query.turned_away"
WORK = {
    OVER: "no more rounds come",
    "query": "introducing this client",
    "train": "training",
    "train.scale": "computing scale statistics",
    "train.statistics": "computing statistics",
    "train.private": "computing statistics of clipped contributions",
    "train.keys": "secure aggregation, 1 of 4: making keys",
    "train.shares": "secure aggregation, 2 of 4: sharing secrets with other clients",
    "train.masked": "secure aggregation, 3 of 4: training or computing statistics, and adding masks",
    "train.unmask": "secure aggregation, 4 of 4: removing the masks from the total",
    "evaluate": "scoring the head",
}


def _resolved(settings: ClientSettings) -> ClientSettings:
    if not settings.server_address:
        raise WordflockError("A client needs a server; say where it is with --server HOST:PORT.")
    files: dict[str, Any] = {
        key: resolved_paths(value)
        for key in ("data", "table", "negatives", "noise", "rooms", "ca", "key")
        if (value := getattr(settings, key))
    }
    return replace(settings, **files)


def _tls(settings: ClientSettings, host: str) -> ssl.SSLContext | None:
    """How to verify the server; None for connections without TLS, where they are allowed."""
    if settings.ca:
        try:
            read_named(Path(settings.ca))  # which does not wait for a pipe
            return ssl.create_default_context(cafile=settings.ca)
        except OSError as error:
            raise WordflockError(
                f"--ca {settings.ca} is not a certificate ({error.strerror or error}); give the ca.crt of "
                "'wordflock certificates'."
            ) from error
    if settings.insecure or is_loopback(host):
        if settings.key:
            raise WordflockError("--key works with TLS only; add --ca.")
        return None
    raise WordflockError(
        f"Cannot verify the server {settings.server_address}; give its CA's certificate with --ca, or --insecure."
    )


def _prepare(settings: ClientSettings) -> Path:
    from wordflock.federation.device import load_device, prepare_device

    path = prepare_device(settings)
    device = load_device(str(path))
    clips, holdout = len(device.train) + len(device.holdout), len(device.holdout)
    apart = f" ({holdout} of them to score heads on)" if holdout else ""
    report(f"client {device.client}: {counted(clips, 'clip')} ready{apart}, encoded in {device.encode_seconds:.1f} s")
    return path
