"""Where the window is placed on recordings longer than it: `python -m benchmarks.placement --data wake_words.tar`.

Accuracy by clip of the linear closed-form head with windows at the loudest stretch, and at the voice; and with all
windows, 0.1 s apart, of which the one counts that is surest of a keyword. `--others` adds single words as `_unknown_`.

Names do not say who speaks in these recordings. Recordings of a label whose noise floors are within 6 dB of each other
in every band count as of one speaker and room, which is never in training and test; intervals are of a bootstrap over
these groups.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.audio.spans import loudest
from wordflock.audio.voice import DIGITAL_SILENCE, HOP, levels, voiced
from wordflock.data.clips import Clip
from wordflock.data.loading import load_clips, read_samples
from wordflock.data.task import UNKNOWN
from wordflock.encoder.backend import device, spec_of
from wordflock.encoder.store import encode_clips
from wordflock.head.closed_form import ScaleStatistics, Statistics, solve
from wordflock.randomness import numpy_generator
from wordflock.settings import Settings

FOLDS, SEEDS, SLIDE, ALIKE, OTHERS = 5, 3, 0.1, 6.0, 300

Clips = Sequence[Clip]
Scores = NDArray[np.float64]


def main() -> None:
    """Print a row for each pair of placements in training and in use."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--others", default="", help="data set of single words")
    parser.add_argument("--cache", default="")
    given = parser.parse_args()
    settings = Settings(data=given.data, cache=given.cache, head="linear", layer="2+3+last")
    clips = sorted(load_clips(given.data, cache=settings.cache_folder).clips, key=lambda c: (c.path, c.offset))
    sounds = list(read_samples(clips))
    groups = alike(clips, sounds)
    for clip in other_words(given.others, settings.cache_folder):
        clips, sounds, groups = [*clips, clip], [*sounds, np.zeros(0, np.float32)], [*groups, clip.speaker]
    names = [*sorted({clip.word for clip in clips} - {UNKNOWN}), UNKNOWN]
    labels = np.array([names.index(clip.word) for clip in clips])
    seconds = round(settings.window * SAMPLE_RATE)
    starts = {
        "loudest": [[loudest(sound, seconds) if len(sound) > seconds else 0] for sound in sounds],
        "voice": [[spoken(sound, seconds)] for sound in sounds],
        "sliding": [list(range(0, max(1, len(s) - seconds + 1), round(SLIDE * SAMPLE_RATE))) for s in sounds],
    }
    features = {name: encoded(clips, places, settings) for name, places in starts.items()}
    long = np.array([clip.seconds > settings.window for clip in clips])
    print(f"{len(clips)} clips, {long.sum()} longer than {settings.window} s, {len(set(groups))} groups, {names}")
    right: dict[tuple[str, str], list[NDArray[np.bool_]]] = defaultdict(list)
    for seed in range(SEEDS):
        fold = dealt(groups, seed)
        for training in ("loudest", "voice"):
            for use in ("loudest", "voice", "sliding"):
                right[training, use].append(scored(features[training], features[use], labels, fold) == labels)
    first = np.mean(right["loudest", "loudest"], axis=0)
    for (training, use), found in right.items():
        print(row(f"{training}, {use}", np.mean(found, axis=0), first, np.array(groups), long, labels))


def alike(clips: Clips, sounds: Sequence[NDArray[np.float32]]) -> list[str]:
    """A name for the speaker and room of each recording, by its noise."""
    from scipy.cluster.hierarchy import fcluster, linkage

    floors = np.array([noise_floor(levels([sound])) for sound in sounds])
    names = [""] * len(clips)
    for word in {clip.word for clip in clips}:
        places = [i for i, clip in enumerate(clips) if clip.word == word]
        found = fcluster(linkage(floors[places], "complete", "chebyshev"), ALIKE, "distance")
        for place, number in zip(places, found, strict=True):
            names[place] = f"{word} {number}"
    return names


def noise_floor(level: NDArray[np.float32]) -> NDArray[np.float64]:
    """The level of the noise in each band."""
    heard = level[level.max(axis=1) > DIGITAL_SILENCE]
    return np.asarray(np.percentile(heard if len(heard) else level, 15, axis=0))


