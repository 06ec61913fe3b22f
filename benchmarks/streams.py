"""What a detector of a run costs, and what its gate and its precision change, on real sound.

    python -m benchmarks.streams RUN --positives speech_commands_mini.tar --negatives TALK [--step 8]

Of several runs with features of one kind: misses against false alarms on the same streams, the encoder's work shared.
"""

from __future__ import annotations

import argparse
import itertools
import math
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.encoder.onnx_encoder import build_onnx_encoder
from wordflock.encoder.spec import weights_for
from wordflock.errors import WordflockError
from wordflock.head.calibration import probabilities
from wordflock.head.checkpoint import Checkpoint, load_checkpoint
from wordflock.head.numpy_head import logits
from wordflock.runs import find_checkpoint, find_run, read_config
from wordflock.settings import Settings, default_cache
from wordflock.spotting.attention import Attention
from wordflock.spotting.detector import Detector
from wordflock.spotting.export import compare_precisions, export
from wordflock.spotting.listener import Listener, keyword_places, listener_of, open_listener
from wordflock.spotting.stream_evaluation import RATIOS, halves
from wordflock.spotting.stream_score import Rate, Trace, choose_thresholds, det_curve, score, trace
from wordflock.spotting.streams import AROUND, Samples, Stream, negative_recordings, placed, positive_clips, recorded
from wordflock.spotting.windows import FLOOR_SECONDS, Window

SECONDS = 60  # of each kind of sound whose load is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--target", type=float, default=1.0)
    parser.add_argument("--positives", required=True)
    parser.add_argument("--negatives", required=True)
    parser.add_argument("--step", type=int, default=8, help="every so many clips are placed in a stream")
    parser.add_argument("--cache", type=Path, default=default_cache())
    given = parser.parse_args()
    if len(given.runs) > 1:
        compare(given)
        return
    (run,) = given.runs
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    listener = open_listener(run)
    for line in itertools.chain(
        load(listener, talk(given.negatives, given.cache)), gate(listener, given), day(listener)
    ):
        print(line, flush=True)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"peak memory of detector and sound above what was imported: {used / 1024:.0f} MB", flush=True)
    checkpoint = load_checkpoint(find_checkpoint(run))
    settings = Settings.from_config(read_config(find_run(run)))
    for precision in ("float16", "int8"):
        try:
            for one in compare_precisions(checkpoint, run, precision, settings):
                print(f"{one.precision}: accuracy {one.accuracy:.4f} on {one.clips} clips, {one.milliseconds:.1f} ms")
        except WordflockError as error:
            print(error)
    with tempfile.TemporaryDirectory() as folder:
        small = open_listener(export(checkpoint, run, Path(folder), "int8"))
        for line in load(small, talk(given.negatives, given.cache)):
            print(f"int8: {line}", flush=True)


def compare(given: argparse.Namespace) -> None:
    """Misses against false alarms of several heads."""
    checkpoints = {run: load_checkpoint(find_checkpoint(run)) for run in given.runs}
    if len({checkpoint.spec.kind for checkpoint in checkpoints.values()}) > 1:
        raise WordflockError("The heads have features of several kinds; compare those of one kind.")
    keywords = open_listener(given.runs[0]).keywords
    clips = positive_clips(given.positives, keywords, "test", given.cache)[:: given.step]
    streams = itertools.chain(placed(clips, RATIOS), recorded(negative_recordings(given.negatives, given.cache)))
    for run, traces in traces_on(streams, checkpoints).items():
        print(run)
        for line in misses_and_alarms(traces, listener_of(checkpoints[run], run), given.target):
            print(f"  {line}", flush=True)


def traces_on(streams: Iterable[Stream], checkpoints: dict[str, Checkpoint]) -> dict[str, list[Trace]]:
    """What a detector of each head hears in streams, without the gate; the encoder hears each stream once for all."""
    some_run, checkpoint = next(iter(checkpoints.items()))
    encoder, listener = build_onnx_encoder(checkpoint.spec, *weights_for(checkpoint.spec)), open_listener(some_run)
    features = list[Samples]()

    def ask(log_mel: Samples) -> NDArray[np.float64]:
        features.append(encoder.session.run(None, {"log_mel": log_mel})[0][0])
        return np.ones(len(listener.keywords))  # likely, so that every window is asked

    traces: dict[str, list[Trace]] = {run: [] for run in checkpoints}
    for stream in streams:
        features.clear()
        heard = trace(replace(listener, ask=ask), stream, gate=False)
        for run, head in checkpoints.items():
            scores = logits(head.head_kind, head.weights, np.stack(features), head.projection)
            shares = probabilities(scores / np.float32(head.calibration.temperature))
            rows = asked(shares[:, keyword_places(head.labels)[0]], listener)
            traces[run].append(replace(heard, probabilities=rows))
    return traces


