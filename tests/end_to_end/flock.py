"""What the tests on real devices need: processes that end with the test, tones for words, a proxy that drops."""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

WORDS = {"low": 300.0, "mid": 700.0, "high": 1500.0, "top": 3000.0}  # Hz
TASK = ["--no-silence", "--no-unknown", "--keywords", ",".join(WORDS)]
COMMAND = [sys.executable, "-c", "from wordflock.cli import main; main()"]


class Started:
    """A `wordflock` command in a process of its own; what it prints is in a file."""

    def __init__(self, folder: Path, name: str, *arguments: object, environment: dict[str, str] | None = None) -> None:
        self.name, self.log = name, folder / f"{name}.out"
        self._family: list[int] = []  # when it was asked to end
        with self.log.open("ab") as file:
            self._from = file.tell()
            self.process = subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def __enter__(self) -> Started:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        with self.log.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    def wait_for(self, pattern: str, seconds: float = 150.0, times: int = 1) -> str:
        """Wait until the pattern stands in the output, `times` times; returns the last match."""
        started = time.monotonic()
        while len(found := list(re.finditer(pattern, self.output))) < times:
            ended = self.process.poll() is not None and len(re.findall(pattern, self.output)) < times
            assert not ended, f"{self.name} ended ({self.process.returncode}) without {pattern!r}:\n{self.output}"
            late = time.monotonic() - started > seconds
            assert not late, f"{self.name} has not said {pattern!r} within {seconds} s:\n{self.output}"
            time.sleep(0.05)
        return found[-1][0]

    def wait(self, seconds: float = 240.0) -> int:
        """Wait for the end; returns the exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end within {seconds} s:\n{self.output}") from None

    def ask_to_end(self) -> None:
        """Ask it to end, as systemd would; for several to do so together."""
        if self.process.poll() is None and not self._family:  # else its number may be another's by now
            self._family = family(self.process.pid)
            self.process.terminate()

    def stop(self) -> int:
        """End it as systemd would, and for good if need be."""
        self.ask_to_end()
        if self.process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
            kill(self._family)
        return self.process.wait()

    def pull_the_plug(self) -> None:
        """Kill it and all that it started, at once: no goodbye to the server."""
        kill(family(self.process.pid))
        self.process.wait()


def stop_all(commands: Iterable[Started]) -> None:
    """End several at once."""
    commands = list(commands)
    for command in commands:
        command.ask_to_end()
    for command in commands:
        command.stop()


def end_with_parent() -> None:
    """Have the kernel end this process with the tests, even where those are killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def family(pid: int) -> list[int]:
    """A process and all that descend from it, the youngest first."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[::-1]


def runs(pid: int) -> str:
    """The command line of a process; empty where it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Look again and again until something is true."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tones(folder: Path, speakers: list[str], takes: int, seed: int = 0) -> Path:
    """Clips of 0.4 s in the layout of Speech Commands: a word is a pitch, a speaker bends it, noise is around it."""
    import soundfile

    generator = np.random.default_rng(seed)
    time_axis = np.arange(6400) / 16_000
    for word, pitch in WORDS.items():
        (folder / word).mkdir(parents=True, exist_ok=True)
        for speaker in speakers:
            for take in range(takes):
                bent = pitch * generator.uniform(0.9, 1.1)
                clip = 0.3 * np.sin(2 * np.pi * bent * time_axis) + 0.02 * generator.normal(size=6400)
                soundfile.write(folder / word / f"{speaker}_nohash_{take}.wav", clip, 16_000)
    return folder


def random_encoder(path: Path) -> Path:
    """A Whisper encoder of three narrow layers that nobody trained."""
    from safetensors.numpy import save_file

    from wordflock.encoder import weights

    generator = np.random.default_rng(0)
    sizes = weights.Dimensions(mels=80, width=64, layers=3, attention_heads=1, positions=50)
    scale = {"conv1.weight": 0.1, "conv2.weight": 0.1}
    tensors = {
        f"model.encoder.{name}": (generator.normal(size=shape) * scale.get(name, 0.15)).astype(np.float32)
        for name, shape in weights.shapes(sizes)
    }
    save_file(tensors, path)
    return path


class Proxy:
    """A network between a client and the server, which can be cut and mended."""

    def __init__(self, target: int) -> None:
        self.port, self._target, self._up, self._open = free_port(), target, True, True
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop every connection, and take no new ones."""
        self._up = False

    def mend(self) -> None:
        """Let connections through again."""
        self._up = True

    def close(self) -> None:
        """End for good."""
        self._open = self._up = False
        self._listener.close()

    def _accept(self) -> None:
        while self._open:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._up:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, suppress(OSError):
            while self._up:
                for source in select.select([client, server], [], [], 0.1)[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    (server if source is client else client).sendall(data)


@dataclass
class Three:
    """Three clients, which find every server that comes."""

    folder: Path
    port: int
    features: list[object]
    data: list[object]
    holdout: float
    stack: ExitStack  # of what has to end with them
    standing: bool = False
    clients: dict[int, Started] = field(default_factory=dict)

    @property
    def shared(self) -> list[object]:
        """The options of a server, of a simulation and of clients that share the data set."""
        return [*self.data, *self.features, *TASK]

    def run(self, name: str) -> Path:
        """A run's folder."""
        return self.folder / "runs" / name

    def server(self, name: str, *options: object, data: bool = True) -> Started:
        """A server of theirs, with the data set or without, or the run of that name on the one that is there."""
        at = ["--listen", f"127.0.0.1:{self.port}", "--runs", self.folder / "runs", "--name", name, "--min-clients", 3]
        shared = self.shared if data else [*self.features, *TASK]
        return Started(self.folder, name, "server", *at, "--holdout", self.holdout, *shared, *options)

    def play(self, name: str, *options: object, data: bool = True) -> str:
        """A run to its end; returns what was said. The first one's server keeps running."""
        if self.standing:
            with self.server(name, *options, data=data) as server:
                assert server.wait() == 0, server.output
        else:
            server = self.stack.enter_context(self.server(name, "--keep-running", *options, data=data))
            self.standing = True
            server.wait_for("the run is done; staying for the next one")
        return server.output

    def client(self, name: str, *options: object, **how: Any) -> Started:
        """A client that ends with them."""
        where = ["--server", f"127.0.0.1:{self.port}", "--holdout", self.holdout, "--head", "combined"]
        return self.stack.enter_context(Started(self.folder, name, "client", *where, *options, **how))

    def boot(self, cid: int) -> Started:
        """Start one of the three, which stays for all runs."""
        self.clients[cid] = self.client(f"client-{cid}", "--cid", cid, *self.shared, "--reconnect-timeout", 0)
        return self.clients[cid]


@contextmanager
def three_clients(folder: Path, *features: object, holdout: float = 0.0) -> Iterator[Three]:
    """Three clients that share a data set of four words by 24 speakers; they are ready when the block begins."""
    data = tones(folder / "data", [f"{number:08x}" for number in range(24)], takes=1)
    encoder = random_encoder(folder / "encoder.safetensors")
    usual: list[object] = ["--cache", folder / "cache", "--encoder", encoder, "--window", 0.4]
    shared: list[object] = ["--data", data, "--clients", 3]
    with ExitStack() as stack:
        three = Three(folder, free_port(), [*usual, *features], shared, holdout, stack)
        for cid in range(3):
            three.boot(cid)
        for client in three.clients.values():
            client.wait_for("clips ready")
        yield three
        stop_all(three.clients.values())
