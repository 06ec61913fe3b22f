"""What a detector of a run costs, and what its gate and its precision change, on real sound.

    python -m benchmarks.streams RUN --positives speech_commands_mini.tar --negatives TALK [--clips 80]

Misses and false alarms are what `wordflock evaluate-stream` prints.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.errors import WordflockError
from wordflock.head.checkpoint import load_checkpoint
from wordflock.runs import find_checkpoint, find_run, read_config
from wordflock.settings import Settings, default_cache
from wordflock.spotting.detector import Detector
from wordflock.spotting.export import compare_precisions
from wordflock.spotting.listener import Listener, open_listener
from wordflock.spotting.streams import Samples, negative_recordings, placed, positive_clips, recorded

SECONDS = 60  # of each kind of sound whose load is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--positives", required=True)
    parser.add_argument("--negatives", required=True)
    parser.add_argument("--clips", type=int, default=80)
    parser.add_argument("--cache", type=Path, default=default_cache())
    given = parser.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    listener = open_listener(given.run)
    for line in (*load(listener, talk(given.negatives, given.cache)), *gate(listener, given)):
        print(line, flush=True)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"peak memory of detector and sound above what was imported: {used / 1024:.0f} MB", flush=True)
    checkpoint = load_checkpoint(find_checkpoint(given.run))
    settings = Settings.from_config(read_config(find_run(given.run)))
    for precision in ("float16", "int8"):
        try:
            for one in compare_precisions(checkpoint, given.run, precision, settings):
                print(f"{one.precision}: accuracy {one.accuracy:.4f} on {one.clips} clips, {one.milliseconds:.1f} ms")
        except WordflockError as error:
            print(error)


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


def gate(listener: Listener, given: argparse.Namespace) -> Iterator[str]:
    """Whether clips placed in noise give the same events with and without the gate."""
    clips = positive_clips(given.positives, listener.keywords, "test", given.cache)
    chosen, asked = clips[:: max(1, len(clips) // given.clips)], [0, 0]
    same = events = 0
    for stream in placed(chosen, (30.0, 10.0)):
        found = []
        for place, gated in enumerate((True, False)):

            def ask(log_mel: Samples, place: int = place) -> np.ndarray:  # type: ignore[type-arg]
                asked[place] += 1
                return listener.ask(log_mel)

            found.append(list(Detector(replace(listener, ask=ask), gate=gated).stream([stream.sound])))
        same += found[0] == found[1]
        events += len(found[1])
    share = asked[0] / max(asked[1], 1)
    yield f"gate: the same events in {same} of {len(chosen)} streams ({events} events), {share:.3f} of windows asked"


if __name__ == "__main__":
    main()
