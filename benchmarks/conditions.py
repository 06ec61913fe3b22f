"""The yardstick under conditions that training did not know: words and noises never heard.

python -m benchmarks.conditions words --data speech_commands_mini.tar speech_commands_more.tar --cache FOLDER
    [--seeds 0] [--rows "one round, closed form" centralized] [--also FOLDER]
python -m benchmarks.conditions noise ... [--augmentations 0 0.3 1] [--folds 5]

The same folds and rows as benchmarks.yardstick, and its accuracy, that of the official mixture.

words: each third of the unknown words is kept out of training and validation in turn. Scored are the speakers of the
fold: the accuracy on all other words, and the share of the words never heard that become `_unknown_`, without and with
the rejection threshold of the run, which its validation clips give. Clips of --also, synthetic ones for instance, are
for training only, without those of the words kept out.

noise: two background recordings are kept out of training, silence included, and mixed into the clips that are scored.
"""

from __future__ import annotations

import tarfile
import warnings
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.yardstick import FOLDS, ROWS, Tally, accuracy, command_line, difference, options, write_fold
from wordflock.audio.augment import add_noise
from wordflock.audio.reading import SAMPLE_RATE, fit
from wordflock.data.clips import Clip
from wordflock.data.loading import load_clips, read_samples
from wordflock.data.task import DEFAULT_KEYWORDS, UNKNOWN, Task
from wordflock.encoder.backend import batch_size, open_encoder
from wordflock.encoder.store import FeatureStore
from wordflock.errors import WordflockWarning
from wordflock.head.calibration import Calibration, decide
from wordflock.head.checkpoint import Checkpoint, load_checkpoint
from wordflock.head.numpy_head import logits
from wordflock.predictions import ClipPrediction
from wordflock.prepare import Prepared, prepare
from wordflock.randomness import numpy_generator
from wordflock.settings import TrainSettings

THIRDS = 3
KEPT_OUT = ("doing_the_dishes", "exercise_bike")  # recordings
RATIOS = (20, 10, 5, 0)  # dB


def main() -> None:
    """Print one of the tables."""
    parser = command_line(__doc__)
    parser.add_argument("condition", choices=("words", "noise"))
    parser.add_argument("--augmentations", type=float, nargs="+", default=[0, 0.3, 1])
    parser.add_argument("--folds", type=int, default=FOLDS, help="so many of the five are scored")
    parser.add_argument("--also", nargs="+", default=[], help="further data, for training on words only")
    given = parser.parse_args()
    warnings.simplefilter("ignore", WordflockWarning)  # each source lacks what the table says of the other
    with TemporaryDirectory() as folder:
        (_words if given.condition == "words" else _noise)(given, Path(folder))


def _words(given: Namespace, folder: Path) -> None:
    clips, also = (_clips(sources, given) for sources in (given.data, given.also))
    given.data = [*given.data, *given.also]
    print("| row | accuracy (%) | with rejection | | never heard refused (%) | with rejection |\n" + "|---" * 6 + "|")
    for name in given.rows:
        tallies: dict[bool, list[Tally]] = {False: [], True: []}
        refused: dict[bool, list[float]] = {False: [], True: []}
        for seed in given.seeds:
            for third in range(THIRDS):
                heard: dict[bool, list[ClipPrediction]] = {False: [], True: []}
                for fold in range(given.folds):
                    found, strange, labels = _fold_without(given, clips, also, folder, name, seed, fold, third)
                    for rejecting in (False, True):
                        heard[rejecting] += found[rejecting]
                        refused[rejecting].append(strange[rejecting])
                for rejecting in (False, True):
                    tallies[rejecting].append(Tally.of(heard[rejecting], labels))
        print(
            f"| {name} | {accuracy(tallies[False])} | {accuracy(tallies[True])} | "
            f"{difference(tallies[True], tallies[False])} | {np.mean(refused[False]):.1f} | "
            f"{np.mean(refused[True]):.1f} |",
            flush=True,
        )


def _clips(sources: Sequence[str], given: Namespace) -> Sequence[Clip]:
    return load_clips([Path(source) for source in sources], cache=Path(given.cache)).clips if sources else ()


def _fold_without(
    given: Namespace,
    clips: Sequence[Clip],
    also: Sequence[Clip],
    folder: Path,
    name: str,
    seed: int,
    fold: int,
    third: int,
) -> tuple[dict[bool, list[ClipPrediction]], dict[bool, float], list[str]]:
    """By whether there is rejection: the predictions on words that were heard, and the share refused of the others."""
    keywords = TrainSettings(keywords=given.keywords).keyword_list or DEFAULT_KEYWORDS
    unheard = sorted({clip.word for clip in clips} - set(keywords))[third::THIRDS]
    speakers = write_fold(folder / "fold.csv", clips, seed, fold, unheard, also)
    with TemporaryDirectory() as runs:
        own = options(given, folder / "fold.csv", runs, FOLDS * seed + fold)
        head = load_checkpoint(ROWS[name](**own).folder / "best.safetensors")
    prepared = _test_split(own, head)
    those = prepared.examples["test"].clips
    scores = _scores(head, prepared.features["test"].array[prepared.features["test"].rows])
    heard, strange = {}, {}
    for rejecting in (False, True):
        calibration = head.calibration if rejecting else Calibration()
        rows = _predictions(those, scores, prepared.examples["test"].labels, head.labels, calibration)
        scored = [
            (clip, row) for clip, row in zip(those, rows, strict=True) if not row.speaker or row.speaker in speakers
        ]
        heard[rejecting] = [row for clip, row in scored if clip.word not in unheard]
        refused = [row.prediction == UNKNOWN for clip, row in scored if clip.word in unheard]
        strange[rejecting] = 100 * float(np.mean(refused))
    return heard, strange, head.labels


