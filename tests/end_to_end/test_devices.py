"""A server and clients on the loopback, as real processes: TLS, keys, kills, cuts, and clients that mean harm.

One flock of three clients serves all runs, one after the other: it has to find every server that comes. A new server
costs a start of five processes, and two more a client: so runs that need none of their own share one, once it is there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from flock import Proxy, Started, family, free_port, kill, random_encoder, runs, stop_all, tones, wait_until

from wordflock.devices.certificates import make_certificates
from wordflock.head.checkpoint import load_checkpoint

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")

SPEAKERS = [f"{number:08x}" for number in range(40)]
TASK = ["--no-silence", "--no-unknown", "--keywords", "low,mid,high,top"]
TRAINING = ["--clients-per-round", 3, "--local-epochs", 2, "--batch-size", 8]


@dataclass
class Flock:
    """What all runs share."""

    folder: Path
    port: int
    data: Path
    features: list[object]
    clients: dict[str, Started]
    proxy: Proxy
    simulations: list[Started] = field(default_factory=list)
    standing: Started | None = None  # the server that keeps running, on which `server` starts runs while it is there

    def server(self, name: str, *arguments: object, **options: object) -> Started:
        """A server with TLS that requires keys."""
        shared: dict[str, object] = {"listen": f"127.0.0.1:{self.port}", "min-clients": 3, "round-timeout": 60}
        given = [part for key, value in {**shared, **options}.items() for part in (f"--{key}", value)]
        safe = ["--certificates", self.folder / "tls", "--authorized-keys", self.folder / "tls" / "keys"]
        where = ["--runs", self.folder / "runs", "--name", name, "--data", self.data, "--clients", 3]
        arguments = (*safe, *where, *self.features, *TASK, *TRAINING, *given, *arguments)
        return Started(self.folder, name, "server", *arguments)

    def client(
        self, name: str, *arguments: object, key: str = "", port: int = 0, ca: str = "tls", **how: Any
    ) -> Started:
        """A client with a CA and a key."""
        trust = ["--ca", self.folder / ca / "ca.crt", "--key", self.folder / "tls" / "clients" / f"{key or name}.key"]
        where = ["--server", f"127.0.0.1:{port or self.port}", *trust, *self.features, "--head", "combined"]
        return Started(self.folder, name, "client", *where, *arguments, **how)

    def boot(self) -> None:
        """Start the three clients."""
        for cid in range(3):
            name, through = f"client-{cid}", self.proxy.port if cid == 2 else self.port
            self.clients[name] = self.client(name, *self.partition(cid), "--reconnect-timeout", 0, port=through)
        for cid in range(3):
            self.clients[f"client-{cid}"].wait_for("clips ready")

    def simulation(self, name: str, *arguments: object) -> Started:
        """The same federation in a simulation, beside what the test waits for."""
        where = ["--runs", self.folder / "runs", "--name", name, "--data", self.data, "--clients", 3]
        arguments = (*where, *self.features, *TASK, *TRAINING, *arguments)
        self.simulations.append(Started(self.folder, name, "simulate", *arguments))
        return self.simulations[-1]

    def partition(self, cid: int) -> list[object]:
        """The options of a client that plays its part of the shared data set."""
        return ["--data", self.data, "--cid", cid, "--clients", 3, *TASK]

    def stand_down(self) -> None:
        """End the server that keeps running, if there is one, with all that it started."""
        if (server := self.standing) is None:
            return
        self.standing, pids = None, family(server.process.pid)
        with server:
            server.process.send_signal(signal.SIGTERM)
            assert server.wait() == 130
        assert not [pid for pid in pids if "wordflock" in runs(pid)], "the server leaves processes behind"
        assert not list((self.folder / "runs").glob(".server-*.json"))

    def run(self, name: str) -> Path:
        """A run's folder."""
        return self.folder / "runs" / name

    def history(self, name: str) -> list[dict[str, Any]]:
        """A run's rounds."""
        path = self.run(name) / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def flock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flock]:
    folder = tmp_path_factory.mktemp("devices")
    data = tones(folder / "data", SPEAKERS, takes=2)
    encoder = random_encoder(folder / "encoder.safetensors")
    names = [f"client-{cid}" for cid in range(3)]
    make_certificates(folder / "tls", ["127.0.0.1"], [*names, "late", "nan", "huge"])
    make_certificates(folder / "other", ["127.0.0.1"], ["stranger"])
    port = free_port()
    features: list[object] = ["--cache", folder / "cache", "--encoder", encoder, "--window", 0.4]
    flock = Flock(folder, port, data, features, {}, Proxy(port))
    flock.boot()
    yield flock
    started = [pid for client in flock.clients.values() for pid in family(client.process.pid)]
    stop_all([*flock.clients.values(), *flock.simulations])
    flock.proxy.close()
    flock.stand_down()
    assert not [pid for pid in started if "wordflock" in runs(pid)], "clients leave processes behind"


