"""Wake words from few recordings, trained and measured by the product: a table of RESULTS.md.

    python -m benchmarks.hearing --words wake_words.tar --talk continuous_speech.tar --cache FOLDER [--step 4]

For each number of recordings, seed, fold of the talk and strategy a head is trained as `wordflock train --data WORDS
--negatives TALK` does. It listens to recordings of the words that it was not trained on, in noise of 10 dB, and to the
readers of the other fold. Two tables: thresholds chosen on one half of the streams for a target and reported on the
other, as `evaluate-stream --target` does; and misses where each word's threshold is the loudest moment of all negatives
(no alarm at all), of the talk alone, and with recordings of `_unknown_` phrases that sound like the words.
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path

import numpy as np

from benchmarks.streams import said, traces_on
from wordflock.centralized import train
from wordflock.data.clips import Clip
from wordflock.data.listing import Reader
from wordflock.data.loading import load_clips
from wordflock.data.task import UNKNOWN
from wordflock.head.checkpoint import load_checkpoint
from wordflock.progress import print_line, reporting
from wordflock.randomness import numpy_generator
from wordflock.runs import find_checkpoint
from wordflock.settings import CLOSED_FORM, TrainSettings
from wordflock.spotting.listener import listener_of
from wordflock.spotting.stream_evaluation import halves
from wordflock.spotting.stream_score import StreamScore, Trace, alarm_rate, choose_thresholds, means, miss_rate, score
from wordflock.spotting.streams import negative_recordings, placed, recorded

RATIO = 10.0  # dB
FOLDS = 2


@dataclass(frozen=True)
class Trained:
    """A head, and what it is not measured on."""

    run: str
    recordings: int
    strategy: str
    names: frozenset[str]  # of the recordings that it was trained on
    talk: frozenset[str]


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--words", required=True)
    parser.add_argument("--talk", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--recordings", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--strategies", nargs="+", default=["gradient", CLOSED_FORM])
    parser.add_argument("--step", type=int, default=1, help="every so many recordings of the words are listened to")
    parser.add_argument("--target", type=float, default=0.5)
    given = parser.parse_args()
    words = load_clips(given.words, cache=given.cache).clips
    talk = negative_recordings(given.talk, given.cache)
    with tempfile.TemporaryDirectory() as folder, reporting(print_line):
        folds = list(two_folds(talk))
        for number, fold in enumerate(folds):
            copied(fold, Path(folder) / f"talk{number}", by_word=False)
        for strategy in given.strategies:
            heads = list(trained(words, folds, strategy, given, Path(folder)))
            for line in measured(heads, words, talk, given):
                print(line, flush=True)


def two_folds(talk: Sequence[Clip]) -> Iterator[list[Clip]]:
    """The recordings of half of the readers each, about as long; a reader is what stands before a name's first dash."""
    seconds: dict[str, float] = defaultdict(float)
    for clip in talk:
        seconds[clip.name.split("-")[0]] += clip.seconds
    readers: list[set[str]] = [set() for _ in range(FOLDS)]
    for reader in sorted(seconds, key=lambda one: -seconds[one]):
        min(readers, key=lambda fold: sum(seconds[one] for one in fold)).add(reader)
    yield from ([clip for clip in talk if clip.name.split("-")[0] in fold] for fold in readers)


