"""The yardstick of every choice: cross-validation over all speakers, with intervals over speakers.

python -m benchmarks.yardstick --data speech_commands_mini.tar speech_commands_more.tar [--keywords yes,no,...]
    [--seeds 1 2] [--only NAME ...] [--cache FOLDER]

Speakers are dealt into five folds, by another permutation with every seed. Each row is what `wordflock train` or
`wordflock simulate` does: the fold is the test split, an eighth of the other speakers the validation split, and a head
is scored by its run's predictions. The folds are told to the product by a --table. Silence comes from the stretches of
the background recordings that each split has.

Accuracy is that of the official mixture, in which all labels are equally frequent: the mean of the labels' recalls.
Intervals are 95%, by a Poisson bootstrap over speakers (silence: over clips), and differences from the first row are
paired. Speakers with fewer than five clips count in none of the figures by speaker.
"""

from __future__ import annotations

import csv
import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

import wordflock
from wordflock.data.clips import Clip
from wordflock.data.loading import load_clips
from wordflock.errors import WordflockWarning
from wordflock.predictions import ClipPrediction, read_predictions
from wordflock.randomness import numpy_generator

FOLDS, RESAMPLES, LEAST_CLIPS = 5, 400, 5
ROUNDS = partial(wordflock.simulate, workers=1)
ROWS: dict[str, Any] = {
    "one round, closed form": partial(wordflock.train, strategy="closed-form"),
    "ten rounds": ROUNDS,
    "ten rounds, last layer averaged": partial(ROUNDS, last_layer="averaged"),
    "centralized": wordflock.train,
    "ten rounds, attentive": partial(ROUNDS, head="attentive"),
    "centralized, attentive": partial(wordflock.train, head="attentive"),
    "ten rounds, combined": partial(ROUNDS, head="combined"),
    "centralized, combined": partial(wordflock.train, head="combined"),
    "ten rounds, Dirichlet 0.1": partial(ROUNDS, partition="dirichlet", alpha=0.1),
    "ten rounds, Dirichlet 0.1, last layer averaged": partial(
        ROUNDS, partition="dirichlet", alpha=0.1, last_layer="averaged"
    ),
    "ten rounds, 800 clients": partial(ROUNDS, clients=800, batch_size=8),
    "ten rounds, 800 clients, last layer averaged": partial(ROUNDS, clients=800, batch_size=8, last_layer="averaged"),
}