def last_head(flock: Flock, simulation: Started) -> dict[str, np.ndarray[Any, Any]]:
    """The head that a simulation ends with."""
    assert simulation.wait() == 0, simulation.output
    return load_checkpoint(flock.run(simulation.name) / "last.safetensors").weights


def test_resumed_after_kills_it_ends_as_if_nothing_had_happened(flock: Flock) -> None:
    flock.stand_down()
    simulation = flock.simulation("killed-simulated", "--strategy", "fedadam", "--rounds", 4)
    with flock.server("killed", "--strategy", "fedadam", rounds=4) as server:
        server.wait_for("round 1: accuracy")
        os.kill(int((flock.run("killed") / "server" / "alive").read_text()), signal.SIGKILL)  # the ServerApp
        assert server.wait() == 2
        assert "ended before it was done; go on with: wordflock server --resume" in server.output
    before = (flock.run("killed") / "history.jsonl").read_text()
    resume = ["server", "--resume", flock.run("killed")]
    with Started(flock.folder, "resumed", *resume) as server:
        done = len(before.splitlines())
        server.wait_for(f"round {done + 1}: accuracy")
        assert server.output.count(f"going on after round {done}") == 1
        links = [pid for pid in family(server.process.pid) if "flower superlink" in runs(pid)]
        assert len(links) == 1
        kill(links)
        assert server.wait() == 2
        assert "SuperLink ended" in server.output
    with Started(flock.folder, "resumed-again", *resume) as server:
        server.wait_for("round 3: accuracy")
        # The power fails for all of them. When it is back, systemd starts the clients at boot; the server comes later.
        for machine in (server, *flock.clients.values()):
            machine.pull_the_plug()
    flock.boot()
    with Started(flock.folder, "rebooted", *resume) as server:
        server.wait_for("going on after round 3")
        pids = family(server.process.pid)
        assert server.wait() == 0, server.output
    for client in flock.clients.values():
        client.wait_for("no more rounds come")
    assert not [pid for pid in pids if "wordflock" in runs(pid)], "the server leaves processes behind"
    history = flock.history("killed")
    assert [line["round"] for line in history] == [1, 2, 3, 4]
    assert (flock.run("killed") / "history.jsonl").read_text().startswith(before), "rounds were done anew"
    expected = last_head(flock, simulation)
    weights = load_checkpoint(flock.run("killed") / "last.safetensors").weights
    assert {name: array.tobytes() for name, array in weights.items()} == {n: a.tobytes() for n, a in expected.items()}


