"""Accuracy with few clips a word on speakers never heard: a table of RESULTS.md.

python -m benchmarks.few_clips --data speech_commands_mini.tar speech_commands_more.tar --cache FOLDER [--draws 5]
    [--counts 1 3 5 10 20]

The keywords alone, without silence and unknown words. Clips are drawn from the training split, each of a word by
another speaker, and all keyword clips of the other two splits are scored. The two ways of the product, the closed form
and the default head of `train` (combined), stand beside the nearest class mean and scikit-learn's logistic regression
on the same features. In the last two columns the training clips of `--data synthetic` train too, as with two --data.
The interval is that of the mean over draws (Student's t, 95%); it does not cover the choice of the scored speakers.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t
from sklearn.linear_model import LogisticRegression

from wordflock.data.clips import Clip
from wordflock.encoder.store import Features
from wordflock.head.closed_form import ScaleStatistics, Statistics, solve
from wordflock.head.torch_head import build_head
from wordflock.head.training import (
    Recipe,
    load_solution,
    make_optimizer,
    one_thread,
    predict,
    scale_statistics_of,
    statistics_of,
    train_epoch,
)
from wordflock.prepare import Prepared, prepare
from wordflock.randomness import numpy_generator
from wordflock.settings import SYNTHETIC, TrainSettings

CLIPS = (1, 3, 5, 10, 20)
Vectors: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]
Classifier = Callable[[Features, Features], Labels]  # training clips and scored clips to the labels of the latter


def closed_form(own: Features, scored: Features) -> Labels:
    """The product's."""
    x = _vectors(own)
    scale = ScaleStatistics.of(x, own.labels, int(own.labels.max()) + 1).scale()
    solution = solve(Statistics.of(x, own.labels, scale), scale)
    return np.asarray((_vectors(scored) @ solution.weight.T + solution.bias).argmax(axis=1))


def combined(own: Features, scored: Features, settings: TrainSettings) -> Labels:
    """What `wordflock train` does by default, without validation clips."""
    labels, (_, frames, width) = int(own.labels.max()) + 1, own.array.shape
    head, recipe = build_head(settings.head, frames, width, labels), Recipe.of(settings, settings.epochs)
    optimizer = make_optimizer(head, recipe)
    for epoch in range(settings.epochs):
        train_epoch(head, optimizer, own, recipe, numpy_generator(0, "epoch", epoch), epoch=epoch)
    scale = scale_statistics_of(head, own, labels).scale()
    load_solution(head, solve(statistics_of(head, own, scale), scale, parts=head.parts))
    return np.asarray(predict(head, scored).argmax(axis=1))


def nearest_mean(own: Features, scored: Features) -> Labels:
    """The label whose mean is nearest, by Euclidean distance of standardised vectors."""
    x, others = _standardised(own, scored)
    means = np.stack([x[own.labels == label].mean(axis=0) for label in range(int(own.labels.max()) + 1)])
    return np.asarray((others @ means.T - np.square(means).sum(axis=1) / 2).argmax(axis=1))


def logistic_regression(own: Features, scored: Features) -> Labels:
    """With scikit-learn's default penalty."""
    x, others = _standardised(own, scored)
    return np.asarray(LogisticRegression(max_iter=1000).fit(x, own.labels).predict(others))


def main() -> None:
    """Print the table, a row at a time."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=CLIPS)
    given = parser.parse_args()
    settings = TrainSettings(data="\n".join(given.data), cache=given.cache, silence=False, unknown=False)
    made_up = prepare(TrainSettings(data=SYNTHETIC, cache=given.cache, silence=False, unknown=False)).features["train"]
    prepared = prepare(settings)  # last: its view of the store has all rows
    scored = _joined(prepared.features["validation"], prepared.features["test"])
    default = partial(combined, settings=settings)
    columns: dict[str, tuple[Classifier, bool]] = {
        "nearest class mean": (nearest_mean, False),
        "logistic regression": (logistic_regression, False),
        "closed form": (closed_form, False),
        "combined": (default, False),
        "closed form, synthetic words too": (closed_form, True),
        "combined, synthetic words too": (default, True),
    }
    print(f"{len(scored)} scored clips\n\n| clips a word | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|", flush=True)
    for count in given.counts:
        cells = []
        for classify, more in columns.values():
            right = []
            for draw in range(given.draws):
                own = prepared.features["train"].select(_drawn(prepared, count, draw))
                with one_thread():
                    answers = classify(_joined(own, made_up) if more else own, scored)
                right.append(100 * float((answers == scored.labels).mean()))
            half = t.ppf(0.975, len(right) - 1) * np.std(right, ddof=1) / np.sqrt(len(right))
            cells.append(f"{np.mean(right):.1f} ± {half:.1f}")
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


def _drawn(prepared: Prepared, count: int, draw: int) -> Labels:
    return drawn_clips(prepared.examples["train"].clips, prepared.features["train"].labels, count, draw)


def drawn_clips(clips: tuple[Clip, ...], labels: Labels, count: int, draw: int) -> Labels:
    """The places of `count` clips of every label, each by another speaker."""
    generator, chosen = numpy_generator(draw, "few clips"), list[int]()
    for label in np.unique(labels):
        speakers = set[str]()
        for place in generator.permutation(np.flatnonzero(labels == label)):
            if len(speakers) < count and clips[place].speaker not in speakers:
                speakers.add(clips[place].speaker)
                chosen.append(int(place))
    return np.array(chosen)


def _joined(some: Features, others: Features) -> Features:
    """Clips of one store together."""
    rows, labels = ([getattr(each, name) for each in (some, others)] for name in ("rows", "labels"))
    return Features(some.array, np.concatenate(rows), np.concatenate(labels))


def _vectors(features: Features) -> Vectors:
    """Mean and deviation over the frames, as the closed form takes them."""
    parts = np.array_split(features.rows, max(1, len(features) // 256))
    batches = (features.array[rows].astype(np.float32) for rows in parts)
    return np.concatenate([np.concatenate([x.mean(axis=1), x.std(axis=1)], axis=1) for x in batches])


def _standardised(own: Features, scored: Features) -> tuple[Vectors, Vectors]:
    """Both by mean and deviation of the first."""
    x, others = _vectors(own), _vectors(scored)
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    return (x - mean) / deviation, (others - mean) / deviation


if __name__ == "__main__":
    main()
