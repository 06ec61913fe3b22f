"""Cross-validation over the speakers of training and validation, for what a thousand validation clips cannot decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

from wordflock.features import Features
from wordflock.prepare import prepare
from wordflock.randomness import numpy_generator
from wordflock.settings import Settings

FOLDS = 3


@dataclass(frozen=True)
class Fold:
    """A part of the speakers to score a head on, and all others to train it."""

    training: Features
    speakers: list[str]  # of the training clips; "" for silence
    scored: Features
    scored_speakers: list[str]
    labels: list[str]


def folds(settings: Settings) -> Iterator[Fold]:
    """Every speaker of training and validation is scored in one fold; silence, which nobody spoke, is dealt by clip."""
    prepared = prepare(settings, ("train", "validation"))
    parts = list(prepared.features.values())
    rows, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "labels"))
    together = Features(parts[0].array, rows, labels)
    speakers = np.array([clip.speaker for those in prepared.examples.values() for clip in those.clips])
    generator = numpy_generator(0, "folds")
    names = generator.permutation(np.unique(speakers[speakers != ""]))
    fold_of = {name: place % FOLDS for place, name in enumerate(names)}
    fold = np.array([fold_of.get(name, -1) for name in speakers])
    fold[fold < 0] = generator.integers(FOLDS, size=(fold < 0).sum())
    for number in range(FOLDS):
        away, here = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        owners = speakers[away].tolist(), speakers[here].tolist()
        yield Fold(together.select(away), owners[0], together.select(here), owners[1], prepared.task.labels)


def against(values: list[float], reference: list[float]) -> str:
    """The mean over folds, and the mean and standard deviation of what each fold differs from the reference by."""
    differences = [value - other for value, other in zip(values, reference, strict=True)]
    return f"{mean(values):.2f} | {mean(differences):+.2f} ± {stdev(differences):.2f}"