def copied(clips: Sequence[Clip], folder: Path, *, by_word: bool) -> None:
    """The recordings as files."""
    with Reader() as reader:
        for clip in clips:
            path = folder / (clip.word if by_word else "") / Path(clip.name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(reader.read_bytes(clip))


def trained(
    words: Sequence[Clip], folds: Sequence[Sequence[Clip]], strategy: str, given: Namespace, folder: Path
) -> Iterator[Trained]:
    """A head for each number of recordings, seed and fold of the talk."""
    names = sorted({clip.word for clip in words} - {UNKNOWN})
    for count, seed, fold in product(given.recordings, range(given.seeds), range(FOLDS)):
        generator, chosen = numpy_generator(seed, "recordings"), list[Clip]()
        for word in names:
            of_word = [clip for clip in words if clip.word == word]
            chosen += [of_word[place] for place in generator.permutation(len(of_word))[:count]]
        data, name = folder / f"{count}-{seed}", f"{strategy}-{count}-{seed}-{fold}"
        copied(chosen, data, by_word=True)
        settings = TrainSettings(
            data=str(data),
            negatives=str(folder / f"talk{fold}"),
            strategy=strategy,
            seed=seed,
            cache=str(given.cache),
            runs=str(folder / "runs"),
            name=name,
        )
        run = str(train(settings))
        yield Trained(
            run, count, strategy, frozenset(clip.name for clip in chosen), frozenset(clip.name for clip in folds[fold])
        )


def measured(heads: Sequence[Trained], words: Sequence[Clip], talk: Sequence[Clip], given: Namespace) -> Iterator[str]:
    """The lines of both tables for heads of one strategy, which hear the same streams."""
    checkpoints = {head.run: load_checkpoint(find_checkpoint(head.run)) for head in heads}
    positives = [clip for clip in words if clip.word != UNKNOWN][:: given.step]
    alike = [clip for clip in words if clip.word == UNKNOWN]
    streams = chain(placed(positives, [RATIO]), recorded(talk), recorded(alike))
    traces = traces_on(streams, checkpoints)
    named = {clip.name for clip in alike}
    for count in given.recordings:
        scored = [_scored(head, traces[head.run], named, given.target) for head in heads if head.recordings == count]
        what = f"{heads[0].strategy}, {count} recordings"
        misses = miss_rate(sum(one.half.misses.count for one in scored), sum(int(one.half.misses.of) for one in scored))
        alarms = [one.half.false_alarms for one in scored]
        chosen = said(misses, alarm_rate(sum(one.count for one in alarms), sum(one.of for one in alarms)))
        yield f"{what}: thresholds of one half for {given.target:g}/h, on the other: {chosen}"
        yield from _table(f"{what}: no alarm in the talk", [one.in_talk for one in scored])
        yield from _table(f"{what}: nor in phrases that sound alike", [one.in_all for one in scored])


Counts = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class _Scored:
    half: StreamScore  # at the thresholds of the other half
    in_talk: Counts  # misses and words of each word without any alarm in the talk
    in_all: Counts  # and with phrases that sound alike


def _scored(head: Trained, traces: Sequence[Trace], alike: set[str], target: float) -> _Scored:
    listener = listener_of(load_checkpoint(find_checkpoint(head.run)), head.run)
    unheard = [one for one in traces if one.stream.source not in head.names | head.talk]
    words, others = ([one for one in unheard if bool(one.stream.word) is wanted] for wanted in (True, False))
    read = [one for one in others if one.stream.source not in alike]
    choosing, rest = halves(words, read)
    rule = replace(listener.rule, thresholds=choose_thresholds(choosing, listener, listener.rule, target))

    def silent(negatives: Sequence[Trace]) -> Counts:
        loudest = np.max([means(one.probabilities, rule).max(axis=0) for one in negatives], axis=0)
        counts = {}
        for place, word in enumerate(listener.keywords):
            own = [means(one.probabilities, rule)[:, place].max() for one in words if one.stream.word == word]
            counts[word] = (sum(peak <= loudest[place] for peak in own), len(own))
        return counts

    return _Scored(score(rest, listener, rule), silent(read), silent(others))


def _table(what: str, counts: Sequence[Counts]) -> Iterator[str]:
    rates = {word: miss_rate(sum(c[word][0] for c in counts), sum(c[word][1] for c in counts)) for word in counts[0]}
    each = (f"{word} {100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]" for word, one in rates.items())
    yield f"{what}: {100 * np.mean([one.value for one in rates.values()]):.1f}% missed: {', '.join(each)}"


if __name__ == "__main__":
    main()