def test_three_rounds_give_the_simulation_s_head_and_the_server_takes_the_next_run(flock: Flock) -> None:
    flock.stand_down()
    simulation = flock.simulation("plain-simulated", "--rounds", 3)
    server = flock.standing = flock.server("plain", "--keep-running", "--dashboard", "127.0.0.1:0", rounds=3)
    server.wait_for("waiting for clients")
    # A client that is refused does not keep the others from their work.
    wrong_ca = flock.client("wrong-ca", *flock.partition(0), key="client-0", ca="other")
    plain = Started(flock.folder, "plain-text", "client", "--server", f"127.0.0.1:{flock.port}", *flock.partition(0))
    stranger_key = flock.folder / "other" / "clients" / "stranger.key"
    wrong_key = Started(
        flock.folder, "wrong-key", "client", "--server", f"127.0.0.1:{flock.port}",
        "--ca", flock.folder / "tls" / "ca.crt", "--key", stranger_key, *flock.features, *flock.partition(0),
    )  # fmt: skip
    with wrong_ca, plain, wrong_key:
        assert wrong_ca.wait() == 2
        assert "is not certified by the CA" in wrong_ca.output
        assert plain.wait() == 2
        assert "wants TLS" in plain.output
        assert wrong_key.wait() == 2, wrong_key.output
        assert re.search(r"turned this client away: it does not know the key .*stranger\.key", wrong_key.output)
    server.wait_for("a client at 127.0.0.1 was turned away: its key is not among those of --authorized-keys")
    server.wait_for("a client was turned away: it does not trust this server's certificate; see its --ca")
    server.wait_for("a client was turned away: it does not speak TLS; start it with --ca")
    server.wait_for("the run is done; staying for the next one")
    page = server.wait_for(r"http://127\.0\.0\.1:\d+/")
    with urlopen(page, timeout=10) as shown:
        text = shown.read().decode()
    assert "finished" in text and "3 of 3" in text and text.count("replied") == 3
    with flock.server("second", rounds=1) as second:
        assert second.wait() == 0, second.output
    assert len(flock.history("second")) == 1
    assert "second is done; its head is" in said_at_once(flock.folder, "server", "--resume", flock.run("second"))
    openly = ["server", "--listen", f"127.0.0.1:{flock.port}", "--runs", flock.folder / "runs"]
    said = said_at_once(flock.folder, *openly)
    assert re.search(r"The server that keeps running on port \d+ has .*--authorized-keys .*; give the same", said)
    # Who is told to stop takes along the run, not the server that runs it.
    with flock.server("stopped", rounds=999) as stopped:
        stopped.wait_for("round 1: clients")
        # Who comes with another's number hears why it is turned away, and ends.
        with flock.client("impostor", *flock.partition(0), key="late") as impostor:
            assert impostor.wait() == 2, impostor.output
            assert "turned this client away: the number 0 belongs to another key in this run" in impostor.output
        stopped.process.send_signal(signal.SIGTERM)
        assert stopped.wait() == 130
        assert "go on with: wordflock server --resume" in stopped.output
    app = int((flock.run("stopped") / "server" / "alive").read_text())
    wait_until(lambda: not runs(app), "the stopped run's ServerApp ends")
    assert [line["round"] for line in flock.history("plain")] == [1, 2, 3]
    metrics = json.loads((flock.run("plain") / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.8  # of four words
    assert [client["client"] for client in metrics["clients"]] == [0, 1, 2]
    for client in metrics["clients"]:
        assert client["rounds"] == 3
        assert client["processor"]
        assert client["train_seconds_per_round"] > 0
        assert client["encode_seconds"] > 0
        assert 0 < client["peak_memory"] < 2e9
        size = sum(w.nbytes for w in load_checkpoint(flock.run("plain") / "last.safetensors").weights.values())
        for way in ("bytes_up", "bytes_down"):
            assert 0.5 * size < client[way] / 3 < size, "a head travels packed"
    expected = last_head(flock, simulation)
    simulated = json.loads((flock.run("plain-simulated") / "metrics.json").read_text())["clients"]
    assert [client["holdout"] for client in metrics["clients"]] == [client["holdout"] for client in simulated]
    weights = load_checkpoint(flock.run("plain") / "last.safetensors").weights
    assert {name: array.tobytes() for name, array in weights.items()} == {n: a.tobytes() for n, a in expected.items()}


# What `sitecustomize` does in a client: where a round's head is made, and where the process of a message ends.
HARM = """
import os
if os.environ.get("WORDFLOCK_APP") == "clientapp":
    from wordflock.federation import client_app
    honest = client_app._trained
    def lying(*arguments):
        weights, loss = honest(*arguments)
        return {{name: array * {factor} for name, array in weights.items()}}, loss
    client_app._trained = lying
"""
WATCH = """
import os, sys
if os.environ.get("WORDFLOCK_APP") == "clientapp":
    leave = os._exit
    def tell(status):
        with open({file!r}, "a") as file:
            file.write(" ".join(sys.modules) + "\\n")
        leave(status)
    os._exit = tell
"""


def own_client(flock: Flock, name: str, custom: str) -> Started:
    """A client with recordings of its own, and Python customized in its processes."""
    own = tones(flock.folder / f"{name}-data", ["0000beef"], takes=10, seed=len(name))
    site = flock.folder / f"{name}-site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(custom)
    environment = {"PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    flock.clients[name] = flock.client(name, "--data", own, "--name", name, environment=environment)
    return flock.clients[name]


def test_a_round_without_a_quorum_is_repeated_with_others_and_harm_changes_nothing(flock: Flock) -> None:
    harmful = [own_client(flock, "nan", HARM.format(factor="float('nan')"))]
    harmful += [own_client(flock, "huge", HARM.format(factor="1e6"))]
    for client in harmful:
        client.wait_for("clips ready")
    simulation = flock.simulation("harmed-simulated", "--rounds", 1)
    with flock.server("harmed", **{"rounds": 1, "min-clients": 5, "min-replies": 3}) as server:
        assert server.wait() == 0, server.output
        said = server.output
    stop_all(harmful)
    drawn = [set(re.findall(r"\d+", names)) for names in re.findall(r"round 1: clients (.*) train, of 5 con", said)]
    assert len(drawn) > 1 and said.count("answered well, too few; again with others") == len(drawn) - 1
    assert drawn[1] > set.union(*drawn) - drawn[0], "those who were not asked yet come first"
    assert drawn[-1] == {"0", "1", "2"}
    assert re.search(r"client \d+ \(nan\) sent numbers that are not finite", said)
    assert re.search(r"client \d+ \(huge\) sent an update of norm \S+, which no training gives", said)
    metrics = json.loads((flock.run("harmed") / "metrics.json").read_text())
    refused = [problem for line in flock.history("harmed") for problem in line["refused"]]
    assert metrics["refused"] == len(refused) == len(re.findall(r"\((?:nan|huge)\) sent", said))
    # The head is that of the three who mean well, to the last bit: and with it, its accuracy.
    expected = last_head(flock, simulation)
    weights = load_checkpoint(flock.run("harmed") / "last.safetensors").weights
    assert {name: array.tobytes() for name, array in weights.items()} == {n: a.tobytes() for n, a in expected.items()}


HEAVY = {
    "transformers", "wordflock.encoder.torch_encoder", "wordflock.prepare",
    "soundfile", "soxr", "torchaudio", "torchmetrics", "sklearn", "scipy", "datasets", "flwr_datasets", "pandas",
    "pyarrow", "matplotlib", "tensorboard", "huggingface_hub", "safetensors", "onnxruntime",
}  # fmt: skip


def test_late_clients_a_power_cut_and_a_network_cut(flock: Flock) -> None:
    options = {"rounds": 6, "clients-per-round": 9, "upload-dtype": "float16", "round-timeout": 25}
    modules = flock.folder / "modules"
    with flock.server("rough", **options) as server:
        server.wait_for("round 1: accuracy")
        own_client(flock, "late", WATCH.format(file=str(modules))).wait_for("connected to")
        done = len(flock.history("rough"))
        flock.clients["client-1"].wait_for(rf"round {done + 2}: training")
        flock.clients["client-1"].pull_the_plug()
        cut = flock.clients["client-2"]
        before = cut.output.count("trying again")
        flock.proxy.cut()
        cut.wait_for("trying again", times=before + 1)
        flock.proxy.mend()
        server.wait_for("client 1 did not answer in time")
        assert server.wait() == 0, server.output
        assert re.search(r"client \d+ \(late\) is here, with \d+ clips", server.output)
    history = flock.history("rough")
    assert [line["round"] for line in history] == list(range(1, 7))
    late = next(number for line in history for number in line["clients"] if number > 2)
    assert late in history[-1]["clients"]
    assert 2 in history[-1]["clients"], "the client behind the cut network is back"
    metrics = json.loads((flock.run("rough") / "metrics.json").read_text())
    assert metrics["refused"] >= 1
    assert metrics["test"]["accuracy"] > 0.8
    size = sum(w.nbytes for w in load_checkpoint(flock.run("rough") / "last.safetensors").weights.values())
    assert history[-1]["bytes_up"] < 0.6 * size
    # What the late client's processes had imported when they ended: one of its own for each message, and one is enough.
    messages = [set(line.split(" ")) for line in modules.read_text().splitlines()]
    assert len(messages) > 2 and all("wordflock.federation.client_app" in imported for imported in messages)
    assert not set.union(*messages) & HEAVY, "a round on a device has no use for these"


def said_at_once(folder: Path, *arguments: object) -> str:
    """What a command that cannot work prints, which is one sentence."""
    with Started(folder, f"wrong-{len(list(folder.iterdir()))}", *arguments) as wrong:
        assert wrong.wait() == 2, wrong.output
        assert wrong.output.count("\n") <= 2, wrong.output
        return wrong.output


def test_mistakes_are_told_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = said_at_once(tmp_path, "server", "--listen", f"127.0.0.1:{port}", "--runs", tmp_path / "runs")
        assert f"--listen 127.0.0.1:{port} cannot be had: Address already in use." in said
    said = said_at_once(tmp_path, "server", "--listen", "0.0.0.0:0", "--runs", tmp_path / "runs")
    assert "without TLS would let anyone" in said
    (tmp_path / "empty").mkdir()
    server = ["client", "--server", f"127.0.0.1:{free_port()}", "--cache", tmp_path / "cache"]
    said = said_at_once(tmp_path, *server, "--data", tmp_path / "empty")
    assert str(tmp_path / "empty") in said
    data = tones(tmp_path / "data", SPEAKERS[:2], takes=1)
    encoder = random_encoder(tmp_path / "encoder.safetensors")
    own = ["--data", data, "--encoder", encoder, "--window", 0.4, "--reconnect-timeout", 2]
    with Started(tmp_path, "lonely", *server, *own) as lonely:
        assert lonely.wait() == 2
    assert re.search(r"No server at 127\.0\.0\.1:\d+ for \d+ s .*; giving up\.", lonely.output)