@dataclass(frozen=True)
class Tally:
    """Right answers and clips of each speaker and label, over all folds of one seed."""

    right: NDArray[np.float64]  # (labels, speakers); every clip of silence is a speaker of its own
    clips: NDArray[np.float64]
    labels: list[str]
    people: int  # of the speakers, who come first

    @classmethod
    def of(cls, predictions: Sequence[ClipPrediction], labels: list[str]) -> Tally:
        """The tally of the predictions of all folds; speakers are in the order of their names."""
        names = sorted({row.speaker for row in predictions if row.speaker})
        place = {name: number for number, name in enumerate(names)}
        nobody = iter(range(len(names), len(names) + len(predictions)))
        who = [place[row.speaker] if row.speaker else next(nobody) for row in predictions]
        right, clips = np.zeros((2, len(labels), max(max(who) + 1, len(names))))
        for row, speaker in zip(predictions, who, strict=True):
            label = labels.index(row.label)
            clips[label, speaker] += 1
            right[label, speaker] += row.correct
        return cls(right, clips, labels, len(names))

    @property
    def recalls(self) -> NDArray[np.float64]:
        """Of each label, %."""
        recalls: NDArray[np.float64] = 100 * self.right.sum(axis=1) / self.clips.sum(axis=1)
        return recalls

    @property
    def worst_decile(self) -> float:
        """The mean accuracy of the worst tenth of the speakers, %."""
        right, clips = self.right.sum(axis=0)[: self.people], self.clips.sum(axis=0)[: self.people]
        many = clips >= LEAST_CLIPS
        each = np.sort(100 * right[many] / clips[many])
        return float(each[: max(1, len(each) // 10)].mean())

    def resampled(self) -> NDArray[np.float64]:
        """The accuracy with the speakers resampled, %, shape (resamples,); the same draws for the same speakers."""
        draws = numpy_generator(0, "bootstrap").poisson(1.0, (RESAMPLES, self.right.shape[1])).astype(np.float64)
        accuracies: NDArray[np.float64] = 100 * ((draws @ self.right.T) / np.maximum(draws @ self.clips.T, 1e-9)).mean(
            axis=1
        )
        return accuracies


def main() -> None:
    """Print the table, a row at a time."""
    given = _command_line().parse_args()
    warnings.simplefilter("ignore", WordflockWarning)  # each source lacks what the table says of the other
    print("| row | accuracy (%) | against the first row | all clips (%) | worst decile | least recalls (%) |")
    print("|---" * 6 + "|", flush=True)
    with TemporaryDirectory() as folder:
        clips = load_clips([Path(source) for source in given.data], cache=Path(given.cache)).clips
        for seed in given.seeds:
            for fold in range(FOLDS):
                write_fold(Path(folder) / f"{seed}-{fold}.csv", clips, seed, fold)
        first: list[Tally] = []
        for name, train in ROWS.items():
            if first and given.only and name not in given.only:
                continue
            tallies = [_cross_validated(train, given, Path(folder), seed) for seed in given.seeds]
            first = first or tallies
            print(f"| {name} | {_figures(tallies, first)} |", flush=True)


def write_fold(path: Path, clips: Sequence[Clip], seed: int, fold: int) -> None:
    """The --table in which the speakers of the fold are the test split."""
    names = numpy_generator(seed, "folds").permutation(sorted({clip.speaker for clip in clips}))
    scored, others = set(names[fold::FOLDS]), [name for place, name in enumerate(names) if place % FOLDS != fold]
    split_of = dict.fromkeys(others[::8], "validation") | dict.fromkeys(scored, "test")
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "split"])
        table.writerows((clip.name, split_of.get(clip.speaker, "train")) for clip in clips)


def _cross_validated(train: Any, given: Namespace, folder: Path, seed: int) -> Tally:
    """The tally of a row with one permutation of the speakers; fold and seed give the head's own seed."""
    predictions: list[ClipPrediction] = []
    for fold in range(FOLDS):
        with TemporaryDirectory() as runs:
            run = train(
                data=given.data,
                table=str(folder / f"{seed}-{fold}.csv"),
                layout="speech-commands",
                keywords=given.keywords,
                cache=given.cache,
                runs=runs,
                seed=FOLDS * seed + fold,
            )
            predictions += read_predictions(run.folder)
            labels = run.score.labels
    return Tally.of(predictions, labels)


def _figures(tallies: Sequence[Tally], first: Sequence[Tally]) -> str:
    """The cells of a row, each the mean over seeds."""
    boots = np.mean([tally.resampled() for tally in tallies], axis=0)
    against = boots - np.mean([tally.resampled() for tally in first], axis=0)
    recalls = np.mean([tally.recalls for tally in tallies], axis=0)
    difference = recalls.mean() - np.mean([tally.recalls for tally in first])
    low, high = np.percentile(boots, [2.5, 97.5])
    less, more = np.percentile(against, [2.5, 97.5])
    everything = 100 * np.mean([tally.right.sum() / tally.clips.sum() for tally in tallies])
    decile = np.mean([tally.worst_decile for tally in tallies])
    least = ", ".join(f"{tallies[0].labels[place]} {recalls[place]:.1f}" for place in np.argsort(recalls)[:3])
    return (
        f"{recalls.mean():.2f} [{low:.2f}, {high:.2f}] | {difference:+.2f} [{less:+.2f}, {more:+.2f}] | "
        f"{everything:.2f} | {decile:.1f} | {least}"
    )


def _command_line() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--keywords", default="")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="*", default=[], help="rows beside the first")
    return parser


if __name__ == "__main__":
    main()
