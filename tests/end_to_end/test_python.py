"""The same from Python as from the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from whole_commands import FEDERATION, LABELS, WORDS_OF_SMALL, Wordflock, assert_done, history

import wordflock as library
from wordflock.head.checkpoint import load_checkpoint

COMMANDS = {
    "train": f"train {WORDS_OF_SMALL} --epochs 2 --name by-command-train",
    "simulate": f"simulate {WORDS_OF_SMALL} {FEDERATION} --rounds 2 --name by-command-simulate",
}
OPTIONS = {"data": "words", "cache": "cache", "encoder": "encoder", "window": 0.4}


@pytest.fixture
def inside(wordflock: Wordflock, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the commands."""
    monkeypatch.chdir(wordflock.folder)
    return wordflock.folder


def python(mode: str, progress: bool = False) -> library.Run:
    if mode == "train":
        return library.train(**OPTIONS, epochs=2, progress=progress)
    return library.simulate(
        **OPTIONS, clients=6, clients_per_round=3, batch_size=8, local_epochs=2, rounds=2, progress=progress
    )


@pytest.mark.parametrize("mode", COMMANDS)
def test_python_and_the_command_line_train_the_same_head(
    mode: str, wordflock: Wordflock, inside: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = wordflock.answer(COMMANDS[mode])
    assert_done(answer)
    run = python(mode)
    assert capfd.readouterr() == ("", "")
    command = inside / "runs" / f"by-command-{mode}"
    one, two = (load_checkpoint(folder / "best.safetensors") for folder in (run.folder, command))
    assert all(np.array_equal(array, two.weights[name]) for name, array in one.weights.items())
    assert run.score is not None
    assert json.loads(json.dumps(run.score.as_json())) == json.loads((command / "metrics.json").read_text())["test"]
    assert [line["validation_accuracy"] for line in run.history] == [
        line["validation_accuracy"] for line in history(command)
    ]
    assert library.evaluate(run).score == library.evaluate(run.folder.name).score == run.score
    assert capfd.readouterr() == ("", "")
    assert run.plot().axes[0].lines
    clip = next((inside / "words/yes").iterdir())
    assert run.model(clip).label in LABELS
    assert run.model.predict([clip]) == [library.load(run.folder)(clip)]


def test_asked_for_it_prints_what_the_command_prints(
    wordflock: Wordflock, inside: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = python("train", progress=True)
    printed = capfd.readouterr().out
    expected = wordflock.answer(COMMANDS["train"]).out
    assert printed.splitlines()[:-1] == expected.splitlines()[:-1]
    assert printed.splitlines()[-1] == f"run: {os.path.relpath(run.folder)}"
