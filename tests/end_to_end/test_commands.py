"""What commands do for those who give them what they need."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from whole_commands import (
    FEDERATION,
    LABELS,
    WORDS_OF_SMALL,
    WORDS_OF_TINY_EN,
    Wordflock,
    assert_done,
    ending,
    history,
)

from wordflock.head.checkpoint import load_checkpoint
from wordflock.head.metrics import wilson_interval

SCORE_KEYS = {"accuracy", "interval", "clips", "recall", "confusion", "labels", "parameters"}


TRAIN = f"train {WORDS_OF_TINY_EN} --epochs 10 --batch-size 16 --name trained"
ONE_WORKER, TWO_WORKERS = (
    f"simulate {WORDS_OF_TINY_EN} {FEDERATION} --rounds 3 --workers {workers} --name {name}"
    for workers, name in ((1, "simulated"), (2, "twice"))
)
ONE_ROUND = f"simulate {WORDS_OF_SMALL} {FEDERATION} --rounds 1"


@pytest.fixture(scope="session")
def prepared(wordflock: Wordflock, tiny_en: None) -> None:
    """The clips, encoded by a real encoder."""
    answer = wordflock.run(f"prepare {WORDS_OF_TINY_EN}")
    assert_done(answer)
    read, ready = answer.out.splitlines()
    assert read.endswith("words: read as Speech Commands, 5 labels, 180 clips")
    assert ready == "200 clips ready: 12 frames of width 1152, 6 MB"


@pytest.fixture(scope="session")
def trained(wordflock: Wordflock, prepared: None) -> Path:
    """The folder of a centralized run."""
    assert_done(wordflock.answer(TRAIN))
    return wordflock.path("runs/trained")


def assert_consistent(score: dict[str, Any]) -> None:
    """All figures of a score follow from its confusion."""
    assert score.keys() >= SCORE_KEYS
    confusion = np.array(score["confusion"])
    assert score["labels"] == LABELS and confusion.shape == (5, 5)
    assert score["clips"] == confusion.sum() > 0
    assert score["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    for label, row, count in zip(LABELS, confusion, np.diag(confusion), strict=True):
        assert score["recall"][label] == pytest.approx(count / row.sum())
    low, high = score["interval"]
    assert low <= score["accuracy"] <= high
    assert (low, high) == pytest.approx(wilson_interval(int(np.trace(confusion)), score["clips"]))


def assert_complete(run: Path, counter: str, last: int) -> dict[str, Any]:
    """The run's folder has all that it should have, and no two of its files contradict each other."""
    lines = history(run)
    assert [line[counter] for line in lines] == list(range(1, last + 1))
    accuracies = [line["validation_accuracy"] for line in lines]
    best, final = (load_checkpoint(run / f"{which}.safetensors") for which in ("best", "last"))
    assert final.training[counter] == last
    metrics = json.loads((run / "metrics.json").read_text())
    solved = metrics.get("last_layer", {"kept": False})
    highest = solved["validation_accuracy"] if solved["kept"] else max(accuracies)
    assert best.training[counter] == (last if solved["kept"] else accuracies.index(highest) + 1)
    assert best.training["validation_accuracy"] == highest
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["data"] == "words" and config["name"] == run.name

    for split in ("validation", "test"):
        assert_consistent(metrics[split])
        assert metrics[split]["parameters"] == sum(array.size for array in best.weights.values())
    assert metrics["validation"]["accuracy"] == highest
    assert all(seconds >= 0 for seconds in metrics["seconds"].values())

    events = EventAccumulator(str(run)).Reload()
    points = events.Scalars("validation/accuracy")
    assert [point.step for point in points] == list(range(1, last + 1))
    assert [point.value for point in points] == pytest.approx(accuracies)
    if last > 1:
        assert_is_picture(run / "accuracy.png")
    return dict(metrics)


def assert_is_picture(path: Path) -> None:
    """A PNG of a size that people look at, with something drawn on it."""
    pixels = imread(path)
    height, width, _ = pixels.shape
    assert 400 <= height <= 1200 and 600 <= width <= 2000
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20


# Data


def test_synthesize_makes_what_describe_counts(wordflock: Wordflock) -> None:
    plot = "clips.png"
    answer = wordflock.run(f"data describe --data words --cache cache --clients 12 --plot {plot}")
    assert_done(answer)
    files = [file for file in wordflock.path("words").glob("*/*.flac") if file.parent.name != "_background_noise_"]
    assert f"{len(files)} clips" in answer.out
    for word in ("yes", "no", "stop", "cat", "bird"):
        counts = next(line.split() for line in answer.out.splitlines() if line.strip().startswith(f"{word} "))
        assert sum(map(int, counts[1:])) == sum(file.parent.name == word for file in files)
    assert "12 speakers" in answer.out
    assert_is_picture(wordflock.path(plot))


def test_synthesizing_the_same_words_again_leaves_them_as_they_are(wordflock: Wordflock) -> None:
    before = {file: file.stat().st_mtime_ns for file in wordflock.path("words").rglob("*")}
    assert_done(wordflock.run("data synthesize words --words yes,no,stop --others cat,bird --voices 12 --takes 2"))
    assert {file: file.stat().st_mtime_ns for file in wordflock.path("words").rglob("*")} == before