def spoken(sound: NDArray[np.float32], length: int) -> int:
    """Where the window with most of what is spoken begins: the middle of all such places."""
    if len(sound) <= length:
        return 0
    if not (stretches := voiced(sound)):
        return loudest(sound, length)
    frames = np.zeros(len(sound) // HOP + 1)
    for start, end in stretches:
        frames[round(start * SAMPLE_RATE / HOP) : round(end * SAMPLE_RATE / HOP)] = 1
    total = np.concatenate(([0.0], np.cumsum(frames)))
    inside = total[length // HOP :] - total[: -(length // HOP)]
    best = np.flatnonzero(inside == inside.max())
    together = best[best - best[0] == np.arange(len(best))]
    return min(int(together[len(together) // 2]) * HOP, len(sound) - length)


def other_words(source: str, cache: Path) -> list[Clip]:
    """Single words of a data set, one a speaker, as `_unknown_`."""
    if not source:
        return []
    of_speaker = {clip.speaker: replace(clip, word=UNKNOWN) for clip in load_clips(source, cache=cache).clips}
    chosen = numpy_generator(0, "others").permutation(sorted(of_speaker))[:OTHERS]
    return [of_speaker[name] for name in chosen]


def encoded(clips: Clips, starts: Sequence[Sequence[int]], settings: Settings) -> list[NDArray[np.float32]]:
    """Representations of each clip's windows that start at these samples, shape (windows, d) for each clip."""
    windows = [
        replace(clip, start=start / SAMPLE_RATE, seconds=settings.window) if clip.seconds > settings.window else clip
        for clip, those in zip(clips, starts, strict=True)
        for start in those
    ]
    found = encode_clips(windows, [0] * len(windows), spec_of(settings), settings.cache_folder, device(settings))
    z = found.array[found.rows].reshape(len(windows), -1).astype(np.float32)
    return np.split(z, np.cumsum([len(those) for those in starts])[:-1])


def dealt(groups: Sequence[str], seed: int) -> NDArray[np.int64]:
    """The fold of each clip: groups of each label are dealt, the largest first, to the fold with the fewest clips."""
    generator = numpy_generator(seed, "placement")
    names, sizes = np.unique(groups, return_counts=True)
    order = np.lexsort((generator.random(len(names)), -(sizes // 8)))
    filled: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(FOLDS, np.int64))
    fold = {}
    for place in order:
        counts = filled[str(names[place]).split(" ")[0]]
        fold[names[place]] = int(generator.choice(np.flatnonzero(counts == counts.min())))
        counts[fold[names[place]]] += sizes[place]
    return np.array([fold[group] for group in groups])


def scored(
    training: list[NDArray[np.float32]],
    use: list[NDArray[np.float32]],
    labels: NDArray[np.int64],
    fold: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The label of each clip by a head that saw no clip of its fold; the last label is `_unknown_`."""
    found = np.zeros(len(labels), np.int64)
    count = int(labels.max()) + 1
    for number in range(FOLDS):
        seen, unseen = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        z = np.concatenate([training[i] for i in seen])
        scale = ScaleStatistics.of(z, labels[seen], count).scale()
        solution = solve(Statistics.of(z, labels[seen], scale), scale)
        for i in unseen:
            scores: Scores = use[i] @ solution.weight.T + solution.bias
            surest = int(np.argmax(scores[:, :-1].max(axis=1) - scores[:, -1]))
            found[i] = int(scores[surest].argmax())
    return found


def row(
    name: str, right: Scores, first: Scores, groups: NDArray[np.str_], long: NDArray[np.bool_], labels: Scores
) -> str:
    """Accuracy, its difference from the first row with an interval, and that of clips longer than the window."""
    generator = numpy_generator(0, "bootstrap")
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    sums = np.array([((right - first)[those].sum(), len(those)) for those in members])
    drawn = generator.integers(len(sums), size=(2000, len(sums)))
    low, high = np.quantile(sums[drawn, 0].sum(axis=1) / sums[drawn, 1].sum(axis=1), (0.025, 0.975))
    recalls = " ".join(f"{right[labels == label].mean():.3f}" for label in np.unique(labels))
    return (
        f"| {name} | {100 * right.mean():.2f} | {100 * (right - first).mean():+.2f} "
        f"[{100 * low:+.2f}, {100 * high:+.2f}] | {100 * right[long].mean():.2f} | {recalls} |"
    )


if __name__ == "__main__":
    main()