def _noise(given: Namespace, folder: Path) -> None:
    background = load_clips([Path(source) for source in given.data], cache=Path(given.cache)).background
    noises = [clip for clip in background if any(name in clip.name for name in KEPT_OUT)]
    sounds = list(read_samples([replace(noise, start=None) for noise in noises]))
    given.data = [_without_noises(Path(source), folder) for source in given.data]
    clips = load_clips([Path(source) for source in given.data], cache=Path(given.cache)).clips
    print("| row | augmentations | clean (%) | " + " | ".join(f"{ratio} dB (%)" for ratio in RATIOS) + " |")
    print("|---" * (3 + len(RATIOS)) + "|", flush=True)
    for name in given.rows:
        for augmentations in given.augmentations:
            tallies: dict[int | None, list[Tally]] = defaultdict(list)
            for seed in given.seeds:
                found: dict[int | None, list[ClipPrediction]] = defaultdict(list)
                for fold in range(given.folds):
                    write_fold(folder / "fold.csv", clips, seed, fold)
                    with TemporaryDirectory() as runs:
                        own = options(given, folder / "fold.csv", runs, FOLDS * seed + fold)
                        run = ROWS[name](**own, augmentations=augmentations)
                        head = load_checkpoint(run.folder / "best.safetensors")
                    prepared = _test_split(own, head)
                    those = prepared.examples["test"]
                    for ratio in (None, *RATIOS):
                        features = _noisy(those.clips, head, Path(given.cache), sounds, ratio)
                        scores = _scores(head, features)
                        found[ratio] += _predictions(those.clips, scores, those.labels, head.labels, Calibration())
                for ratio, predictions in found.items():
                    tallies[ratio].append(Tally.of(predictions, head.labels))
            print(
                f"| {name} | {augmentations:g} | " + " | ".join(accuracy(each) for each in tallies.values()) + " |",
                flush=True,
            )


def _without_noises(source: Path, folder: Path) -> str:
    """A copy of an archive without the recordings that are kept out."""
    copy = folder / source.name
    with tarfile.open(source) as whole, tarfile.open(copy, "w") as part:
        for member in whole:
            if not any(name in member.name for name in KEPT_OUT):
                part.addfile(member, whole.extractfile(member) if member.isfile() else None)
    return str(copy)


def _noisy(
    clips: Sequence[Clip], head: Checkpoint, cache: Path, noises: Sequence[NDArray[np.float32]], ratio: int | None
) -> NDArray[np.float16]:
    """The features of clips with a stretch of one of the noises, kept in the store; silence gets noise as a quiet word
    does. `ratio` None: no noise."""
    store = FeatureStore(cache, head.spec)
    names = {clip.key: clip.key if ratio is None else f"{clip.key}-benchmark-{ratio}dB" for clip in clips}
    known = store.rows(list(names.values()))
    missing = sorted(
        (clip for clip in clips if names[clip.key] not in known), key=lambda clip: (clip.path, clip.offset)
    )
    if missing:
        encode, together = open_encoder(head.spec), batch_size(head.spec, "cpu")
        sounds = _with_noise(missing, noises, int(ratio or 0), round(head.spec.window * SAMPLE_RATE))
        for start in range(0, len(missing), together):
            batch = [names[clip.key] for clip in missing[start : start + together]]
            store.add(batch, encode(np.stack([next(sounds) for _ in batch])))
        known = store.rows(list(names.values()))
    features: NDArray[np.float16] = store.array()[[known[names[clip.key]] for clip in clips]]
    return features


def _with_noise(
    clips: Sequence[Clip], noises: Sequence[NDArray[np.float32]], ratio: int, samples: int
) -> Iterator[NDArray[np.float32]]:
    """What the encoder gets of each clip."""
    for clip, sound in zip(clips, read_samples(clips), strict=True):
        generator = numpy_generator(0, "noise", clip.key, ratio)
        noise = noises[int(generator.integers(len(noises)))]
        first = generator.integers(len(noise) - len(sound))
        yield fit(np.clip(add_noise(sound, noise[first : first + len(sound)], ratio), -1, 1), samples)


def _test_split(own: dict[str, Any], head: Checkpoint) -> Prepared:
    settings = TrainSettings(**{**own, "data": "\n".join(own["data"])}, head=head.head_kind)
    return prepare(settings, ("test",), spec=head.spec, task=Task.of_labels(head.labels))


def _scores(head: Checkpoint, features: NDArray[np.float16]) -> NDArray[np.float32]:
    parts = np.array_split(features, max(1, len(features) // 256))
    return np.concatenate([logits(head.head_kind, head.weights, part.astype(np.float32)) for part in parts])


def _predictions(
    clips: Sequence[Clip], scores: NDArray[np.float32], targets: Sequence[int], labels: list[str], how: Calibration
) -> list[ClipPrediction]:
    predictions, confidences = decide(scores, labels, how)
    rows = zip(clips, targets, predictions, confidences, strict=True)
    return [
        ClipPrediction("test", clip.name, clip.start or 0.0, clip.speaker, labels[target], prediction, sure, sure)
        for clip, target, prediction, sure in rows
    ]


if __name__ == "__main__":
    main()
