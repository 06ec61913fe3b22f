"""A search with real trials: some are pruned, the sweep is killed and resumed, and the test split is scored once."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
from whole_commands import LONGEST, SMALL, Wordflock, assert_done

from wordflock.files import is_locked
from wordflock.runs import METRICS, read_config, read_history

EPOCHS, TRIALS = 300, 12
SEARCH = f"""
mode = "train"
search = "optuna"
trials = {TRIALS}
[options]
data = "words"
cache = "cache"
encoder = "encoder"
window = {SMALL.split()[-1]}
head = "mean"
epochs = {EPOCHS}
[space]
learning-rate = {{ low = 1e-6, high = 1e-2, log = true }}
"""


def finished(folder: Path) -> dict[str, int]:
    """When each trial ended, by its name."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob(f"trial-*/{METRICS}")}


@pytest.mark.slow
def test_a_search_is_pruned_killed_and_resumed(wordflock: Wordflock) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed, which the extra [sweep] brings")
    wordflock.path("search.toml").write_text(SEARCH)
    folder, until = wordflock.path("runs/search"), time.monotonic() + LONGEST
    sweep = wordflock.start("sweep search.toml --parallel 2")
    while len(finished(folder)) < 2 and sweep.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    before = finished(folder)
    trials = [path.parent for path in folder.glob("trial-*/config.toml")]
    while any(map(is_locked, trials)):  # trials end with the sweep
        assert time.monotonic() < until
        time.sleep(0.05)
    assert 2 <= len(before) < TRIALS
    answer = wordflock.run("sweep search.toml --parallel 2")
    assert_done(answer)
    after = finished(folder)
    assert {name: after[name] for name in before} == before, "a finished trial was repeated"
    pruned = [line.split()[0] for line in answer.out.splitlines() if line.split()[1:2] == ["pruned"]]
    assert pruned and len(after) + len(pruned) == TRIALS
    for name in pruned:
        assert len(read_history(folder / name)) < EPOCHS and name not in after
    rates = [read_config(path.parent)["learning-rate"] for path in folder.glob("trial-*/config.toml")]
    assert len(set(rates)) == len(rates), "the resumed search tried the same values once more"
    for path in folder.glob(f"*/{METRICS}"):
        winner = path.parent.name == "best"
        assert ("test" in json.loads(path.read_text())) == winner
        with (path.parent / "predictions.csv").open(newline="") as rows:
            assert {row["split"] for row in csv.DictReader(rows)} == {"validation", *["test"] * winner}
    page = (folder / "sweep.html").read_text()
    assert page.count("<svg") == 1 and all(name in page for name in (*after, *pruned))
