"""The yardstick of every choice: cross-validation over all speakers, with intervals over speakers.

python -m benchmarks.yardstick --data speech_commands_mini.tar speech_commands_more.tar [--keywords yes,no,...]
    [--seeds 1 2] [--rows NAME ...] [--cache FOLDER]

Speakers are dealt into five folds, by another permutation with every seed. Each row is what `wordflock train` or
`wordflock simulate` does: the fold is the test split, an eighth of the other speakers the validation split, and a head
is scored by its run's predictions. The folds are told to the product by a --table. Silence comes from the stretches of
the background recordings that each split has.

Accuracy is that of the official mixture, in which all labels are equally frequent: the mean of the labels' recalls.
Intervals are 95%, by a Poisson bootstrap over speakers (silence: over clips). Speakers with fewer than five clips count
in none of the figures by speaker. Differences are paired; a second table has those of all other pairs of rows.
"""

from __future__ import annotations

import csv
import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
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
ROUNDS = partial(wordflock.simulate, rounds=10, workers=1)
ROWS: dict[str, Any] = {
    "one round, closed form": partial(wordflock.train, strategy="closed-form"),
    "ten rounds": ROUNDS,
    "ten rounds, attentive": partial(ROUNDS, head="attentive"),
    "ten rounds, last layer averaged": partial(ROUNDS, last_layer="averaged"),
    "centralized": wordflock.train,
    "centralized, attentive": partial(wordflock.train, head="attentive"),
    "ten rounds, Dirichlet 0.1": partial(ROUNDS, partition="dirichlet", alpha=0.1),
    "ten rounds, one speaker a client": partial(ROUNDS, clients=800, batch_size=8),
    "ten rounds, each word at one client": partial(
        ROUNDS, partition="dirichlet", alpha=1e-3, clients=4, local_epochs=1
    ),
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
    """Print both tables, the first a row at a time."""
    given = command_line(__doc__).parse_args()
    warnings.simplefilter("ignore", WordflockWarning)  # each source lacks what the table says of the other
    print("| row | accuracy (%) | against the first row | all clips (%) | worst decile | least recalls (%) |")
    print("|---" * 6 + "|", flush=True)
    measured: dict[str, list[Tally]] = {}
    with TemporaryDirectory() as folder:
        clips = load_clips([Path(source) for source in given.data], cache=Path(given.cache)).clips
        for name in given.rows:
            measured[name] = [_cross_validated(ROWS[name], given, clips, Path(folder), seed) for seed in given.seeds]
            print(f"| {name} | {_figures(measured[name], measured[given.rows[0]])} |", flush=True)
    print("\n| row | less | points |\n|---|---|---|")
    for before, name in list(combinations(measured, 2))[len(measured) - 1 :]:
        print(f"| {name} | {before} | {difference(measured[name], measured[before])} |")


def write_fold(
    path: Path,
    clips: Sequence[Clip],
    seed: int,
    fold: int,
    unheard: Collection[str] = (),
    also: Sequence[Clip] = (),
) -> set[str]:
    """The --table in which the speakers of the fold, which it returns, are the test split, and with them all clips of
    the words that training shall not hear. Clips that `also` are there, of other speakers, are for training."""
    names = numpy_generator(seed, "folds").permutation(sorted({clip.speaker for clip in clips}))
    scored, others = set(names[fold::FOLDS]), [name for place, name in enumerate(names) if place % FOLDS != fold]
    split_of = dict.fromkeys(others[::8], "validation") | dict.fromkeys(scored, "test")
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "split"])
        for clip in (*clips, *also):
            table.writerow((clip.name, "test" if clip.word in unheard else split_of.get(clip.speaker, "train")))
    return scored


def _cross_validated(train: Any, given: Namespace, clips: Sequence[Clip], folder: Path, seed: int) -> Tally:
    """The tally of a row with one permutation of the speakers."""
    predictions: list[ClipPrediction] = []
    for fold in range(FOLDS):
        write_fold(folder / "fold.csv", clips, seed, fold)
        with TemporaryDirectory() as runs:
            run = train(**options(given, folder / "fold.csv", runs, FOLDS * seed + fold))
            predictions += read_predictions(run.folder)
            labels = run.score.labels
    return Tally.of(predictions, labels)


def options(given: Namespace, table: Path, runs: str, seed: int) -> dict[str, Any]:
    """The options of a run that says which clips it trains on; fold and seed give the head's own seed."""
    own = {"table": str(table), "layout": "speech-commands", "runs": runs, "seed": seed}
    return {"data": given.data, "keywords": given.keywords, "cache": given.cache, **own}


def _figures(tallies: Sequence[Tally], first: Sequence[Tally]) -> str:
    """The cells of a row, each the mean over seeds."""
    recalls = np.mean([tally.recalls for tally in tallies], axis=0)
    everything = 100 * np.mean([tally.right.sum() / tally.clips.sum() for tally in tallies])
    decile = np.mean([tally.worst_decile for tally in tallies])
    least = ", ".join(f"{tallies[0].labels[place]} {recalls[place]:.1f}" for place in np.argsort(recalls)[:3])
    return f"{accuracy(tallies)} | {difference(tallies, first)} | {everything:.2f} | {decile:.1f} | {least}"


def accuracy(tallies: Sequence[Tally]) -> str:
    """The accuracy and its interval."""
    boots = np.mean([tally.resampled() for tally in tallies], axis=0)
    low, high = np.percentile(boots, [2.5, 97.5])
    return f"{np.mean([tally.recalls for tally in tallies]):.2f} [{low:.2f}, {high:.2f}]"


def difference(tallies: Sequence[Tally], others: Sequence[Tally]) -> str:
    """By how much the accuracy is above that of another row, and the interval of that."""
    boots = np.mean([a.resampled() - b.resampled() for a, b in zip(tallies, others, strict=True)], axis=0)
    points = np.mean([tally.recalls for tally in tallies]) - np.mean([tally.recalls for tally in others])
    low, high = np.percentile(boots, [2.5, 97.5])
    return f"{points:+.2f} [{low:+.2f}, {high:+.2f}]"


def command_line(description: str | None) -> ArgumentParser:
    """What the commands that cross-validate are told."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--keywords", default="")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    return parser


if __name__ == "__main__":
    main()
