"""What noise, and words never heard in training, do to a head: tables of RESULTS.md.

python -m benchmarks.robustness --data speech_commands_mini.tar --keywords yes,no,up,down,left,right,stop,go

Two background recordings are kept out of training, silence included, and mixed into the test clips at several ratios.
A third of the unknown words is kept out of training, three times over, and the recall of exactly those is measured on
test clips. Heads are trained centrally, with the defaults and with --augmentations.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.augment import add_noise
from wordflock.audio.reading import SAMPLE_RATE, fit
from wordflock.audio.spectrogram import log_mel
from wordflock.data.clips import Clip, ClipTable
from wordflock.data.loading import read_samples
from wordflock.data.task import UNKNOWN, Task, choose_task, examples
from wordflock.encoder.backend import spec_of
from wordflock.encoder.store import Features, encode_clips, gathered, with_augmentations
from wordflock.encoder.torch_encoder import load_encoder
from wordflock.head.calibration import calibrate, certainty
from wordflock.head.torch_head import Head, build_head
from wordflock.head.training import Recipe, make_optimizer, predict, train_epoch
from wordflock.prepare import load_table
from wordflock.randomness import numpy_generator
from wordflock.settings import TrainSettings

KEPT_OUT = ("doing_the_dishes", "exercise_bike")  # recordings
RATIOS = (20, 10, 5, 0)  # dB
FOLDS = 3


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--keywords", default="")
    parser.add_argument("--cache", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--augmentations", type=int, nargs="*", default=[0, 1])
    given = parser.parse_args()
    settings = TrainSettings(data=given.data, keywords=given.keywords, cache=given.cache)
    table = load_table(settings)
    task = choose_task(table, settings.keyword_list, settings.silence, settings.unknown)
    heard = [clip for clip in table.background if not any(name in clip.name for name in KEPT_OUT)]
    unheard = [clip for clip in table.background if clip not in heard]
    quiet = replace(table, background=tuple(heard))
    noisy = {ratio: _noisy(table, task, unheard, ratio, settings) for ratio in RATIOS}
    print("| variants | clean (%) | " + " | ".join(f"{ratio} dB (%)" for ratio in RATIOS) + " |")
    print("|---" * (2 + len(RATIOS)) + "|")
    for augmentations in given.augmentations:
        rows = []
        for seed in range(given.seeds):
            now = replace(settings, seed=seed, augmentations=augmentations)
            head = _trained(_features(quiet, task, "train", now), task, now)
            test = _features(table, task, "test", now)
            rows.append([_accuracy(head, features) for features in (test, *noisy.values())])
        print(
            f"| {augmentations} | " + " | ".join(f"{mean(column):.1f}" for column in zip(*rows, strict=True)) + " |",
            flush=True,
        )

    print("\n| words never heard | clips | recall (%) | with the threshold (%) | keywords lost to it (%) |")
    print("|---|---|---|---|---|")
    words = sorted({clip.word for clip in table.of_split("train")} - set(task.keywords))
    for fold in range(FOLDS):
        kept_out = words[fold::FOLDS]
        known = replace(table, clips=tuple(c for c in table.clips if c.word not in kept_out))
        new = replace(table, clips=tuple(c for c in table.clips if c.word in kept_out), background=())
        results = []
        for seed in range(given.seeds):
            now = replace(settings, seed=seed)
            head = _trained(_features(known, task, "train", now), task, now)
            validation, test = _features(known, task, "validation", now), _features(known, task, "test", now)
            found = calibrate(predict(head, validation), validation.labels, task.labels)
            strange = _features(new, task, "test", now)
            best, sure = _answers(head, strange, task, found.temperature)
            keyword, confidence = _answers(head, test, task, found.temperature)
            right = (keyword == test.labels) & (test.labels < len(task.keywords))
            unknown = best == task.labels.index(UNKNOWN)
            figures = unknown, unknown | (sure < found.threshold), confidence[right] < found.threshold
            results.append([100 * float(figure.mean()) for figure in figures])
        row = " | ".join(f"{mean(column):.1f}" for column in zip(*results, strict=True))
        print(f"| {', '.join(kept_out)} | {len(strange)} | {row} |", flush=True)


def _answers(
    head: Head, features: Features, task: Task, temperature: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The most probable label of every clip, and how sure the head is of it."""
    logits = predict(head, features)
    return logits.argmax(axis=1), certainty(logits, task.labels, temperature)


def _features(table: ClipTable, task: Task, split: str, settings: TrainSettings) -> Features:
    those = examples(table, task, split, settings.seed)
    augmentations = settings.augmentations if split == "train" else 0
    clips, labels = with_augmentations(those.clips, augmentations), list(those.labels) * (1 + augmentations)
    encoded = encode_clips(clips, labels, spec_of(settings), settings.cache_folder, "cpu")
    return gathered(encoded, len(those.clips))


def _noisy(table: ClipTable, task: Task, noises: Sequence[Clip], ratio: float, settings: TrainSettings) -> Features:
    """The test clips, each with a stretch of one of the noises; silence gets it as it gets it beside a quiet word."""
    import torch

    those = examples(table, task, "test", 0)
    order = sorted(range(len(those.clips)), key=lambda i: (those.clips[i].path, those.clips[i].offset))
    recordings = list(read_samples([replace(noise, start=None) for noise in noises]))
    spec = spec_of(settings)
    encoder, samples, rows = load_encoder(spec), round(spec.window * SAMPLE_RATE), []
    for clip in read_samples([those.clips[i] for i in order]):
        generator = numpy_generator(0, "noise", len(rows), int(ratio))
        noise = recordings[generator.integers(len(recordings))]
        start = generator.integers(len(noise) - len(clip))
        mixed = np.clip(add_noise(clip, noise[start : start + len(clip)], ratio), -1, 1)
        with torch.inference_mode():
            rows.append(encoder(torch.from_numpy(log_mel(fit(mixed, samples)[None]))).half().numpy()[0])
    return Features(np.stack(rows), np.arange(len(rows)), np.array(those.labels)[order])


def _trained(features: Features, task: Task, settings: TrainSettings) -> Head:
    _, frames, width = features.array.shape
    head = build_head(settings.head, frames, width, len(task.labels), seed=settings.seed)
    recipe = Recipe.of(settings, settings.epochs)
    optimizer = make_optimizer(head, recipe)
    for epoch in range(recipe.epochs):
        train_epoch(head, optimizer, features, recipe, numpy_generator(settings.seed, "epoch", epoch), epoch=epoch)
    return head


def _accuracy(head: Head, features: Features) -> float:
    return 100 * float((predict(head, features).argmax(axis=1) == features.labels).mean())


if __name__ == "__main__":
    main()