def asked(every: NDArray[np.float64], listener: Listener) -> NDArray[np.float64]:
    """What is left of the probabilities of all windows where a detector asks about as few as it does."""
    attention = Attention(replace(listener, ask=lambda place: every[int(place)]), gate=False)
    ends = (np.arange(len(every)) + 1) * round(listener.hop * SAMPLE_RATE)
    windows = (Window(int(end), np.float32(place), True) for place, end in enumerate(ends))  # type: ignore[arg-type]
    return np.array([attention(window) for window in windows]).reshape(every.shape)


def misses_and_alarms(traces: list[Trace], listener: Listener, target: float) -> Iterator[str]:
    """Thresholds of one half on the other; then one threshold for all keywords, on all streams."""
    words, others = ([one for one in traces if bool(one.stream.word) is wanted] for wanted in (True, False))
    choosing, rest = halves(words, others)
    rule = replace(listener.rule, thresholds=choose_thresholds(choosing, listener, listener.rule, target))
    scored = score(rest, listener, rule)
    yield f"thresholds of one half, for {target:g}/h, on the other: {said(scored.misses, scored.false_alarms)}"
    yield f"latency {scored.latency[0]:.2f} s, 95th percentile {scored.latency[1]:.2f} s"
    curve = det_curve(traces, listener, listener.rule)
    for most in (0.02, 0.05, 0.1, 0.2):
        for threshold, misses, alarms in [point for point in curve if point[1].value <= most][-1:]:
            yield f"one threshold for all, {threshold:.3f}: {said(misses, alarms)}"


def said(misses: Rate, alarms: Rate) -> str:
    """Both rates with their intervals and counts."""
    return (
        f"misses {100 * misses.value:.1f}% [{100 * misses.low:.1f}, {100 * misses.high:.1f}] of {misses.of:.0f}, "
        f"{alarms.count} alarms in {alarms.of:.2f} h: {alarms.value:.1f}/h [{alarms.low:.1f}, {alarms.high:.1f}]"
    )


def talk(source: str, cache: Path) -> Samples:
    """SECONDS of read speech."""
    sounds = [stream.sound for stream in recorded(negative_recordings(source, cache)[:10])]
    return np.concatenate(sounds)[: SECONDS * SAMPLE_RATE]


def load(listener: Listener, speech: Samples) -> Iterator[str]:
    """Seconds of the processor for a second of sound."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal(SECONDS * SAMPLE_RATE).astype(np.float32)
    kinds = {"talk": speech, "noise": noise * np.float32(0.1), "faint noise": noise * np.float32(1e-3)}
    for name, sound in {**kinds, "digital silence": np.zeros_like(noise)}.items():
        for gated in (True, False):
            started, detector = time.process_time(), Detector(listener, gate=gated)
            for first in range(0, len(sound), 1_600):
                detector.feed(sound[first : first + 1_600])
            factor = (time.process_time() - started) / (len(sound) / SAMPLE_RATE)
            yield f"{name}, gate {'on' if gated else 'off'}: real-time factor {factor:.4f}"


def day(listener: Listener) -> Iterator[str]:
    """The memory of a detector that is fed a day of sound: digital silence, and ten seconds of noise every hour."""
    detector, silence = Detector(listener), np.zeros(SAMPLE_RATE, np.float32)
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32) * np.float32(0.1)
    for hour in range(24):
        for second in range(3_600):
            detector.feed(noise if second < 10 else silence)
        if hour % 6 == 0 or hour == 23:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            yield f"after {hour + 1} hours of sound: {pages * resource.getpagesize() / 1e6:.1f} MB"


def gate(listener: Listener, given: argparse.Namespace) -> Iterator[str]:
    """Whether clips placed in noise give the same events with and without the gate."""
    chosen, asked = positive_clips(given.positives, listener.keywords, "test", given.cache)[:: given.step], [0, 0]
    same = events = 0
    for stream in placed(chosen, RATIOS):
        # The noise before the word for longer than the gate looks back, else it asks about every window.
        noise = np.tile(stream.sound[: round(AROUND * SAMPLE_RATE)], math.ceil(2 * FLOOR_SECONDS / AROUND))
        found = []
        for place, gated in enumerate((True, False)):

            def ask(log_mel: Samples, place: int = place) -> NDArray[np.float64]:
                asked[place] += 1
                return listener.ask(log_mel)

            found.append(list(Detector(replace(listener, ask=ask), gate=gated).stream([noise, stream.sound])))
        same += found[0] == found[1]
        events += len(found[1])
    share = asked[0] / max(asked[1], 1)
    yield f"gate: the same events in {same} of {len(chosen)} streams ({events} events), {share:.3f} of windows asked"


if __name__ == "__main__":
    main()
