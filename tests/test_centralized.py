"""Centralized training, on features of words that exist nowhere else: how it stops, and how it goes on."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import killed_after, killed_at
from named_clips import named_clips

from wordflock import centralized, figures, files
from wordflock.data.clips import ClipTable
from wordflock.data.task import Task
from wordflock.encoder.spec import FeatureSpec
from wordflock.encoder.store import Features
from wordflock.errors import WordflockError
from wordflock.head import checkpoint
from wordflock.head.checkpoint import Checkpoint, load_checkpoint
from wordflock.head.closed_form import ScaleStatistics, Statistics, solve
from wordflock.head.training import output_weights, pool
from wordflock.prepare import Prepared
from wordflock.progress import reporting
from wordflock.settings import TrainSettings

SPEC = FeatureSpec("nowhere", "ab" * 32, 0.2, "last")
WIDTH, CLIPS = 6, {"train": 40, "validation": 12, "test": 12}


def words(settings: TrainSettings) -> Prepared:
    """What `prepare` would give for three words that are not easily told apart."""
    generator = np.random.default_rng(7)
    centres = generator.normal(0, 0.5, (3, SPEC.frames, WIDTH))
    features = {}
    for split, clips in CLIPS.items():
        labels = np.arange(clips) % 3
        array = (centres[labels] + generator.normal(0, 1, (clips, SPEC.frames, WIDTH))).astype(np.float16)
        features[split] = Features(array, np.arange(clips), labels)
    task = Task(("a", "b", "c"), silence=False, unknown=False)
    return Prepared(
        ClipTable("nowhere", "folder", ()),
        task,
        SPEC,
        {split: named_clips(split, those.labels.tolist()) for split, those in features.items()},
        features,
    )


@pytest.fixture(autouse=True)
def no_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clips to read, and no figures to draw."""
    monkeypatch.setattr(centralized, "prepare", words)
    monkeypatch.setattr(figures, "plot_accuracy", lambda *_: None)


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    return TrainSettings(epochs=4, batch_size=8, learning_rate=0.01, name="run", runs=str(tmp_path), device="cpu")


def test_a_part_that_is_not_trained_is_solved_after_the_last_epoch(settings: TrainSettings) -> None:
    folder = centralized.train(replace(settings, head="combined"))
    last, best = (load_checkpoint(folder / f"{name}.safetensors") for name in ("last", "best"))
    features, head = words(settings).features["train"], last.build()
    z = pool(head, features)
    scale = ScaleStatistics.of(z, features.labels, 3).scale()
    expected = output_weights(solve(Statistics.of(z, features.labels, scale), scale, parts=head.parts))
    for name, array in best.weights.items():
        np.testing.assert_array_equal(array, expected.get(name, last.weights[name]))
    assert best.training["epoch"] == settings.epochs


def on(settings: TrainSettings, folder: Path, **changes: Any) -> TrainSettings:
    """The settings with which the run in a folder goes on."""
    return replace(settings, checkpoint=str(folder / "last.safetensors"), name="", **changes)


def what_is_left(folder: Path) -> dict[str, Any]:
    """All of a run that is not about time."""
    left: dict[str, Any] = {name: (folder / name).read_bytes() for name in ("last.safetensors", "best.safetensors")}
    left["history"] = (folder / "history.jsonl").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    left["metrics"] = {**metrics, "seconds": None, "memory": None, "peak_memory": None}
    left["optimizers"] = {file.name: file.read_bytes() for file in folder.glob("optimizer-*")}
    return left


class Killed(BaseException):
    """In the place of a process's end."""


def kill_at(write: int, after: bool, monkeypatch: pytest.MonkeyPatch, death: type[BaseException] = Killed) -> None:
    """Die before or after a file is written, counted from 0."""
    writes, real = count(), files._aside

    @contextmanager
    def written_or_die(path: Path) -> Iterator[Path]:
        now = next(writes) == write
        if now and not after:
            raise death
        with real(path) as aside:
            yield aside
        if now:
            raise death

    monkeypatch.setattr(files, "_aside", written_or_die)