# Training


def test_train(wordflock: Wordflock, trained: Path) -> None:
    metrics = assert_complete(trained, "epoch", 10)
    assert metrics["seconds"].keys() >= {"encode", "train"}
    assert metrics["test"]["accuracy"] > 0.7  # words that were heard, where chance is 0.3 at most
    out = wordflock.answer(TRAIN).out
    assert f"head parameters = {metrics['test']['parameters']:,}\n" in out
    assert out.index("before training: loss = ") < out.index("epoch 1: ")
    assert f"accuracy = {metrics['test']['accuracy']:.4f}" in out.partition("test of the best")[2]
    # The loss before the first epoch is that of a head that knows nothing.
    assert float(out.partition("before training: loss = ")[2].partition(",")[0]) == pytest.approx(math.log(5), abs=0.3)


def test_simulate(wordflock: Wordflock, prepared: None) -> None:
    assert_done(wordflock.answer(ONE_WORKER))
    run = wordflock.path("runs/simulated")
    metrics = assert_complete(run, "round", 3)
    assert metrics["seconds"].keys() >= {"encode", "rounds"}
    assert metrics["rounds"] == 3
    assert metrics["bytes_per_client_per_round"] >= 2 * 4 * metrics["test"]["parameters"]  # down and up, in float32
    assert metrics["test"]["accuracy"] > 0.7
    for line in history(run):
        assert len(set(line["clients"])) == 3 and set(line["clients"]) <= set(range(6))
        assert 0 <= line["client_accuracy"] <= 1


def test_one_worker_and_two_give_the_same_bytes(wordflock: Wordflock, prepared: None) -> None:
    for command in (ONE_WORKER, TWO_WORKERS):
        assert_done(wordflock.answer(command))
    for file in ("best.safetensors", "last.safetensors"):
        one, two = (wordflock.path(f"runs/{run}/{file}").read_bytes() for run in ("simulated", "twice"))
        assert one == two
    one, two = (history(wordflock.path(f"runs/{run}")) for run in ("simulated", "twice"))
    for line in (*one, *two):
        for key in ("seconds", "client_seconds", "peak_memory"):
            line.pop(key)
    assert one == two


# Every way to simulate: each partition, strategy and head, other features, clients that are few or small. The names of
# the variants say what is in them.
VARIANTS = {
    name: f"{ONE_ROUND} {options} --name {name}"
    for name, options in {
        "fedavgm-iid-mean": "--strategy fedavgm --partition iid --head mean --clients 1 --holdout 0",
        "fedadam-dirichlet-convolution": "--strategy fedadam --partition dirichlet --head convolution --batch-size 20",
        "fedyogi-shard-attentive": "--strategy fedyogi --partition shard --head attentive --layer 1",
        "fedprox-speaker-linear": "--strategy fedprox --partition speaker --head linear --window 0.5",
        "closed_form-iid-linear": "--strategy closed-form --partition iid --head linear",
    }.items()
}


@pytest.mark.parametrize(
    ("name", "command"),
    [pytest.param(*each, id=each[0], marks=pytest.mark.background(each[1])) for each in VARIANTS.items()],
)
def test_every_way_to_simulate(name: str, command: str, wordflock: Wordflock) -> None:
    answer = wordflock.answer(command)
    assert_done(answer)
    run = wordflock.path(f"runs/{name}")
    assert_complete(run, "round", 1)
    checkpoint = load_checkpoint(run / "last.safetensors")
    config = tomllib.loads((run / "config.toml").read_text())
    assert [config["strategy"].replace("-", "_"), config["partition"], checkpoint.head_kind] == name.split("-")
    assert checkpoint.spec.window == config["window"]
    frames = 2 if checkpoint.spec.pooled else math.ceil(50 * config["window"] / config["frame-pooling"])
    assert checkpoint.spec.frames == frames
    assert "--layer 1" not in command or checkpoint.spec.layer == "1"
    (line,) = history(run)
    if config["clients"] == 1:
        assert line["clients"] == [0]
    if config["holdout"] == 0:
        assert line.get("client_accuracy") is None
    if config["partition"] == "dirichlet":  # where some clients have fewer clips than a batch
        skipped = {int(row.split()[2]) for row in answer.out.splitlines() if row.startswith("skipped: client ")}
        assert skipped and skipped.isdisjoint(line["clients"])


# Use


def test_evaluate_prints_one_json_object_with_the_score_of_the_run_and_what_it_scored(
    wordflock: Wordflock, trained: Path
) -> None:
    """The data of the run where no other is named, and the same by the name of the run as by its checkpoint."""
    commands = [f"evaluate runs/trained/best.safetensors {WORDS_OF_TINY_EN} --json", "evaluate trained --json"]
    for answer in map(wordflock.run, commands):
        assert_done(answer)
        (line,) = answer.out.splitlines()
        score = json.loads(line)
        assert (score.pop("data"), score.pop("split")) == ("words", "test")
        assert_consistent(score)
        assert score == json.loads((trained / "metrics.json").read_text())["test"]


