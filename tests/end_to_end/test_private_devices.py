"""Secure sums and private rounds between real processes: every message has a fresh one, and a run may be resumed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from flock import Started, free_port, random_encoder, tones

from wordflock.checkpoint import load_checkpoint
from wordflock.closed_form import SumsFolder

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")

TASK = ["--no-silence", "--no-unknown", "--keywords", "low,mid,high,top"]
ROUNDS = ["--strategy", "fedavg", "--local-epochs", 1, "--batch-size", 8, "--clients-per-round", 3]
KINDS = {
    "exact": ["--strategy", "exact", "--head", "attentive", "--min-clips", 4],
    "rounds": [*ROUNDS, "--rounds", 1],
}


@dataclass
class Three:
    """Three clients, which find every server that comes."""

    folder: Path
    port: int
    shared: list[object]

    def run(self, name: str) -> Path:
        """A run's folder."""
        return self.folder / "runs" / name

    def server(self, name: str, *options: object) -> Started:
        """A server of theirs."""
        at = ["--listen", f"127.0.0.1:{self.port}", "--min-clients", 3, "--runs", self.folder / "runs", "--name", name]
        return Started(self.folder, name, "server", *at, "--held-back", 0, *self.shared, *options)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("private")
    data = tones(folder / "data", [f"{number:08x}" for number in range(24)], takes=1)
    encoder = random_encoder(folder / "encoder.safetensors")
    cache = ["--cache", folder / "cache", "--encoder", encoder, "--window", 0.4]
    three = Three(folder, free_port(), ["--data", data, "--clients", 3, *cache, *TASK])
    with ExitStack() as stack:
        for cid in range(3):
            where = ["--server", f"127.0.0.1:{three.port}", "--cid", cid, "--held-back", 0]
            client = Started(folder, f"client-{cid}", "client", *where, *three.shared)
            stack.enter_context(client).wait_for("clips ready")
        yield three


@pytest.mark.parametrize("name", KINDS)
def test_secure_sums_give_the_plain_simulation_s_head(three: Three, name: str) -> None:
    with three.server(name, "--secure-sums", *KINDS[name]) as server:
        assert server.wait() == 0, server.output
    costs = json.loads((three.run(name) / "metrics.json").read_text())["clients"]
    assert [cost["client"] for cost in costs] == [0, 1, 2] and "client  rounds" in server.output
    for cost in costs:
        assert cost["rounds"] == 1 and cost["clips"] > 0 and cost["processor"]
        assert cost["train_seconds_per_round"] > 0 and 0 < cost["peak_memory"] < 2e9
        assert cost["bytes_up"] > 0 and cost["bytes_down"] > 0
    where = ["--runs", three.folder / "runs", "--name", f"{name}-plain", "--held-back", 0]
    with Started(three.folder, f"{name}-plain", "simulate", *where, *three.shared, *KINDS[name]) as simulation:
        assert simulation.wait() == 0, simulation.output
    ours, theirs = (load_checkpoint(three.run(run) / "last.safetensors").weights for run in (name, f"{name}-plain"))
    for key, array in theirs.items():
        np.testing.assert_allclose(ours[key], array, atol=1e-3 * max(1.0, float(np.abs(array).max())))


def test_clients_join_a_run_that_is_over_and_leave_it_again(three: Three) -> None:
    """Only the total is kept, and not even that of any one client is ever seen."""
    joined = [*KINDS["exact"], "--secure-sums", "--add-to", three.run("exact")]
    left = [*KINDS["exact"], "--secure-sums", "--take-from", three.run("joined")]
    for name, options in (("joined", joined), ("left", left)):
        with three.server(name, *options) as server:
            assert server.wait() == 0, server.output
    before, twice, after = (SumsFolder(three.run(name) / "sums").read()[1] for name in ("exact", "joined", "left"))
    np.testing.assert_array_equal(twice.counts, 2 * before.counts)
    np.testing.assert_allclose(after.triangle, before.triangle, atol=1e-6)
    ours, theirs = (load_checkpoint(three.run(run) / "best.safetensors").weights for run in ("exact", "left"))
    np.testing.assert_allclose(ours["output.weight"], theirs["output.weight"], atol=1e-3)


def test_private_rounds_keep_to_their_epsilon_through_a_resumption(three: Three) -> None:
    private = ["--rounds", 3, "--dp-epsilon", 20, "--dp-unit", "client"]
    with three.server("private", *ROUNDS, *private) as server:
        server.wait_for("round 1: accuracy")
        os.kill(int((three.run("private") / "server" / "alive").read_text()), signal.SIGKILL)
        assert server.wait() == 2
    with Started(three.folder, "resumed", "server", "--resume", three.run("private")) as server:
        assert server.wait() == 0, server.output
        assert "-differentially private by client" in server.output
    history = [json.loads(line) for line in (three.run("private") / "history.jsonl").read_text().splitlines()]
    noise = history[0]["release"][0]
    assert noise > 0 and [line["release"] for line in history] == [[noise, 3, 3]] * 3
    assert all(line["train_loss"] is None and line["client_accuracy"] is None for line in history)
    privacy = json.loads((three.run("private") / "metrics.json").read_text())["privacy"]
    assert 0.9 * 20 < privacy["epsilon"] <= 20 and privacy["releases"] == 3
