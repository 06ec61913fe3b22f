"""What a federation costs a device: seconds to encode and train on one core, memory in a round, bytes on the network.

    python -m benchmarks.devices --data speech_commands_mini.tar

Needs Linux (processor affinity, /proc). The figures are in RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

COMMAND = [sys.executable, "-m", "wordflock"]


def main() -> None:
    """Measure everything and print it as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="a Speech Commands data set")
    parser.add_argument("--cache", default="", help="a cache whose features may be used for the runs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cache = given.cache or str(folder / "cache")
        figures: dict[str, object] = {"one core": one_core(given.data, folder)}
        figures["devices"] = devices(given.data, cache, folder)
        figures["upload-dtype"] = {kind: upload(given.data, cache, folder, kind) for kind in ("float32", "float16")}
    print(json.dumps(figures, indent=2))


def one_core(data: str, folder: Path) -> dict[str, float]:
    """Encode 850 clips once and train for two epochs, in a process that may use one core.

    The seed system gives its figure for such a client: 19 minutes an epoch on a Raspberry Pi.
    """
    given = ["--data", data, "--cache", str(folder / "one-core")]
    command = [sys.executable, "-m", "benchmarks.ours", "one-core", *given]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def devices(data: str, cache: str, folder: Path) -> dict[str, object]:
    """A server and two clients of 20; the most memory of a client's processes, and what the network carries for it."""
    rounds = 4
    shared = ["--data", data, "--cache", cache, "--clients", "20"]
    server = [*COMMAND, "server", "--listen", "127.0.0.1:18765", "--runs", str(folder), "--name", "run", *shared]
    output = (folder / "server.out").open("w")
    started = [subprocess.Popen([*server, "--rounds", str(rounds)], stdout=output, stderr=output)]
    meter, most = Meter(18765), dict[str, dict[str, float]]()
    try:
        for cid, port in enumerate((meter.port, 18765)):
            client = [*COMMAND, "client", "--server", f"127.0.0.1:{port}", "--cid", str(cid), *shared]
            started.append(subprocess.Popen(client, stdout=subprocess.DEVNULL))
        while started[0].poll() is None:
            now, serves = memory(started[1].pid)
            when = "in rounds" if serves else "before it connects"
            if now["own MB"] > most.get(when, now | {"own MB": 0.0})["own MB"]:
                most[when] = now
            time.sleep(0.1)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    lines = [json.loads(line) for line in (folder / "run" / "history.jsonl").read_text().splitlines()]
    return {
        "most memory of a client": most,
        "clients": metrics["clients"],
        "seconds a round": [line["seconds"] for line in lines],
        "on the network, KB a round": {way: count / rounds / 1000 for way, count in meter.bytes.items()},
    }


class Meter:
    """A way to the server that counts the bytes which pass it, with all that Flower and HTTP add to what is sent."""

    def __init__(self, server: int) -> None:
        self.bytes = {"up": 0, "down": 0}
        self._server = server
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self._server))
            except OSError:
                client.close()
                continue
            for way, source, target in (("up", client, server), ("down", server, client)):
                threading.Thread(target=self._carry, args=(way, source, target), daemon=True).start()

    def _carry(self, way: str, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.bytes[way] += len(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def memory(pid: int) -> tuple[dict[str, float], bool]:
    """Memory of a process and its descendants: own (nobody else's) pages, and their share of libraries and files.

    And whether they serve rounds, with what Flower needs for it.
    """
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    serves, total = False, {"processes": float(len(found)), "own MB": 0.0, "libraries MB": 0.0}
    for each in found:
        try:
            text = Path(f"/proc/{each}/smaps_rollup").read_text()
            serves |= b"superexec" in Path(f"/proc/{each}/cmdline").read_bytes()
        except OSError:
            continue
        kilobytes = {key: int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
        total["own MB"] += kilobytes.get("Pss_Anon", 0) / 1000
        total["libraries MB"] += (kilobytes.get("Pss", 0) - kilobytes.get("Pss_Anon", 0)) / 1000
    return total, serves


def upload(data: str, cache: str, folder: Path, kind: str) -> dict[str, float]:
    """Test accuracy and bytes of a simulation whose clients send in float32 or float16."""
    options = ["--data", data, "--cache", cache, "--clients", "20", "--rounds", "8", "--runs", str(folder)]
    command = [*COMMAND, "simulate", "--name", kind, "--upload-dtype", kind, *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    metrics = json.loads((folder / kind / "metrics.json").read_text())
    last = json.loads((folder / kind / "history.jsonl").read_text().splitlines()[-1])
    return {"test accuracy": metrics["test"]["accuracy"], "bytes up": last["bytes_up"], "rounds": metrics["rounds"]}


if __name__ == "__main__":
    main()
