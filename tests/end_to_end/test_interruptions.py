"""Commands that are stopped half way, by a person, the system or a full disk: what they finished is never lost."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import numpy as np
from whole_commands import (
    FEDERATION,
    LONGEST,
    TRAIN_LONG,
    WORDS_OF_SMALL,
    Wordflock,
    assert_done,
    assert_one_sentence,
    ending,
    history,
    small_disk,
)

from wordflock.head.checkpoint import load_checkpoint

INTERRUPTED = {"status": 130, "begin": "Interrupted; what was finished is kept"}
# A command that writes into a pipe this small waits for its reader after some 40 lines: it cannot be done before the
# test has had its turn.
SMALLEST_PIPE = 4096


def started(wordflock: Wordflock, command: str, until: str) -> subprocess.Popen[bytes]:
    """Start a command; returns when a line that it prints begins with `until`."""
    process = wordflock.start(command, bufsize=0, pipesize=SMALLEST_PIPE)
    assert process.stdout
    while not (line := process.stdout.readline()).startswith(until.encode()):
        assert line, ending(process)
    return process


def assert_same_training(run: Path, whole: Path) -> None:
    """The run's heads have the bytes of the whole run's, and its history the same lines."""
    for file in ("last.safetensors", "best.safetensors"):
        ours, theirs = load_checkpoint(run / file), load_checkpoint(whole / file)
        assert ours.training == theirs.training
        assert ours.weights.keys() == theirs.weights.keys()
        for name, array in theirs.weights.items():
            np.testing.assert_array_equal(ours.weights[name], array)
    assert history(run) == history(whole)
    assert (run / "metrics.json").exists()
    assert len(list(run.glob("optimizer-*.safetensors"))) == 1


def pages(file: Path) -> int:
    """The room that a file takes, bytes."""
    return -(-file.stat().st_size // 4096) * 4096


# Training


def test_a_training_that_is_interrupted_goes_on_as_if_it_had_not_been(wordflock: Wordflock, whole: Path) -> None:
    process = started(wordflock, f"{TRAIN_LONG} --name interrupted", until="epoch 1:")
    os.killpg(process.pid, signal.SIGINT)
    sentence = assert_one_sentence(ending(process), **INTERRUPTED)
    run = wordflock.path("runs/interrupted")
    finished = load_checkpoint(run / "last.safetensors").training["epoch"]
    assert 1 <= finished < 60
    assert [line["epoch"] for line in history(run)] == list(range(1, finished + 1))
    found = re.search(r"--checkpoint \S+\.safetensors", sentence)
    assert found
    assert_done(wordflock.run(f"{TRAIN_LONG} {found[0]}"))
    assert_same_training(run, whole)


def test_a_training_that_is_killed_goes_on_as_if_it_had_not_been(wordflock: Wordflock, whole: Path) -> None:
    process = started(wordflock, f"{TRAIN_LONG} --name killed", until="epoch 3:")
    os.killpg(process.pid, signal.SIGKILL)
    assert ending(process).status == -signal.SIGKILL
    assert 3 <= load_checkpoint(wordflock.path("runs/killed/last.safetensors")).training["epoch"] < 60
    assert_done(wordflock.run(f"{TRAIN_LONG} --checkpoint runs/killed/last.safetensors"))
    assert_same_training(wordflock.path("runs/killed"), whole)


def test_a_training_on_a_full_disk_goes_on_when_there_is_room(wordflock: Wordflock, whole: Path) -> None:
    optimizer = next(whole.glob("optimizer-*")).stat().st_size
    epoch = sum(pages(file) for file in whole.iterdir() if file.name not in ("accuracy.png", "metrics.json"))
    with small_disk(wordflock.path("disk"), str(epoch + optimizer // 2)) as disk:
        assert "disk is full" in assert_one_sentence(wordflock.run(f"{TRAIN_LONG} --runs disk --name full"))
        assert load_checkpoint(disk.path / "full/last.safetensors").training["epoch"] == 1
        disk.remount("size=16M")
        assert_done(wordflock.run(f"{TRAIN_LONG} --checkpoint disk/full/last.safetensors"))
        assert_same_training(disk.path / "full", whole)


# Simulation


def test_a_simulation_that_is_interrupted_leaves_the_head_of_its_last_round(wordflock: Wordflock) -> None:
    process = started(wordflock, f"simulate {WORDS_OF_SMALL} {FEDERATION} --rounds 60 --name stopped", until="round 1:")
    os.killpg(process.pid, signal.SIGINT)
    assert_one_sentence(ending(process), **INTERRUPTED)
    run = wordflock.path("runs/stopped")
    last, lines = load_checkpoint(run / "last.safetensors"), history(run)
    assert 1 <= last.training["round"] < 60
    # It may have been stopped between the two.
    assert [line["round"] for line in lines][: last.training["round"]] == list(range(1, last.training["round"] + 1))
    assert last.training["validation_accuracy"] == lines[last.training["round"] - 1]["validation_accuracy"]


# Encoding


class Screen:
    """A terminal that a command draws its progress on."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self.text = ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read until the pattern is there."""
        deadline = time.monotonic() + LONGEST
        while not (found := re.search(pattern, self.text)):
            ready, _, _ = select.select([self._ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, self.text
            self.text += os.read(self._ours, 4096).decode(errors="replace")
        return found

    def close(self) -> None:
        os.close(self._ours)
        os.close(self.theirs)


def rows(cache: Path) -> int:
    """Clips in the one feature store of a cache."""
    (index,) = cache.glob("features/*/index.sqlite")
    connection = sqlite3.connect(index)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM clips").fetchone()[0])
    finally:
        connection.close()


def clips_to_encode(wordflock: Wordflock, command: str) -> int:
    """Run a command to its end; returns how many clips it said it had to encode, 0 where it did not speak of any."""
    screen = Screen()
    try:
        process = wordflock.start(command, stdout=screen.theirs, stderr=screen.theirs)
        screen.wait_for("clips ready")
        assert process.wait(LONGEST) == 0, screen.text
        found = re.search(r"encoding .*?\d+/(\d+)", screen.text)
        return int(found[1]) if found else 0
    finally:
        screen.close()


def test_an_encoding_that_is_interrupted_loses_nothing_that_it_finished(wordflock: Wordflock) -> None:
    prepare = f"prepare {WORDS_OF_SMALL} --cache half"
    few = clips_to_encode(wordflock, f"{prepare} --keywords yes,no --no-silence --no-unknown")
    assert few == rows(wordflock.path("half")) == 80
    (index,) = wordflock.path("half").glob("features/*/index.sqlite")
    # Held like this, the store can be read and not written: the encoding begins, and cannot end before the test wants.
    gate = sqlite3.connect(index, isolation_level=None)
    gate.execute("BEGIN IMMEDIATE")
    screen = Screen()
    try:
        process = wordflock.start(prepare, stderr=screen.theirs)
        assert screen.wait_for(r"encoding .*?\d+/(\d+)")[1] == "120"
        os.killpg(process.pid, signal.SIGINT)
        gate.execute("ROLLBACK")
        out, _ = process.communicate(timeout=LONGEST)
        screen.wait_for("Interrupted; what was finished is kept.")
    finally:
        gate.close()
        screen.close()
    assert process.returncode == 130 and b"clips ready" not in out
    assert "Traceback" not in screen.text
    kept = rows(wordflock.path("half"))
    assert clips_to_encode(wordflock, prepare) == 200 - kept
    assert rows(wordflock.path("half")) == 200
    assert clips_to_encode(wordflock, prepare) == 0


def test_an_encoding_on_a_full_disk_goes_on_when_there_is_room(wordflock: Wordflock, whole: Path) -> None:
    prepare = f"prepare {WORDS_OF_SMALL} --cache small"
    features, index = (
        next(wordflock.path("cache").glob(f"features/*-0.40s-2+3+last-by*/{name}.*")) for name in ("features", "index")
    )
    room = pages(wordflock.path("cache/files.sqlite")) + pages(index) + pages(features) // 2
    with small_disk(wordflock.path("small"), str(room)) as disk:
        assert "disk is full" in assert_one_sentence(wordflock.run(prepare)).lower()
        kept = rows(disk.path)
        assert 0 < kept < 200
        disk.remount("size=16M")
        assert clips_to_encode(wordflock, prepare) == 200 - kept
        assert rows(disk.path) == 200