def test_evaluate_prints_a_table(wordflock: Wordflock, trained: Path) -> None:
    answer = wordflock.run(f"evaluate runs/trained/best.safetensors {WORDS_OF_TINY_EN} --split validation")
    assert_done(answer)
    score = json.loads((trained / "metrics.json").read_text())["validation"]
    _, what, first, *rows, answered = answer.out.splitlines()
    assert what == "validation split of words"
    assert f"below {score['threshold']:.2f}" in answered
    assert f"accuracy {score['accuracy_with_rejection']:.4f}" in answered
    assert f"{score['accuracy']:.4f}" in first and f"{score['clips']} clips" in first
    assert [row.split()[0] for row in rows] == LABELS


def test_predict_says_a_word_for_each_file_of_any_format(wordflock: Wordflock, trained: Path) -> None:
    tests = wordflock.path("words/testing_list.txt").read_text().split()
    names = [name for name in tests if name.split("/")[0] in LABELS]
    files = [f"words/{name}" for name in names]
    loud, rate = soundfile.read(wordflock.path(files[0]))
    for suffix in ("mp3", "ogg", "wav"):
        soundfile.write(wordflock.path(f"same.{suffix}"), np.stack([loud, loud], axis=1), rate)
        files.append(f"same.{suffix}")
    answer = wordflock.run(f"predict runs/trained/best.safetensors {' '.join(files)}")
    assert_done(answer)
    rows = [line.split("\t") for line in answer.out.splitlines()]
    assert [row[0] for row in rows] == files
    assert all(label in LABELS and 0 <= float(probability) <= 1 for _, label, probability in rows)
    # The probability of a rejected keyword is that of `_unknown_`, which need not be the greatest.
    assert all(float(probability) >= 1 / len(LABELS) for _, label, probability in rows if label != "_unknown_")
    right = [name.split("/")[0] == label for name, (_, label, _) in zip(names, rows, strict=False)]
    assert np.mean(right) > 0.7
    assert {label for _, label, _ in rows[-3:]} == {rows[0][1]}  # the same sound is the same word, however it is kept


def test_predict_goes_on_past_what_it_cannot_read_and_reads_folders_and_standard_input(
    wordflock: Wordflock, trained: Path
) -> None:
    clip = str(sorted(wordflock.path("words/yes").iterdir())[0].relative_to(wordflock.folder))
    with wordflock.path(clip).open("rb") as file:
        command = f"predict trained none.wav text.txt words/yes - {clip} --json --top 2"
        answer = ending(wordflock.start(command, stdin=file))
    assert answer.status == 1
    assert [line.split(" ")[1] for line in answer.err.splitlines()] == ["none.wav", "text.txt"]
    lines = {line["file"]: line for line in map(json.loads, answer.out.splitlines())}
    assert len(lines) == len(list(wordflock.path("words/yes").iterdir())) + 1
    assert lines["-"] == {**lines[clip], "file": "-"}
    assert len(lines[clip]["probabilities"]) == 2 and lines[clip]["label"] in LABELS
    unsure = wordflock.run(f"predict trained {clip} --threshold 1 --top 1")
    name, label, confidence, best = unsure.out.rstrip().split("\t")
    assert (name, label) == (clip, "_unknown_")
    assert best.split()[0] in LABELS and float(confidence) <= float(best.split()[1])


def test_runs_are_listed_and_configure_others(wordflock: Wordflock, trained: Path) -> None:
    rows = [line.split() for line in wordflock.run("runs").out.splitlines()]
    accuracy = json.loads((trained / "metrics.json").read_text())["test"]["accuracy"]
    (row,) = [row for row in rows if row[0] == "trained"]
    assert row[:4] == ["trained", "train", "words", f"{accuracy:.4f}"]
    again = wordflock.run("train --config runs/trained/config.toml --name again --quiet")
    assert_done(again)
    assert again.out == ""
    one, two = (load_checkpoint(wordflock.path(f"runs/{run}/best.safetensors")) for run in ("trained", "again"))
    assert all(np.array_equal(array, two.weights[name]) for name, array in one.weights.items())


def test_a_label_that_only_the_training_clips_have(wordflock: Wordflock) -> None:
    words, rare = wordflock.path("words"), wordflock.path("rare")
    held_out = {
        name for file in ("validation_list.txt", "testing_list.txt") for name in (words / file).read_text().split()
    }
    for file in words.rglob("*"):
        name = file.relative_to(words)
        if file.is_file() and not (str(name) in held_out and name.parts[0] == "stop"):
            (rare / name).parent.mkdir(parents=True, exist_ok=True)
            (rare / name).hardlink_to(file)
    rarely = WORDS_OF_SMALL.replace("--data words", "--data rare")
    assert_done(wordflock.run(f"train {rarely} --epochs 1 --name rare"))
    test = json.loads(wordflock.path("runs/rare/metrics.json").read_text())["test"]
    assert test["labels"] == LABELS and test["recall"]["stop"] is None
    assert test["confusion"][LABELS.index("stop")] == [0] * len(LABELS)
