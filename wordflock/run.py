"""The folder of a run: everything that one training leaves behind.

config.toml (the settings), history.jsonl (a line an epoch or round), best.safetensors and last.safetensors,
metrics.json, accuracy.png where there is more than one epoch or round, and TensorBoard's events.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from wordflock.encoder.backend import device
from wordflock.errors import WordflockError, counted
from wordflock.files import locked, write_atomically
from wordflock.head.calibration import calibrate
from wordflock.head.checkpoint import Checkpoint, get_weights, load_checkpoint, save_checkpoint
from wordflock.head.metrics import Score, score, wilson_interval
from wordflock.head.numpy_head import Projection
from wordflock.head.torch_head import Head, build_head, count_parameters
from wordflock.head.training import predict
from wordflock.lifetime import peak_memory
from wordflock.neighbours import Neighbour, nearest, write_neighbours
from wordflock.predictions import ClipPrediction, predictions_of, read_predictions, write_predictions
from wordflock.prepare import Prepared
from wordflock.progress import report
from wordflock.report.facts import RunFacts, confident_mistakes
from wordflock.report.model_card import write_card
from wordflock.runs import BEST, CONFIG, HISTORY, LAST, METRICS, read_config, read_history, solved_accuracy
from wordflock.settings import HeadSettings
from wordflock.trackers import open_trackers


@contextmanager
def open_run(settings: HeadSettings, *, going_on: bool = False) -> Iterator[RunWriter]:
    """Make the folder of a run and keep others out of it for as long as the run goes on.

    A folder that holds no head yet, for the run in it came to nothing, is used again. An interrupt says how to go on.
    Raises WordflockError where the folder holds a head, unless `going_on` with that run, where another process uses
    it, and where it cannot be made.
    """
    folder = _make_folder(settings)
    with locked(folder):
        if settings.name and (folder / LAST).exists() and not going_on:
            raise WordflockError(
                f"The run {folder} exists already; give another --name, delete that folder, or go on with "
                f"{_remedy(settings.mode, folder)}."
            )
        run = RunWriter(folder, settings, going_on)
        try:
            yield run
        except KeyboardInterrupt:
            if (folder / LAST).exists() and settings.mode != "server":  # whose other process says so
                raise KeyboardInterrupt(f"go on with {_remedy(settings.mode, folder)}") from None
            raise
        finally:
            run.close()


def _remedy(mode: str, folder: Path) -> str:
    return f"--checkpoint {folder / LAST}" if mode == "train" else f"wordflock {mode} --resume {folder}"


class RunWriter:
    """One run's folder, and the best validation accuracy in it so far."""

    def __init__(self, folder: Path, settings: HeadSettings, going_on: bool) -> None:
        """Writes the settings. What came after the last checkpoint is forgotten, for it is done again."""
        import tomli_w

        self.folder = folder
        write_atomically(folder / CONFIG, tomli_w.dumps({"mode": settings.mode, **settings.as_config()}).encode())
        last = load_checkpoint(folder / LAST).training if going_on and (folder / LAST).exists() else {}
        done = last.get("epoch", last.get("round", -1))
        self.history = [line for line in read_history(folder) if line.get("epoch", line.get("round")) <= done]
        self.best = max((line["validation_accuracy"] for line in self.history), default=-1.0)
        self._finished = False
        self._trackers = open_trackers(folder, settings, going_on=going_on)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close(self._finished)

    def record(self, counter: str, checkpoint: Checkpoint, **values: Any) -> bool:
        """Keep the checkpoint of one epoch or round (`counter`) and its line of history; tells whether it is the best.

        The last checkpoint comes last: a run that dies before it does all of this again from the checkpoint before, and
        one that dies after it has lost nothing.
        """
        number = checkpoint.training[counter]
        accuracy = checkpoint.training["validation_accuracy"]
        # Without clips to score on every accuracy is 0, and the latest head is the best guess.
        best = accuracy > self.best or accuracy == self.best == 0
        if best:
            self.best = accuracy
            save_checkpoint(self.folder / BEST, checkpoint)
        line = {counter: number, "validation_accuracy": accuracy, **values}
        self.history = [old for old in self.history if old[counter] < number] + [line]
        lines = "".join(json.dumps(old) + "\n" for old in self.history)
        write_atomically(self.folder / HISTORY, lines.encode())
        save_checkpoint(self.folder / LAST, checkpoint)
        self._track({key.replace("_", "/", 1): value for key, value in line.items()}, number)
        return bool(best)

    def keep_solved(self, checkpoint: Checkpoint, scored: Score) -> bool:
        """Make a head whose last layer was solved after the training the run's best, unless it scores lower than the
        best before by more than chance explains (95%, Wilson); tells whether it did.

        Not by the accuracy alone: rare words are few among the validation clips as well. The history and the last
        checkpoint stay those of the training: a run that is resumed goes on from these.
        """
        right = round(self.best * scored.clips)
        kept = not scored.clips or scored.accuracy >= wilson_interval(right, scored.clips)[0]
        if kept:
            save_checkpoint(self.folder / BEST, checkpoint)
        return kept

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write the accuracy curve, the model card and, last, metrics.json: a run that has one is finished."""
        if len(self.history) > 1:  # a curve of one point says nothing, and takes a second
            from wordflock.figures import plot_accuracy

            plot_accuracy(self.history, solved_accuracy(metrics), self.folder / "accuracy.png")
        facts = RunFacts(self.folder, read_config(self.folder), self.history, metrics, read_predictions(self.folder))
        write_card(facts, self.folder)
        write_atomically(self.folder / METRICS, json.dumps(metrics, indent=2).encode())
        if facts.test and self.history:
            last = self.history[-1][facts.counter]
            self._track({f"test/{key}": facts.test[key] for key in ("accuracy", "loss")}, last)
        self._finished = True

    def _track(self, values: Mapping[str, Any], step: int) -> None:
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        for tracker in self._trackers:
            tracker.log(numbers, step)


def _make_folder(settings: HeadSettings) -> Path:
    runs, name = Path(settings.runs), settings.name or time.strftime(f"{settings.mode}-%Y%m%d-%H%M%S")
    folder, number = runs / name, 1
    try:
        runs.mkdir(parents=True, exist_ok=True)
        while not settings.name and folder.exists():  # other runs began in the same second
            number += 1
            folder = runs / f"{name}-{number}"
        folder.mkdir(exist_ok=bool(settings.name))
        folder.chmod(0o700)  # predictions name speakers, statistics are of their recordings
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise WordflockError(
            f"The run's folder {folder} cannot be made ({error.strerror}); name another place with --runs."
        ) from error
    return folder


def new_head(settings: HeadSettings, prepared: Prepared) -> Head:
    """The untrained head that the settings ask for."""
    _, frames, width = prepared.features["train"].array.shape
    labels = len(prepared.task.labels)
    large, seed = settings.allow_large_head, settings.seed
    drawn = Projection(settings.random_features, seed) if settings.random_features else None
    return build_head(settings.head, frames, width, labels, seed=seed, allow_large=large, projection=drawn)


def checkpoint_of(
    head: nn.Module, settings: HeadSettings, prepared: Prepared, *, score: Score, **counter: int
) -> Checkpoint:
    """The head as a checkpoint."""
    width = prepared.features["validation"].array.shape[2]
    training = {"mode": settings.mode, "seed": settings.seed, "validation_accuracy": score.accuracy, **counter}
    weights, drawn = get_weights(head), settings.random_features
    return Checkpoint(
        prepared.task.labels, settings.head, width, prepared.spec, weights, training, random_features=drawn
    )


def finish(run: RunWriter, counter: str, settings: HeadSettings, prepared: Prepared, metrics: dict[str, Any]) -> None:
    """Calibrate the best head on validation clips, score it on the test split, once, and write down everything."""
    best, where = load_checkpoint(run.folder / BEST), device(settings)
    head, validation = best.build().to(where), prepared.features["validation"]
    if len(validation):
        logits = predict(head, validation, device=where)
        best = replace(best, calibration=calibrate(logits, validation.labels, best.labels))
        save_checkpoint(run.folder / BEST, best)
    predictions: list[ClipPrediction] = []
    for split in ("validation", "test")[: 1 if settings.skip_test else 2]:
        if not len(prepared.features[split]):
            continue  # a server of real devices need not have any clips
        logits, targets = predict(head, prepared.features[split], device=where), prepared.features[split].labels
        result = score(logits, targets, best.labels, count_parameters(head), best.calibration)
        metrics = {**metrics, split: result.as_json()}
        clips = prepared.examples[split].clips
        predicted = predictions_of(split, clips, logits, targets, best.labels, best.calibration)
        predictions += predicted
        low, high = result.interval
        if split == "test":
            if settings.dp_epsilon is None:  # else it tells of single training clips, which is more than was promised
                write_neighbours(run.folder, _neighbours(predicted, prepared))
            report(
                f"test of the best ({counter} {best.training[counter]}): loss = {result.loss:.4f}, "
                f"accuracy = {result.accuracy:.4f} [{low:.4f}, {high:.4f}] on {counted(result.clips, 'clip')}"
            )
    write_predictions(run.folder, predictions)
    run.finish({**metrics, "peak_memory": peak_memory()})
    report(f"run: {run.folder}")


def _neighbours(predicted: Sequence[ClipPrediction], prepared: Prepared) -> list[Neighbour]:
    """The training clips nearest to the most confident mistakes on the test split; a server of devices has none."""
    place = {row: number for number, row in enumerate(predicted)}
    mistakes = confident_mistakes(predicted)
    test, train = prepared.features["test"], prepared.features["train"]
    rows = test.select(np.array([place[row] for row in mistakes], dtype=np.int64))
    clips = prepared.examples["train"].clips if len(train) else ()
    return nearest([(row.clip, row.start) for row in mistakes], rows, train, clips, prepared.task.labels)
