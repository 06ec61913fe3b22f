"""Secure sums and private rounds between real processes: every message has a fresh one, and a run may be resumed.

The first run's server keeps running, and the others are started on it: their clients need not be started anew.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flock import Started, Three, three_clients, tones, wait_until

from wordflock.head.checkpoint import load_checkpoint
from wordflock.head.statistics_folder import StatisticsFolder

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")

ROUNDS = ["--strategy", "fedavg", "--local-epochs", 1, "--batch-size", 8, "--clients-per-round", 3]
KINDS = {
    "closed-form": ["--strategy", "closed-form", "--head", "attentive", "--min-clips", 4],
    "rounds": [*ROUNDS, "--rounds", 1],
}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    with three_clients(tmp_path_factory.mktemp("private"), "--layer", "last") as three:
        yield three


def exact(three: Three) -> Path:
    """The run of secure sums that others begin with, or are compared with."""
    if not three.run("closed-form").exists():
        three.play("closed-form", "--secure-aggregation", *KINDS["closed-form"])
    return three.run("closed-form")


@pytest.mark.parametrize("name", KINDS)
def test_secure_sums_give_the_plain_simulation_s_head(three: Three, name: str) -> None:
    where = ["--runs", three.folder / "runs", "--name", f"{name}-plain", "--holdout", 0, *three.shared]
    simulation = three.stack.enter_context(Started(three.folder, f"{name}-plain", "simulate", *where, *KINDS[name]))
    said = three.play(name, "--secure-aggregation", *KINDS[name])
    costs = json.loads((three.run(name) / "metrics.json").read_text())["clients"]
    assert [cost["client"] for cost in costs] == [0, 1, 2] and "client  rounds" in said
    for cost in costs:
        assert cost["rounds"] == 1 and cost["clips"] > 0 and cost["processor"]
        assert cost["train_seconds_per_round"] > 0 and 0 < cost["peak_memory"] < 2e9
        assert cost["bytes_up"] > 0 and cost["bytes_down"] > 0
    assert simulation.wait() == 0, simulation.output
    ours, theirs = (load_checkpoint(three.run(run) / "last.safetensors").weights for run in (name, f"{name}-plain"))
    for key, array in theirs.items():
        np.testing.assert_allclose(ours[key], array, atol=1e-3 * max(1.0, float(np.abs(array).max())))


def test_clients_join_a_run_that_is_over_and_leave_it_again(three: Three) -> None:
    """Only the total is kept, and not even that of any one client is ever seen."""
    flatten = [*KINDS["closed-form"], "--secure-aggregation", "--add-to", exact(three)]
    left = [*KINDS["closed-form"], "--secure-aggregation", "--take-from", three.run("joined")]
    for name, options in (("joined", flatten), ("left", left)):
        three.play(name, *options)
    before, twice, after = (
        StatisticsFolder(three.run(name) / "statistics").read()[1] for name in ("closed-form", "joined", "left")
    )
    np.testing.assert_array_equal(twice.counts, 2 * before.counts)
    np.testing.assert_allclose(after.triangle, before.triangle, atol=1e-6)
    ours, theirs = (load_checkpoint(three.run(run) / "best.safetensors").weights for run in ("closed-form", "left"))
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


# What `sitecustomize` does in a client that has given its shares away: it lies about its numbers, or goes no further.
HARM = """
import os
if os.environ.get("WORDFLOCK_APP") == "clientapp":
    import pathlib, signal
    from wordflock.federation.secure import client as secure_client
    honest = secure_client.masked
    def harmful(message, context, number, vector):
        if pathlib.Path({lies!r}).exists():
            return honest(message, context, number, 3 * vector)
        pathlib.Path({stays!r}).touch()
        signal.pause()
    secure_client.masked = harmful
"""


def test_a_lie_ends_a_secure_run_and_a_client_killed_before_its_masked_numbers_is_not_in_the_total(
    three: Three,
) -> None:
    plain = exact(three)
    own, site = tones(three.folder / "own", ["0000beef"], takes=3, seed=1), three.folder / "site"
    lies, stays = three.folder / "lies", three.folder / "stays"
    lies.touch()
    site.mkdir()
    (site / "sitecustomize.py").write_text(HARM.format(lies=str(lies), stays=str(stays)))
    environment = {"PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    harmful = three.client("harmful", "--data", own, *three.features, "--name", "harmful", environment=environment)
    secure = [*KINDS["closed-form"], "--secure-aggregation", "--min-clients", 4]
    with three.server("lied", *secure) as server:
        assert server.wait() == 2
        assert "The total of the scale cannot be right, so some client lied" in server.output
    assert not (three.run("lied") / "statistics").exists()
    lies.unlink()
    with three.server("dropped", *secure, "--round-timeout", 20) as server:
        wait_until(stays.exists, "all have given their shares away")
        harmful.pull_the_plug()
        assert server.wait() == 0, server.output
        assert re.search(r"client \d+ \(harmful\) did not answer in time", server.output)
    costs = json.loads((three.run("dropped") / "metrics.json").read_text())["clients"]
    assert [cost["client"] for cost in costs] == [0, 1, 2]
    # Its neighbours' masks for it came off: the total is that of the three alone.
    ours, theirs = (StatisticsFolder(run / "statistics").read() for run in (three.run("dropped"), plain))
    np.testing.assert_array_equal(ours[1].counts, theirs[1].counts)
    for name, array in theirs[0].packed().items():
        np.testing.assert_allclose(ours[0].packed()[name], array, atol=1e-6)
    np.testing.assert_allclose(ours[1].triangle, theirs[1].triangle, rtol=1e-6, atol=1e-4)
