"""Cross-validation over the speakers of training and validation, for what a thousand validation clips cannot decide."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

from wordflock.data.task import choose_task, examples
from wordflock.encoder.backend import device, spec_of
from wordflock.encoder.store import Features, encode_clips
from wordflock.prepare import load_table
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
    words: list[str]  # of the training clips
    scored_words: list[str]


def folds(settings: Settings, every: int = 1) -> Iterator[Fold]:
    """Every speaker of training and validation is scored in one fold; silence, which nobody spoke, is dealt by clip.

    With `every`, only so many-th speakers, and crops of silence, are used and encoded at all.
    """
    table = load_table(settings)
    task = choose_task(table, settings.keyword_list, settings.silence, settings.unknown)
    parts = [examples(table, task, split, settings.seed) for split in ("train", "validation")]
    pairs = [pair for part in parts for pair in zip(part.clips, part.labels, strict=True)]
    if every > 1:
        chosen = set(sorted({clip.speaker for clip, _ in pairs if clip.speaker})[::every])
        silence = [pair for pair in pairs if not pair[0].speaker][::every]
        pairs = [pair for pair in pairs if pair[0].speaker in chosen] + silence
    clips = [clip for clip, _ in pairs]
    spec = spec_of(settings)
    together = encode_clips(clips, [label for _, label in pairs], spec, settings.cache_folder, device(settings))
    speakers, words = np.array([clip.speaker for clip in clips]), np.array([clip.word for clip in clips])
    generator = numpy_generator(0, "folds")
    names = generator.permutation(np.unique(speakers[speakers != ""]))
    fold_of = {name: place % FOLDS for place, name in enumerate(names)}
    fold = np.array([fold_of.get(name, -1) for name in speakers])
    fold[fold < 0] = generator.integers(FOLDS, size=(fold < 0).sum())
    for number in range(FOLDS):
        away, here = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        yield Fold(
            together.select(away),
            speakers[away].tolist(),
            together.select(here),
            speakers[here].tolist(),
            task.labels,
            words[away].tolist(),
            words[here].tolist(),
        )


def against(values: list[float], reference: list[float]) -> str:
    """The mean over folds, and the mean and standard deviation of what each fold differs from the reference by."""
    differences = [value - other for value, other in zip(values, reference, strict=True)]
    return f"{mean(values):.2f} | {mean(differences):+.2f} ± {stdev(differences):.2f}"


def command_line(description: str | None) -> ArgumentParser:
    """What all commands that cross-validate are told."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--keywords", default="")
    parser.add_argument("--cache", default="")
    parser.add_argument("--only", nargs="*", default=[], help="rows, beside the first, with one of these in the name")
    return parser
