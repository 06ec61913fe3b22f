"""What augmented versions in recorded noise and rooms do to a head in closed form: a table of RESULTS.md.

python -m benchmarks.surroundings --data speech_commands_mini.tar --keywords yes,no,up,down,left,right,stop,go

Two background recordings, and rooms drawn by another seed, are kept out of training and put on the test clips. The
other background recordings are the --noise of training; its --rooms are made here, for there are no recorded ones.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from numpy.typing import NDArray

from wordflock.audio.augment import add_noise, add_reverb, level, room
from wordflock.audio.reading import SAMPLE_RATE, fit
from wordflock.data.loading import read_samples
from wordflock.data.task import choose_task, examples
from wordflock.encoder.backend import batch_size, open_encoder, spec_of
from wordflock.encoder.store import Features
from wordflock.head.closed_form import solve
from wordflock.head.torch_head import build_head
from wordflock.head.training import load_solution, predict, scale_statistics_of, statistics_of
from wordflock.prepare import encode_augmented, load_table
from wordflock.randomness import numpy_generator
from wordflock.settings import TrainSettings

KEPT_OUT = ("doing_the_dishes", "exercise_bike")  # recordings
ROOMS, TEST_ROOMS = 60, 20
ROOM_SECONDS, DISTANCE = (0.2, 1.2), (-6.0, 10.0)  # until an echo has fallen by 60 dB; dB, direct sound to echo
RATIOS = (20, 10, 5, 0)  # dB
Samples = NDArray[np.float32]


def main() -> None:
    """Print the table, a row at a time."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--keywords", default="")
    parser.add_argument("--cache", default="")
    parser.add_argument("--versions", type=int, default=1, help="augmented versions of each clip")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        _measure(given.data, given.keywords, given.cache, given.versions, Path(folder))


def _measure(data: str, keywords: str, cache: str, versions: int, folder: Path) -> None:
    plain = TrainSettings(data=data, keywords=keywords, cache=cache, strategy="closed-form", augmentations=0)
    table = load_table(plain)
    task = choose_task(table, plain.keyword_list, plain.silence, plain.unknown)
    kept_out = [clip for clip in table.background if any(name in clip.name for name in KEPT_OUT)]
    others = tuple(clip for clip in table.background if clip not in kept_out)
    noise, rooms = _written(folder / "noise", read_samples(others)), _written(folder / "rooms", _rooms(0, ROOMS))
    train, test = (examples(replace(table, background=others), task, split, 0) for split in ("train", "test"))
    labels = np.array(test.labels)
    conditions = _conditions(list(read_samples(kept_out)))
    sounds = [fit(samples, round(plain.window * SAMPLE_RATE)) for samples in read_samples(test.clips)]
    heard = {name: _encoded([change(s, n) for n, s in enumerate(sounds)], plain) for name, change in conditions.items()}
    print("| closed form trained with | " + " | ".join(conditions) + " |\n|---" + "|---" * len(conditions) + "|")
    for name, row in {
        "clips as they are": plain,
        "the default, three tenths replaced": replace(plain, augmentations=TrainSettings.augmentations),
        f"--augmentations {versions}": replace(plain, augmentations=versions),
        "and --noise": replace(plain, augmentations=versions, noise=noise),
        "and --rooms": replace(plain, augmentations=versions, noise=noise, rooms=rooms),
    }.items():
        features = encode_augmented(train.clips, train.labels, spec_of(row), row, row)
        _, frames, width = features.array.shape
        head = build_head(row.head, frames, width, len(task.labels), seed=0)
        scale = scale_statistics_of(head, features, len(task.labels)).scale()
        load_solution(head, solve(statistics_of(head, features, scale), scale))
        right = [predict(head, Features(x, np.arange(len(x)), labels)).argmax(axis=1) == labels for x in heard.values()]
        print(f"| {name} | " + " | ".join(f"{100 * r.mean():.1f}" for r in right) + " |", flush=True)


def _conditions(noises: Sequence[Samples]) -> dict[str, Callable[[Samples, int], Samples]]:
    """What is done to test clip number n, by name."""
    rooms = list(_rooms(1, TEST_ROOMS))

    def in_room(clip: Samples, n: int) -> Samples:
        wet = add_reverb(clip, rooms[n % len(rooms)].astype(np.float64))
        return wet * np.float32(level(clip) / max(level(wet), 1e-9))

    def in_noise(clip: Samples, n: int, ratio: float) -> Samples:
        generator = numpy_generator(0, "noise", n)
        noise = noises[int(generator.integers(len(noises)))]
        start = int(generator.integers(len(noise) - len(clip)))
        return np.clip(add_noise(clip, noise[start : start + len(clip)], ratio), -1, 1)

    noisy = {f"{ratio} dB": partial(in_noise, ratio=ratio) for ratio in RATIOS}
    return {
        "clean": lambda clip, n: clip,
        **noisy,
        "room": in_room,
        "room, 10 dB": lambda clip, n: in_noise(in_room(clip, n), n, 10),
    }


def _rooms(seed: int, count: int) -> Iterator[Samples]:
    generator = numpy_generator(seed, "rooms")
    for _ in range(count):
        response = room(generator.uniform(*ROOM_SECONDS), DISTANCE, generator)
        yield (response / np.abs(response).max() * 0.9).astype(np.float32)


def _written(folder: Path, sounds: Iterator[Samples]) -> str:
    folder.mkdir()
    for number, samples in enumerate(sounds):
        soundfile.write(folder / f"{number}.wav", samples, SAMPLE_RATE)
    return str(folder)


def _encoded(sounds: Sequence[Samples], settings: TrainSettings) -> NDArray[np.float16]:
    spec = spec_of(settings)
    encode, together = open_encoder(spec, "cpu"), batch_size(spec, "cpu")
    batches = [np.stack(sounds[start : start + together]) for start in range(0, len(sounds), together)]
    return np.concatenate([encode(batch) for batch in batches])


if __name__ == "__main__":
    main()
