"""Servers and clients on the loopback that are killed at random moments: what comes out has the same bytes."""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flock import Started, Three, three_clients

from wordflock.head.checkpoint import load_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc"),
]

KILLS = 10  # of servers, and as many of clients
ROUNDS = 6
# Every round is of all three: one that loses a client is repeated, so that the heads are those of an undisturbed run.
OPTIONS = (
    "--strategy", "fedadam", "--rounds", str(ROUNDS), "--local-epochs", "1", "--batch-size", "8",
    "--clients-per-round", "3", "--min-replies", "3",
)  # fmt: skip
PATIENCE = 30  # seconds for the answer of a client that was killed; longer than a round takes on a busy machine


# What `sitecustomize` does: Flower tries again after up to 20 seconds, which would be most of these tests' time.
IMPATIENT = "import flwr.common.constant; flwr.common.constant.MAX_RETRY_DELAY = 1"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(IMPATIENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder / "site"), prepend=os.pathsep)
        with three_clients(folder, "--layer", "last") as three:
            yield three


def left(run: Path) -> dict[str, Any]:
    """What a run leaves that does not depend on time: heads, and rounds with their clients and scores."""
    kept = ("round", "validation_accuracy", "validation_loss", "train_loss", "clients")
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    heads = {name: load_checkpoint(run / f"{name}.safetensors").weights for name in ("best", "last")}
    return {
        "history": [{key: line[key] for key in kept} for line in lines],
        **{name: {key: array.tobytes() for key, array in weights.items()} for name, weights in heads.items()},
    }


def whole(three: Three) -> dict[str, Any]:
    """What a run leaves that nothing came in the way of."""
    if not three.run("whole").exists():
        with three.server("whole", *OPTIONS) as server:
            assert server.wait() == 0, server.output
    return left(three.run("whole"))


def test_killed_servers_are_resumed_and_find_every_client(three: Three) -> None:
    expected, chance, kills, number = whole(three), random.Random(0), 0, 0
    while kills < KILLS:
        number += 1
        name, resumed = f"server-{number}", False
        while True:
            start = ["server", "--resume", three.run(name)]
            server = Started(three.folder, name, *start) if resumed else three.server(name, *OPTIONS)
            with server:
                server.wait_for(r"round \d: clients .* train|run: ")
                if found := re.search(r"round \d: clients (.*) train, of (\d) connected", server.output):
                    assert found.groups() == ("0, 1, 2", "3"), server.output
                time.sleep(chance.uniform(0, 3))  # a kill at a random moment, not a wait for something
                if server.process.poll() is not None or kills >= KILLS:
                    assert server.wait() == 0, server.output
                    break
                server.pull_the_plug()
            kills, resumed = kills + 1, (three.run(name) / "config.toml").exists()
            if (three.run(name) / "metrics.json").exists():  # it was killed after it was done
                break
        assert left(three.run(name)) == expected, name


def test_killed_clients_come_back_and_their_round_is_done_again(three: Three) -> None:
    expected, chance, kills, number = whole(three), random.Random(1), 0, 0
    while kills < KILLS:
        number += 1
        with three.server(f"client-{number}", *OPTIONS, "--round-timeout", PATIENCE) as server:
            server.wait_for(r"round 1: clients")
            while server.process.poll() is None and kills < KILLS:
                time.sleep(chance.uniform(0, 3))
                cid = chance.randrange(3)
                three.clients[cid].pull_the_plug()
                three.boot(cid).wait_for("connected to|clips ready")
                kills += 1
            assert server.wait() == 0, server.output
        assert left(three.run(f"client-{number}")) == expected, number
