"""Accuracy with few clips a word on speakers never heard: a table of RESULTS.md.

python -m benchmarks.few_clips --data speech_commands_mini.tar speech_commands_more.tar --cache FOLDER [--draws 5]

The keywords alone, without silence and unknown words. Clips are drawn from the training split, each of a word by
another speaker, and all keyword clips of the other two splits are scored. The closed form of the product stands beside
the nearest class mean (after standardising) and scikit-learn's logistic regression on the same standardised features.
The interval is that of the mean over draws (Student's t, 95%); it does not cover the choice of the scored speakers.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t
from sklearn.linear_model import LogisticRegression

from wordflock.data.clips import Clip
from wordflock.head.closed_form import ScaleStatistics, Statistics, solve
from wordflock.prepare import prepare
from wordflock.randomness import numpy_generator
from wordflock.settings import CLOSED_FORM, TrainSettings

CLIPS = (1, 3, 5, 10, 20)
Vectors: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]
Classifier = Callable[[Vectors, Labels, Vectors], Labels]  # training clips, their labels, scored clips


def closed_form(x: Vectors, y: Labels, scored: Vectors) -> Labels:
    """The product's."""
    scale = ScaleStatistics.of(x, y, int(y.max()) + 1).scale()
    solution = solve(Statistics.of(x, y, scale), scale)
    return np.asarray((scored @ solution.weight.T + solution.bias).argmax(axis=1))


def nearest_mean(x: Vectors, y: Labels, scored: Vectors) -> Labels:
    """The label whose mean is nearest, by Euclidean distance of standardised vectors."""
    x, scored = _standardised(x, scored)
    means = np.stack([x[y == label].mean(axis=0) for label in range(int(y.max()) + 1)])
    return np.asarray((scored @ means.T - np.square(means).sum(axis=1) / 2).argmax(axis=1))


def logistic_regression(x: Vectors, y: Labels, scored: Vectors) -> Labels:
    """With scikit-learn's default penalty."""
    x, scored = _standardised(x, scored)
    return np.asarray(LogisticRegression(max_iter=1000).fit(x, y).predict(scored))


CLASSIFIERS: dict[str, Classifier] = {
    "closed form": closed_form,
    "nearest class mean": nearest_mean,
    "logistic regression": logistic_regression,
}


def main() -> None:
    """Print the table, a row at a time."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    data = "\n".join(given.data)
    prepared = prepare(TrainSettings(data=data, cache=given.cache, strategy=CLOSED_FORM, silence=False, unknown=False))
    vectors, labels = {}, {}
    for split, features in prepared.features.items():
        vectors[split] = features.array[features.rows].astype(np.float32).reshape(len(features), -1)
        labels[split] = features.labels
    scored, truth = (np.concatenate([those["validation"], those["test"]]) for those in (vectors, labels))
    print(f"{len(truth)} scored clips\n\n| clips a word | {' | '.join(CLASSIFIERS)} |")
    print("|---" * (1 + len(CLASSIFIERS)) + "|", flush=True)
    for count in CLIPS:
        drawn = [drawn_clips(prepared.examples["train"].clips, labels["train"], count, d) for d in range(given.draws)]
        cells = []
        for classify in CLASSIFIERS.values():
            answers = [classify(vectors["train"][clips], labels["train"][clips], scored) for clips in drawn]
            right = np.array([100 * (answer == truth).mean() for answer in answers])
            half = t.ppf(0.975, len(right) - 1) * right.std(ddof=1) / np.sqrt(len(right))
            cells.append(f"{right.mean():.1f} ± {half:.1f}")
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


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


def _standardised(x: Vectors, scored: Vectors) -> tuple[Vectors, Vectors]:
    """Both by mean and deviation of the first."""
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    return (x - mean) / deviation, (scored - mean) / deviation


if __name__ == "__main__":
    main()