@pytest.mark.parametrize("after", [False, True])
def test_killed_before_or_after_any_write_it_goes_on_to_the_same_result(
    after: bool, settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = centralized.train(settings)
    whole = what_is_left(folder)
    for write in count():
        killed = replace(settings, name=f"killed-{write}")
        with monkeypatch.context() as patch:
            kill_at(write, after, patch)
            try:
                centralized.train(killed)
            except Killed:
                pass
            else:
                break
        died = tmp_path / killed.name
        if (died / "metrics.json").exists():
            assert after  # the very last write
        elif (died / "last.safetensors").exists():
            assert centralized.train(on(settings, died)) == died
        else:
            assert centralized.train(killed) == died  # there is nothing to go on from, and the name is free
        assert what_is_left(died) == whole
    assert write > 3 * settings.epochs


def resume(settings: TrainSettings) -> Path:
    """Train again what was killed: from its last checkpoint, or from the start where there is none."""
    died = Path(settings.runs) / settings.name
    if (died / "metrics.json").exists():
        return died
    return centralized.train(on(settings, died) if (died / "last.safetensors").exists() else settings)


def test_killed_at_a_file_operation_it_goes_on_to_the_same_result(settings: TrainSettings, tmp_path: Path) -> None:
    whole, number = what_is_left(centralized.train(settings)), 0
    killed = replace(settings, name="killed")
    while killed_at(number, tmp_path, lambda: centralized.train(killed)):
        assert what_is_left(resume(killed)) == whole, number
        shutil.rmtree(tmp_path / "killed")
        number += 1 + number // 6
    assert number > 3 * settings.epochs


@pytest.mark.slow
def test_killed_again_and_again_it_goes_on_to_the_same_result(settings: TrainSettings, tmp_path: Path) -> None:
    whole, chance = what_is_left(centralized.train(settings)), random.Random(0)
    killed = replace(settings, name="killed")
    kills = 0
    while kills < 60:
        for _ in range(4):
            kills += killed_after(chance.uniform(0.01, 0.25), lambda: resume(killed))
        assert what_is_left(resume(killed)) == whole
        shutil.rmtree(tmp_path / "killed")


def test_the_number_of_threads_changes_no_byte(settings: TrainSettings) -> None:
    threads, heads = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            folder = centralized.train(replace(settings, name=str(number)))
            heads.append((folder / "last.safetensors").read_bytes())
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert len(set(heads)) == 1


def test_ctrl_c_says_with_which_checkpoint_to_go_on_where_there_is_one(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for write in range(12):
        interrupted = replace(settings, name=f"interrupted-{write}")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as interrupt:
            kill_at(write, True, patch, KeyboardInterrupt)
            centralized.train(interrupted)
        last = tmp_path / interrupted.name / "last.safetensors"
        said.append(str(interrupt.value))
        assert said[-1] == (f"go on with --checkpoint {last}" if last.exists() else "")
    assert "" in said and any(said)


# Going on


def test_going_on_with_more_epochs_is_the_same_run(settings: TrainSettings) -> None:
    folder = centralized.train(settings)
    before = (folder / "history.jsonl").read_text()
    assert centralized.train(on(settings, folder, epochs=6)) == folder
    history = (folder / "history.jsonl").read_text()
    assert history.startswith(before)
    assert [json.loads(line)["epoch"] for line in history.splitlines()] == [1, 2, 3, 4, 5, 6]
    assert [file.name for file in folder.glob("optimizer-*")] == ["optimizer-6.safetensors"]


def test_going_on_from_inside_the_folder(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = centralized.train(settings)
    monkeypatch.chdir(folder)
    again = replace(settings, checkpoint="last.safetensors", name="", runs="runs", epochs=5)
    assert centralized.train(again).resolve() == folder.resolve()
    assert not (folder / "runs").exists()


def test_going_on_under_another_name_leaves_the_first_run_as_it_is(settings: TrainSettings, tmp_path: Path) -> None:
    folder = centralized.train(settings)
    before = what_is_left(folder)
    other = centralized.train(replace(on(settings, folder, epochs=6), name="other"))
    assert other == tmp_path / "other"
    assert load_checkpoint(other / "last.safetensors").training["epoch"] == 6
    assert what_is_left(folder) == before
    # Nor does it write over a third.
    with pytest.raises(WordflockError, match="other exists already"):
        centralized.train(replace(on(settings, folder, epochs=6), name="other"))


def test_a_head_from_elsewhere_is_where_a_new_run_begins(settings: TrainSettings, tmp_path: Path) -> None:
    folder = centralized.train(settings)
    (folder / "optimizer-4.safetensors").unlink()
    new = centralized.train(replace(on(settings, folder, epochs=1), name="new"))
    assert load_checkpoint(new / "last.safetensors").training["epoch"] == 1
    assert json.loads((new / "history.jsonl").read_text())["epoch"] == 1


def test_a_run_that_is_finished_asks_for_more_epochs(settings: TrainSettings) -> None:
    folder = centralized.train(settings)
    with pytest.raises(WordflockError, match="is of epoch 4 already; ask for more"):
        centralized.train(on(settings, folder))


def with_other(**changes: Any) -> Callable[[Checkpoint], Checkpoint]:
    return lambda saved: replace(saved, **changes)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (with_other(labels=["a", "b", "d"]), "was trained for a,b,d on nowhere"),
        (with_other(spec=replace(SPEC, fingerprint="cd" * 32)), "not for what is asked now"),
        (with_other(spec=replace(SPEC, layer="1")), "layer 1 in float32 by torch, not for what is asked now"),
        (with_other(spec=replace(SPEC, backend="onnxruntime")), "in float32 by onnxruntime, not for"),
        (with_other(spec=replace(SPEC, precision="bfloat16")), "in bfloat16 by torch, not for what is asked now"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    change: Callable[[Checkpoint], Checkpoint], refusal: str, settings: TrainSettings
) -> None:
    folder = centralized.train(settings)
    checkpoint.save_checkpoint(folder / "last.safetensors", change(load_checkpoint(folder / "last.safetensors")))
    with pytest.raises(WordflockError, match=refusal):
        centralized.train(on(settings, folder, epochs=6))


def test_a_checkpoint_of_another_head_is_refused_and_of_the_same_encoder_elsewhere_is_not(
    settings: TrainSettings,
) -> None:
    folder = centralized.train(settings)
    with pytest.raises(WordflockError, match="holds a head of kind combined; give --head combined"):
        centralized.train(on(settings, folder, head="mean", epochs=6))
    last = folder / "last.safetensors"
    saved = load_checkpoint(last)
    checkpoint.save_checkpoint(last, replace(saved, spec=replace(saved.spec, encoder="moved/there")))
    assert centralized.train(on(settings, folder, epochs=5)) == folder


# What a run is worth


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_head(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, epochs = centralized.evaluate_head, count()

    def lost_in_epoch_3(*arguments: Any, **options: Any) -> Any:
        score = real(*arguments, **options)
        return replace(score, loss=math.nan) if next(epochs) == 3 else score

    monkeypatch.setattr(centralized, "evaluate_head", lost_in_epoch_3)
    with pytest.raises(WordflockError, match="After epoch 3 the loss is not a finite number; take a smaller"):
        centralized.train(settings)
    assert load_checkpoint(tmp_path / "run/last.safetensors").training["epoch"] == 2


def test_two_runs_without_a_name_have_folders_of_their_own(settings: TrainSettings) -> None:
    nameless = replace(settings, name="", epochs=1)
    folders = {centralized.train(nameless) for _ in range(3)}
    assert len(folders) == 3
    assert all(len((folder / "history.jsonl").read_text().splitlines()) == 1 for folder in folders)


@pytest.mark.parametrize("strategy", ["gradient", "closed-form"])
@pytest.mark.parametrize("missing", [["test"], ["validation"], ["validation", "test"]])
def test_a_data_set_without_a_split_is_trained_on_and_nothing_is_claimed_of_it(
    missing: list[str], strategy: str, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(settings: TrainSettings) -> Prepared:
        prepared = words(settings)
        emptied = {split: prepared.features[split].part(0, 0) for split in missing}
        return replace(prepared, features={**prepared.features, **emptied})

    monkeypatch.setattr(centralized, "prepare", without)
    lines: list[str] = []
    with reporting(lines.append):
        folder = centralized.train(replace(settings, strategy=strategy, head="linear"))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert not set(missing) & set(metrics)
    assert ("validation" in missing) == any("validation not measured" in line for line in lines)
    if "validation" in missing:  # the latest head is the best guess
        best, last = (load_checkpoint(folder / f"{name}.safetensors") for name in ("best", "last"))
        assert best.training == last.training
